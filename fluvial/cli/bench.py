"""`fluvial bench`: measurements that print one JSON object last."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fluvial.cli.bench_adapt import adapt
from fluvial.cli.bench_canary import canary
from fluvial.cli.bench_frontier import frontier
from fluvial.cli.bench_guard import guard
from fluvial.cli.bench_holding import guard_stream
from fluvial.cli.bench_latency import latency
from fluvial.cli.installed import ensure_model, print_line
from fluvial.cli.option import config_option, data_dir_option, load_settings

if TYPE_CHECKING:
    from fluvial.bench.instruction import Failure


@click.group()
def bench() -> None:
    """Measure Fluvial on this machine."""


bench.add_command(adapt)
bench.add_command(canary)
bench.add_command(frontier)
bench.add_command(guard)
bench.add_command(latency)
bench.add_command(guard_stream)

model_option = click.option(
    "--model", help="Model to measure; pulled first when it is not installed."
)
threads_option = click.option(
    "--threads", type=click.IntRange(1, 256), help="Number of threads. [default: measured]"
)


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object last.")
@click.option("--quick", is_flag=True, help="Two short rounds, and only threads are tried.")
@click.option(
    "--model",
    "models",
    multiple=True,
    help="Model to measure, can be repeated. [default: SmolLM2 and the default model]",
)
@click.option("--rounds", type=click.IntRange(1, 100), help="Rounds of each figure. [default: 5]")
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    help="Threads of both sides. [default: each side's best, found by trying]",
)
@data_dir_option
@config_option
def engine(
    as_json: bool,
    quick: bool,
    models: tuple[str, ...],
    rounds: int | None,
    threads: int | None,
    data_dir: Path | None,
    config_file: Path | None,
) -> None:
    """Compare the engine's speed with llama.cpp's, on the same files and in one run."""
    settings = load_settings(config_file, data_dir=data_dir)
    from dataclasses import replace

    from fluvial.bench.engine import MODELS, Target, run
    from fluvial.bench.peer import check_installed
    from fluvial.bench.plan import QUICK, Plan
    from fluvial.cli.terminal import write_note

    check_installed()
    plan = QUICK if quick else Plan()
    targets = [
        Target(name=name, path=ensure_model(name, settings))
        for name in dict.fromkeys(models or MODELS)
    ]
    result = run(
        targets,
        graph_dir=settings.data_dir / "graphs",
        plan=replace(plan, rounds=rounds) if rounds else plan,
        threads=threads,
        on_note=write_note,
    )
    if as_json:
        print_line(result)
    else:
        _print_speeds(result)


@bench.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object last.")
@click.option("--tokens", type=click.IntRange(1), default=20_000, show_default=True)
@click.option(
    "--window",
    "window_tokens",
    type=click.IntRange(2),
    default=512,
    show_default=True,
    help="Tokens of each window; every window begins anew.",
)
@model_option
@threads_option
@data_dir_option
@config_option
def quality(
    file: Path,
    as_json: bool,
    tokens: int,
    window_tokens: int,
    model: str | None,
    threads: int | None,
    data_dir: Path | None,
    config_file: Path | None,
) -> None:
    """Compare perplexity on FILE: the engine, the float32 model, and llama.cpp."""
    settings = load_settings(config_file, data_dir=data_dir, model=model)
    from fluvial.bench.engine import Target
    from fluvial.bench.peer import check_installed
    from fluvial.bench.quality import run
    from fluvial.cli.progress import Bar
    from fluvial.engine.thread import count_usable

    check_installed()
    target = Target(name=settings.model, path=ensure_model(settings.model, settings))
    with Bar(unit="windows") as bar:

        def show(side: str, done: int, total: int) -> None:
            if not bar.is_at(side):
                bar.start(side, total=total)
            bar.reach(done, total=total)

        result = run(
            file,
            target,
            graph_dir=settings.data_dir / "graphs",
            threads=threads or count_usable(),
            tokens=tokens,
            window_tokens=window_tokens,
            on_progress=show,
        )
    if as_json:
        print_line(result)
    else:
        _print_perplexities(result)


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object last.")
@click.option(
    "--write",
    "document",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, writable=True),
    help="Put the table into this document, in place of the model's earlier one.",
)
@model_option
@threads_option
@data_dir_option
@config_option
def profile(
    as_json: bool,
    document: Path | None,
    model: str | None,
    threads: int | None,
    data_dir: Path | None,
    config_file: Path | None,
) -> None:
    """Show where the time of one step goes, by kind of operator."""
    settings = load_settings(config_file, data_dir=data_dir, model=model)
    from dataclasses import asdict

    from fluvial.bench.profile import run
    from fluvial.bench.report import render, update
    from fluvial.engine.thread import count_usable

    path = ensure_model(settings.model, settings)
    result = run(
        path,
        name=settings.model,
        graph_dir=settings.data_dir / "graphs",
        threads=threads or count_usable(),
    )
    if document is not None:
        text = update(document.read_text(encoding="utf-8"), result)
        document.write_text(text, encoding="utf-8")
    if as_json:
        print_line(asdict(result))
    else:
        click.echo(render(result))


@bench.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--only", "names", multiple=True, help="Prepare this stream, can be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object last.")
def streams(folder: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Prepare the texts that adaptation is measured on, from public packages, in FOLDER."""
    from fluvial.bench.stream import prepare
    from fluvial.cli.progress import TransferBar

    with TransferBar() as bar:
        prepared = prepare(folder, names=names, progress=bar)
    rows = [each.to_json() for each in prepared]
    if as_json:
        print_line({"streams": rows})
    else:
        _print_streams(rows)


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object last.")
@model_option
@threads_option
@data_dir_option
@config_option
def instructions(
    as_json: bool,
    model: str | None,
    threads: int | None,
    data_dir: Path | None,
    config_file: Path | None,
) -> None:
    """Count how many of 100 checkable instructions the model follows, without learning."""
    settings = load_settings(config_file, data_dir=data_dir, model=model, threads=threads)
    from fluvial.bench.asking import ask
    from fluvial.bench.instruction import run
    from fluvial.cli.progress import Bar
    from fluvial.model.opening import open_model
    from fluvial.service.start import open_engine

    checkpoint = open_model(ensure_model(settings.model, settings))
    with (
        open_engine(checkpoint, name=settings.model, settings=settings) as engine,
        Bar(unit="answers") as bar,
    ):
        bar.start(settings.model, total=None)
        result = run(
            ask(engine),
            at_once=min(settings.batch_limit, settings.queue_limit),
            on_answer=lambda done, total: bar.reach(done, total=total),
        )
    if as_json:
        print_line({"model": settings.model, **result})
    else:
        _print_failures(result["failed"])
        click.echo(f"{settings.model}: {result['passed']} of {result['total']} followed")


def _print_speeds(result: dict[str, Any]) -> None:
    from fluvial.cli.terminal import print_table

    headings = ["model", "figure", "fluvial", "llama.cpp", "ratio", "ratio's range"]
    rows: list[list[str]] = []
    for name, figures in result["models"].items():
        compared = {
            "decode": figures["decode"],
            **{f"prefill {n}": each for n, each in figures["prefill"].items() if each},
            "batch of 8": figures["batch8"],
            **{f"at {n} of context": each for n, each in figures["context"]["at"].items()},
        }
        for label, each in compared.items():
            spread = each["spread"]["ratio"]
            speeds = [f"{each[side]:.1f}" for side in ("ours_tps", "peer_tps")]
            spread_cell = f"{spread['min']:.2f} to {spread['max']:.2f}"
            rows.append([name, label, *speeds, f"{each['ratio']:.2f}", spread_cell])
    print_table(headings, rows, right=(2, 3, 4))
    for name, figures in result["models"].items():
        limit, load = figures["roofline"], figures["load_s"]
        share_pct = 100 * limit["fraction_of_limit"]
        adapted = figures["decode"]["ratio_with_adapter"]
        click.echo(
            f"{name}: with an adapter {adapted:.2f} times the peer; "
            f"{share_pct:.0f}% of the limit at {limit['read_gbps']:.1f} GB/s; "
            f"loads in {load['ours']:.2f} s, the peer in {load['peer']:.2f} s"
        )


def _print_perplexities(result: dict[str, Any]) -> None:
    from fluvial.cli.terminal import print_table

    names = {"ours": "fluvial", "reference": "float32", "peer": "llama.cpp"}
    rows = [
        [label, *(f"{result[side][key]:.4f}" for key in ("nats_per_token", "perplexity"))]
        for side, label in names.items()
    ]
    print_table(["side", "nats/token", "perplexity"], rows, right=(1, 2))
    for key, label in (("ours_minus_reference", "float32"), ("ours_minus_peer", "llama.cpp")):
        difference, error = result[key]["nats_per_token"], result[key]["standard_error"]
        known = "" if error is None else f" ± {error:.5f} (standard error)"
        click.echo(f"fluvial minus {label}: {difference:+.5f}{known} nats a token")


def _print_failures(failed: "list[Failure]") -> None:
    from fluvial.cli.terminal import clean_line, print_table

    rows = [
        [str(each["number"]), *(clean_line(each[key], width=60) for key in ("prompt", "answer"))]
        for each in failed
    ]
    print_table(["number", "not followed", "answer"], rows, right=(0,))


def _print_streams(rows: list[dict[str, Any]]) -> None:
    from fluvial.cli.terminal import print_table

    headings = ["file", "kind", "bytes", "tokens", "sha256"]
    cells = [
        [
            row["path"],
            row["kind"] + (" (held out)" if row["held_out"] else ""),
            f"{row['bytes']:,}",
            f"{row['tokens']:,}",
            row["sha256"][:12],
        ]
        for row in rows
    ]
    print_table(headings, cells, right=(2, 3))
