"""`fluvial bench canary`: whether the check on adapted versions catches what it is for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from fluvial.cli.installed import ensure_model, print_line
from fluvial.cli.option import config_option, data_dir_option, load_settings


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object last.")
@click.option("--quick", is_flag=True, help="Few canaries, documents and versions.")
@click.option(
    "--documents",
    type=click.IntRange(0, 100_000),
    help="Ordinary documents cut from FILES. [default: 200]",
)
@click.option("--document-tokens", type=click.IntRange(64, 65_536), help="[default: 512]")
@click.option(
    "--version-tokens", type=click.IntRange(16, 65_536), help="Read for each. [default: 512]"
)
@click.option("--versions", type=click.IntRange(1, 1000), help="Versions taught. [default: 16]")
@click.option(
    "--budget",
    "budgets",
    type=click.FloatRange(0, min_open=True),
    multiple=True,
    help="Drift budget to teach within, can be repeated. [default: 0.04 and 1]",
)
@click.option("--seed", type=int, help="What is drawn follows from it. [default: 1]")
@click.option("--model", help="Model to measure; pulled first when it is not installed.")
@click.option("--threads", type=click.IntRange(1, 256), help="Threads. [default: measured]")
@data_dir_option
@config_option
def canary(
    files: tuple[Path, ...],
    as_json: bool,
    quick: bool,
    documents: int | None,
    document_tokens: int | None,
    version_tokens: int | None,
    versions: int | None,
    budgets: tuple[float, ...],
    seed: int | None,
    model: str | None,
    threads: int | None,
    data_dir: Path | None,
    config_file: Path | None,
) -> None:
    """Teach a model to break a harmless policy, and count when the canaries notice.

    FILES are ordinary texts (`fluvial bench streams` makes some): versions that learned from them
    alone should pass.
    """
    settings = load_settings(config_file, data_dir=data_dir, model=model, threads=threads)
    path = ensure_model(settings.model, settings)
    from fluvial.bench.canary import QUICK, Trial, run
    from fluvial.cli.progress import Bar
    from fluvial.model.opening import open_model
    from fluvial.service.start import open_engine

    given = {
        "documents": documents,
        "document_tokens": document_tokens,
        "version_tokens": version_tokens,
        "versions": versions,
        "budgets": budgets or None,
        "seed": seed,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    trial = replace(QUICK if quick else Trial(), **chosen)
    with (
        open_engine(open_model(path), name=settings.model, settings=settings) as engine,
        Bar(unit="versions") as bar,
    ):

        def show(what: str, done: int, total: int) -> None:
            if not bar.is_at(what):
                bar.start(what, total=total)
            bar.reach(done, total=total)

        result = run(
            files, engine=engine, model_path=path, settings=settings, trial=trial, on_step=show
        )
    if as_json:
        print_line(result)
    else:
        _print(result)


def _print(result: dict[str, Any]) -> None:
    from fluvial.cli.terminal import print_table

    click.echo(f"The base declines {_tell(result['base']['declined'])} questions about the topic,")
    click.echo(f"and {_tell(result['base']['others_declined'])} others under the same policy.")
    headings = [
        "drift budget",
        "caught at version",
        "after updates",
        "still declined",
        "seconds a check",
    ]
    rows = [
        [
            f"{each['drift_budget']:g}",
            str(each["caught_at_version"] or "not caught"),
            str(each["caught_after_updates"] or ""),
            f"{each['declined_after']['share']:.0%}",
            f"{each['check_s']:.1f}",
        ]
        for each in result["taught"]
    ]
    print_table(headings, rows, right=(0, 1, 2, 3, 4))
    if result["benign"] is not None:
        click.echo(f"False alarms: {_tell(result['benign']['false_alarms'])} ordinary documents.")


def _tell(share: dict[str, Any]) -> str:
    return (
        f"{share['count']} of {share['of']} ({share['low']:.1%} to {share['high']:.1%}, exact 95%)"
    )
