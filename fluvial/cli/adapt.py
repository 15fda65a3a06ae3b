"""`fluvial adapt`: prepare models for learning."""

import time
from pathlib import Path

import click

from fluvial.cli.installed import ensure_model
from fluvial.cli.option import (
    config_option,
    data_dir_option,
    json_option,
    load_settings,
    print_json,
)


@click.group()
def adapt() -> None:
    """Prepare models for learning."""


@adapt.command()
@click.argument("model")
@data_dir_option
@config_option
@json_option
def calibrate(model: str, data_dir: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Make MODEL's basis anew: the first factors that new sessions start from, and leeways.

    Factors are whitened by what the model's layers see in neutral conversations, and outputs that
    these lean on are moved less (their leeway), so that what a session learns touches its other
    answers less. It happens by itself when a model learns for the
    first time, unless the package has its basis; versions that stand on an older one keep it.
    """
    settings = load_settings(config_file, data_dir=data_dir, model=model)
    path = ensure_model(settings.model, settings)
    from fluvial.adapt.calibration import ensure_basis
    from fluvial.adapt.learner import Learner
    from fluvial.adapt.rule import Rule
    from fluvial.model.basis import FOLDER, Bases
    from fluvial.model.opening import open_model, open_tokenizer

    begun_s = time.monotonic()
    checkpoint = open_model(path)
    positions = min(settings.context_tokens, checkpoint.declaration.context_tokens)
    learner = Learner(
        checkpoint,
        rule=Rule.from_settings(settings, checkpoint.declaration).fit(positions),
        graph_dir=settings.data_dir / "graphs" if settings.weights == "packed" else None,
        positions=positions,
    )
    learner.use_threads(settings.learner_threads or 1)
    basis = ensure_basis(
        learner,
        checkpoint,
        bases=Bases(settings.data_dir / FOLDER),
        tokenizer=open_tokenizer(checkpoint),
        again=True,
    )
    if basis is None:
        raise click.ClickException(f"{model} runs in float32 only; its first factors stay random")
    told = {
        "model": settings.model,
        "basis": basis.sha256,
        "rank": learner.rule.rank,
        "bytes": sum(each.nbytes for each in (*basis.tensors.values(), *basis.leeways.values())),
        "seconds": round(time.monotonic() - begun_s, 1),
    }
    if as_json:
        print_json(told)
        return
    click.echo(
        f"{told['model']}: basis {basis.sha256[:12]} of rank {told['rank']}, "
        f"{told['bytes']:,} bytes, in {told['seconds']} s; new sessions start from it"
    )
