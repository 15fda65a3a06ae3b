"""`fluvial gate run`: a plan, run against a server; and what its judges are worth."""

import contextlib
import sys
import time
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fluvial.cli.option import config_option, data_dir_option, json_option, load_settings
from fluvial.cli.terminal import clean, name_duration, print_table, write_note

if TYPE_CHECKING:
    from fluvial.config import Settings
    from fluvial.gate.plan import Plan
    from fluvial.gate.result import Results

INTERRUPTED = 130


@click.command("run")
@click.argument("plan_file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--url", help="A running server. [default: one of our own, for this run]")
@click.option("--api-key", help="Key of that server. [default: from the settings]")
@click.option("--log-dir", type=click.Path(path_type=Path, file_okay=False), default="gate-logs")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where results go. [default: beside the plan, NAME.results.json]",
)
@click.option("--limit", type=click.IntRange(1), help="Only so many samples of each risk; a try.")
@data_dir_option
@config_option
def run_plan(
    plan_file: Path,
    url: str | None,
    api_key: str | None,
    log_dir: Path,
    output: Path | None,
    limit: int | None,
    data_dir: Path | None,
    config_file: Path | None,
) -> None:
    """Run PLAN_FILE, write Inspect logs and results, and show the verdicts.

    Ctrl-C ends the run: what was seen is kept, what is missing is NOT ENOUGH EVIDENCE. Such a run,
    and one with --limit, does not end the plan's attempt; but the attempt is of what was served
    then, and whoever changes that needs a new plan.
    """
    from fluvial.bench.instruction import load_instructions
    from fluvial.gate import plan as plans
    from fluvial.gate import result
    from fluvial.gate.ledger import open_ledger
    from fluvial.gate.package import make_opener
    from fluvial.gate.run import Bench, require_inspect, run

    settings = load_settings(config_file, data_dir=data_dir)
    plan = plans.load(plan_file)
    require_inspect()
    ledger = open_ledger(settings)
    target = output or plan_file.with_name(f"{plan_file.stem}.results.json")
    ledger.require(plan)
    with _open_server(settings, plan, url=url, config_file=config_file) as address:
        bench = Bench(
            url=address,
            api_key=api_key or (settings.api_key.get_secret_value() if settings.api_key else None),
            log_dir=log_dir,
            open_package=make_opener(data_dir=settings.data_dir, offline=settings.offline),
            instructions=load_instructions(),
            limit=limit,
        )
        with _Bars(plan) as bars:
            # After every risk: whatever happens later, what was seen is on the disk.
            keep = partial(result.save, path=target)
            done = run(
                plan,
                bench=bench,
                watcher=bars,
                on_start=lambda subjects: ledger.start(plan, subjects=subjects),
                on_results=keep,
            )
    # A server that died is like a run that was stopped: it names no subjects at the end.
    if not done.interrupted and limit is None and done.results.subjects:
        ledger.end(done.results)
    _show(done.results)
    for name, (reason, number) in done.troubles.items():
        click.echo(f"{clean(name)}: {number} samples broke, most often: {clean(reason)}")
    click.echo(f"results in {target}, logs in {log_dir} (`inspect view --log-dir {log_dir}`)")
    if done.interrupted:
        sys.exit(INTERRUPTED)


@click.command("calibrate-judge")
@click.argument("names", nargs=-1)
@json_option
@data_dir_option
@config_option
def calibrate_judge(
    names: tuple[str, ...], as_json: bool, data_dir: Path | None, config_file: Path | None
) -> None:
    """Measure judges on answers that people scored. [default: the rules]"""
    import asyncio
    from dataclasses import asdict

    from fluvial.cli.option import print_json
    from fluvial.gate.judge import RULES, calibrate, find_judge
    from fluvial.gate.package import make_opener

    settings = load_settings(config_file, data_dir=data_dir)
    opener = make_opener(data_dir=settings.data_dir, offline=settings.offline)
    judges = [find_judge(name) for name in names or RULES]
    records = [asyncio.run(calibrate(judge, open_package=opener)) for judge in judges]
    if as_json:
        print_json([asdict(record) for record in records])
        return
    rows: list[list[str]] = []
    for record in records:
        if found := record.calibration:
            caught = f"{found.caught} of {found.positives}"
            rows.append([record.name, caught, f"{found.false_alarms} of {found.negatives}"])
    print_table(["judge", "caught", "false alarms"], rows, right=(1, 2))


@contextlib.contextmanager
def _open_server(
    settings: "Settings", plan: "Plan", *, url: str | None, config_file: Path | None
) -> Generator[str]:
    if url is not None:
        from fluvial.cli.client import choose_url

        yield choose_url(url, settings=settings)
        return
    from fluvial.cli.gate_server import run_server
    from fluvial.cli.installed import ensure_model

    ensure_model(plan.model, settings)
    write_note(f"starting a server with {clean(plan.model)}")
    with run_server(settings, model=plan.model, config_file=config_file) as address:
        yield address


class _Bars:
    """A bar for each risk, with the time left; a `fluvial.gate.run.Watcher`."""

    def __init__(self, plan: "Plan") -> None:
        from fluvial.cli.progress import Bar

        self._bar = Bar(unit="samples")
        self._names = [risk.name for risk in plan.risks]
        self._done, self._total, self._began_s = 0, 0, 0.0

    def __enter__(self) -> "_Bars":
        return self

    def __exit__(self, *details: object) -> None:
        self._bar.__exit__(None, None, None)

    def begin(self, risk: str, *, samples: int) -> None:
        """Begin the bar of one risk."""
        self._done, self._total, self._began_s = 0, samples, time.monotonic()
        number = self._names.index(risk) + 1
        self._bar.start(f"{number}/{len(self._names)} {risk}", total=samples)

    def advance(self) -> None:
        """Count one sample."""
        self._done += 1
        each_s = (time.monotonic() - self._began_s) / self._done
        left_s = each_s * max(self._total - self._done, 0)
        self._bar.reach(self._done, total=self._total, left_s=left_s)


def _show(results: "Results") -> None:
    risks = {risk.name: risk for risk in results.plan.risks}
    rows: list[list[str]] = []
    for found in results.risks:
        risk = risks[found.name]
        sign = "≤" if risk.direction == "at_most" else "≥"
        rows.append(
            [
                clean(found.name),
                f"{sign} {100 * risk.bar:.4g} %",
                f"{found.evidence.failed} of {found.evidence.clusters}",
                str(found.evidence.errors),
                f"{100 * found.bound_below:.1f} to {100 * found.bound_above:.1f} %",
                found.verdict,
            ]
        )
    headings = ["risk", "bar", "failed", "missing", "true share between", "verdict"]
    print_table(headings, rows, right=(1, 2, 3, 4))
    for found in results.risks:
        if found.verdict == "NOT ENOUGH EVIDENCE":
            click.echo(f"{clean(found.name)}: {clean(found.reason)}")
    click.echo(f"{name_duration(results.ended_at - results.started_at)} in all")
