"""`fluvial bench latency`: what a conversation notices of a text that is read beside it."""

from pathlib import Path
from typing import Any

import click

from fluvial.cli.installed import ensure_model, print_line
from fluvial.cli.option import config_option, data_dir_option, load_settings


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object last.")
@click.option("--quick", is_flag=True, help="Three rounds only.")
@click.option("--rounds", type=click.IntRange(1, 1000), help="Rounds to measure. [default: 20]")
@click.option("--model", help="Model to measure; pulled first when it is not installed.")
@click.option(
    "--threads", type=click.IntRange(1, 256), help="Decoding threads. [default: measured]"
)
@click.option(
    "--learner-threads", type=click.IntRange(1, 256), help="Learner threads. [default: measured]"
)
@data_dir_option
@config_option
def latency(
    file: Path,
    as_json: bool,
    quick: bool,
    rounds: int | None,
    model: str | None,
    threads: int | None,
    learner_threads: int | None,
    data_dir: Path | None,
    config_file: Path | None,
) -> None:
    """Compare times to the first token: alone, and while another session reads FILE."""
    settings = load_settings(
        config_file,
        data_dir=data_dir,
        model=model,
        threads=threads,
        learner_threads=learner_threads,
    )
    ensure_model(settings.model, settings)
    from fluvial.bench.latency import QUICK_ROUNDS, ROUNDS, run
    from fluvial.cli.progress import Bar

    with Bar(unit="rounds") as bar:
        bar.start(settings.model, total=None)
        result = run(
            file,
            settings=settings,
            rounds=rounds or (QUICK_ROUNDS if quick else ROUNDS),
            on_round=lambda done, total: bar.reach(done, total=total),
        )
    if as_json:
        print_line(result)
    else:
        _print_times(result)


def _print_times(result: dict[str, Any]) -> None:
    from fluvial.cli.terminal import print_table

    rows = [
        [label, f"{result[key]:.0f} ms", f"{spread['min']:.0f} to {spread['max']:.0f} ms"]
        for label, key in (("alone", "idle_ms"), ("while a text is read", "reading_ms"))
        for spread in [result["spread"][key]]
    ]
    print_table(["first token", "median", "range"], rows, right=(1, 2))
    click.echo(
        f"{result['model']}: {result['ratio']:.2f} times as long beside a reading; it reads "
        f"{result['reading_beside_tps']:.1f} tokens/s while questions are asked, "
        f"{result['reading_tps']:.1f} without"
    )
