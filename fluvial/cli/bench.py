"""`fluvial bench`: measurements that print one JSON object last."""

from pathlib import Path
from typing import Any

import click

from fluvial.cli.option import config_option, data_dir_option, load_settings


@click.group()
def bench() -> None:
    """Measure Fluvial on this machine."""


@bench.command()
@click.argument(
    "files",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object last.")
@click.option("--quick", is_flag=True, help="Only the first 2,048 tokens of each file.")
@click.option("--tokens", type=click.IntRange(1), help="Stop after this many tokens of each file.")
@click.option("--model", help="Model to measure; pulled first when it is not installed.")
@data_dir_option
@config_option
def adapt(
    files: tuple[Path, ...],
    as_json: bool,
    quick: bool,
    tokens: int | None,
    model: str | None,
    data_dir: Path | None,
    config_file: Path | None,
) -> None:
    """Compare reading FILES frozen with reading them while learning, on the same windows."""
    settings = load_settings(config_file, data_dir=data_dir, model=model)
    from fluvial.cli.progress import Bar, TransferBar
    from fluvial.model.registry import Registry

    with TransferBar() as bar:
        info = Registry(settings.data_dir).ensure(
            settings.model, offline=settings.offline, progress=bar
        )
    from fluvial.bench.adapt import run

    with Bar(unit="tokens") as reading:

        def show(path: str, done: int, total: int) -> None:
            if not reading.is_at(path):
                reading.start(path, total=total)
            reading.reach(done, total=total)

        result = run(
            list(files),
            model_path=Path(info.path),
            quick=quick,
            tokens=tokens,
            settings=settings,
            on_chunk=show,
        )
    if as_json:
        import json

        click.echo(json.dumps(result, ensure_ascii=False))
    else:
        _print(result)


def _print(result: dict[str, Any]) -> None:
    from fluvial.cli.terminal import print_table

    headings = ["file", "tokens", "frozen bits/byte", "adapted bits/byte", "gain", "time"]
    rows = [
        [
            str(file["path"]),
            f"{file['tokens']:,}",
            f"{file['frozen_bpb']:.4f}",
            f"{file['adapted_bpb']:.4f}",
            f"{file['gain_pct']:.2f}%",
            f"{file['overhead']:.2f}x",
        ]
        for file in result["files"]
    ]
    print_table(headings, rows, right=(1, 2, 3, 4, 5))
    click.echo(
        f"{result['model']}: median gain {result['median_gain_pct']:.2f}%, "
        f"median time {result['median_overhead']:.2f}x"
    )
