"""`fluvial bench adapt`: what learning while reading is worth, and what it costs."""

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fluvial.cli.installed import ensure_model, print_line
from fluvial.cli.option import config_option, data_dir_option, load_settings

if TYPE_CHECKING:
    from fluvial.bench.adapt import Ask
    from fluvial.config import Settings
    from fluvial.model.adapter import Tensors

text_type = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.argument("files", nargs=-1, required=True, type=text_type)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object last.")
@click.option("--quick", is_flag=True, help="Only the first 2,048 tokens of each file.")
@click.option("--tokens", type=click.IntRange(1), help="Stop after this many tokens of each file.")
@click.option("--model", help="Model to measure; pulled first when it is not installed.")
@click.option(
    "--unrelated", type=text_type, help="A text to score before and after: is it told worse?"
)
@click.option("--beside", help="A second model, which reads the same bytes frozen.")
@click.option("--instructions", is_flag=True, help="Count instructions followed before and after.")
@data_dir_option
@config_option
def adapt(
    files: tuple[Path, ...],
    as_json: bool,
    quick: bool,
    tokens: int | None,
    model: str | None,
    unrelated: Path | None,
    beside: str | None,
    instructions: bool,
    data_dir: Path | None,
    config_file: Path | None,
) -> None:
    """Compare reading FILES frozen with reading them while learning, on the same windows."""
    settings = load_settings(config_file, data_dir=data_dir, model=model)
    from fluvial.cli.progress import Bar

    path = ensure_model(settings.model, settings)
    beside_path = None if beside is None else ensure_model(beside, settings)
    from fluvial.bench.adapt import run

    with _open_asking(path, settings, wanted=instructions) as ask, Bar(unit="tokens") as reading:

        def show(path: str, done: int, total: int) -> None:
            if not reading.is_at(path):
                reading.start(path, total=total)
            reading.reach(done, total=total)

        result = run(
            list(files),
            model_path=path,
            quick=quick,
            tokens=tokens,
            settings=settings,
            unrelated=unrelated,
            beside_path=beside_path,
            ask=ask,
            on_tokens=show,
        )
    if as_json:
        print_line(result)
    else:
        _print_gains(result)


@contextlib.contextmanager
def _open_asking(path: Path, settings: "Settings", *, wanted: bool) -> "Generator[Ask | None]":
    if not wanted:
        yield None
        return
    import secrets

    from fluvial.bench.asking import ask
    from fluvial.bench.instruction import run
    from fluvial.model.adapter import Adapter
    from fluvial.model.opening import open_model
    from fluvial.service.start import open_engine

    with open_engine(open_model(path), name=settings.model, settings=settings) as engine:

        def count(tensors: "Tensors | None") -> int:
            # A key of its own: caches on disk outlive this process, and belong to a key.
            key = f"asked/{secrets.token_hex(8)}"
            adapter = None if tensors is None else Adapter(key, tensors)
            generate = ask(engine, adapter=lambda: adapter)
            return run(generate, at_once=settings.batch_limit)["passed"]

        yield count


def _print_gains(result: dict[str, Any]) -> None:
    from fluvial.cli.terminal import print_table

    headings = ["file", "tokens", "frozen", "4 windows", "adapted", "gain", "time", "unrelated"]
    rows = [
        [
            str(file["path"]),
            f"{file['tokens']:,}",
            f"{file['frozen_bpb']:.4f}",
            f"{file['long_window_bpb']:.4f}",
            f"{file['adapted_bpb']:.4f}",
            f"{file['gain_pct']:.2f}%",
            f"{file['overhead']:.2f}x",
            _show_damage(file),
        ]
        for file in result["files"]
    ]
    print_table(headings, rows, right=(1, 2, 3, 4, 5, 6, 7))
    click.echo(
        f"{result['model']}: median gain {result['median_gain_pct']:.2f}%, "
        f"median time {result['median_overhead']:.2f}x; scores in bits per byte"
    )


def _show_damage(file: dict[str, Any]) -> str:
    before, after = file["unrelated_before_bpb"], file["unrelated_after_bpb"]
    return "" if before is None else f"{100 * (after / before - 1):+.2f}%"
