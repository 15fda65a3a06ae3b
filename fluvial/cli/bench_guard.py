"""`fluvial bench guard`: how much the guard's classifier catches, and what it blocks wrongly."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fluvial.cli.installed import print_line
from fluvial.cli.option import config_option, data_dir_option, load_settings

if TYPE_CHECKING:
    from fluvial.config import Settings


@click.command()
@click.argument(
    "file", required=False, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object last.")
@click.option("--report", is_flag=True, help="On the sources that it never saw, from the index.")
@click.option("--tricks", is_flag=True, help="With --report: also under disguise.")
@click.option(
    "--weights",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Other weights than those that ship.",
)
@data_dir_option
@config_option
def guard(
    file: Path | None,
    as_json: bool,
    report: bool,
    tricks: bool,
    weights: Path | None,
    data_dir: Path | None,
    config_file: Path | None,
) -> None:
    """Evaluate the classifier on FILE, or (--report) on sources it never learnt from.

    FILE holds lines of {"text": ..., "label": 0 or 1, "kind": "prompt" or "answer"}.
    """
    if (file is None) != report:
        raise click.UsageError("give a FILE, or --report without one")
    settings = load_settings(config_file, data_dir=data_dir)
    if file is not None:
        _evaluate(file, weights, as_json=as_json)
    else:
        _report(settings, weights, as_json=as_json, tricks=tricks)


def _evaluate(file: Path, weights: Path | None, *, as_json: bool) -> None:
    from fluvial.bench.guard import evaluate
    from fluvial.cli.progress import Bar
    from fluvial.guard.calibrate import read_labelled
    from fluvial.guard.classifier import ClassifierCheck

    lines = read_labelled(file)
    check = ClassifierCheck.load(weights)
    with Bar(unit="texts") as bar:
        bar.start(file.name, total=len(lines))
        result = evaluate(lines, check, report=lambda done, total: bar.reach(done, total=total))
    if as_json:
        print_line(result)
    else:
        from fluvial.cli.terminal import print_table

        print_table(["figure", "value"], [[n, _show(v)] for n, v in result.items()], right=(1,))


def _report(settings: "Settings", weights: Path | None, *, as_json: bool, tricks: bool) -> None:
    from fluvial.bench.guard import report_tricks, report_unseen
    from fluvial.cli.guard_train import open_packages
    from fluvial.cli.progress import Bar
    from fluvial.guard.classifier import ClassifierCheck
    from fluvial.guard.corpus import read_corpus

    check = ClassifierCheck.load(weights)
    texts = read_corpus(open_packages(settings), role="unseen")
    with Bar(unit="texts") as bar:
        bar.start("unseen sources", total=None)
        result: dict[str, Any] = {
            "sha256": check.sha256,
            **report_unseen(texts, check, report=lambda done, total: bar.reach(done, total=total)),
        }
        if tricks:
            prompts = [each for each in texts if each.label and each.kind == "prompt"]
            result["tricks"] = report_tricks(prompts, check)
    if as_json:
        print_line(result)
    else:
        _print_report(result)


def _print_report(result: dict[str, Any]) -> None:
    from fluvial.cli.terminal import print_table

    headings = ["source", "group", "kind", "n", "blocked at 20 %", "50 %", "whole"]
    rows = [
        [
            *(str(row[name]) for name in ("source", "group", "kind", "n")),
            *(_show(row["blocked"][pct]) for pct in ("20", "50", "100")),
        ]
        for row in result["sources"]
    ]
    print_table(headings, rows, right=(3, 4, 5, 6))
    cells = [
        [name, str(row["n"]), _show(row["caught"])] for name, row in result["categories"].items()
    ]
    print_table(["category", "n", "caught"], cells, right=(1, 2))
    for kind, row in result["kinds"].items():
        auc, blocked = row["auc"], row["blocked"]
        click.echo(
            f"{kind}s: AUC {_show(auc['ordinary'])} against ordinary ones, "
            f"{_show(auc['look-alikes'])} against look-alikes; caught {_show(row['caught'])}; "
            f"blocked {_show(blocked['ordinary'])} of ordinary, "
            f"{_show(blocked['look-alikes'])} of look-alikes; caught with 3 % of ordinary ones "
            f"blocked: {_show(row['caught_at_3_pct_of_ordinary'])}"
        )
    click.echo(f"p50 {result['p50_ms']:.2f} ms, p99 {result['p99_ms']:.2f} ms")
    if "tricks" in result:
        cells = [[name, _show(row["gets_through"])] for name, row in result["tricks"].items()]
        print_table(["trick", "gets through"], cells, right=(1,))


def _show(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"
