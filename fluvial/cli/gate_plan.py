"""`fluvial gate plan`: what is tested against which bar, written before any testing."""

import asyncio
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fluvial.cli.option import (
    config_option,
    data_dir_option,
    json_option,
    load_settings,
    print_json,
)
from fluvial.cli.terminal import clean, name_duration, name_time, print_table

if TYPE_CHECKING:
    from fluvial.config import Settings
    from fluvial.gate.plan import Judge, Plan
    from fluvial.gate.planning import Template

LOW_POWER = 0.5


@click.command()
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), default="plan.json"
)
@click.option("--template", type=click.Path(path_type=Path, dir_okay=False), help="TOML.")
@click.option("--model", help="Model to be tested. [default: from the settings]")
@click.option("--lineage", help="Line of attempts that alpha is spent over. [default: the model]")
@click.option("--seed", type=click.IntRange(0), help="What samples are drawn with. [default: any]")
@click.option("--usd-per-hour", type=float, default=0.0, help="What the machine costs.")
@click.option("--no-calibration", is_flag=True, help="Leave judges without a record.")
@json_option
@data_dir_option
@config_option
def plan(
    *,
    output: Path,
    template: Path | None,
    model: str | None,
    lineage: str | None,
    seed: int | None,
    usd_per_hour: float,
    no_calibration: bool,
    as_json: bool,
    data_dir: Path | None,
    config_file: Path | None,
) -> None:
    """Write a plan before any testing, and put it on record. It is never written over."""
    from fluvial.gate import plan as plans
    from fluvial.gate.ledger import open_ledger
    from fluvial.gate.planning import DEFAULT_FILE, Occasion, load_template, make_plan

    settings = load_settings(config_file, data_dir=data_dir)
    found = load_template(template or DEFAULT_FILE)
    ledger = open_ledger(settings)
    name = model or settings.model
    occasion = Occasion(
        model=name,
        lineage=lineage or name,
        attempt=ledger.next_attempt(lineage or name),
        seed=secrets.randbits(48) if seed is None else seed,
        created_at=time.time(),
        usd_per_hour=usd_per_hour,
    )
    judges = [] if no_calibration else _calibrate(found, settings=settings)
    made = make_plan(found, occasion=occasion, judges=judges)
    plans.save(made, output)
    ledger.enter(made)
    if as_json:
        print_json({"sha256": plans.digest(made), "file": str(output), "plan": plans.view(made)})
        return
    _show_plan(made)
    click.echo(f"written to {output}; sha256 {plans.digest(made)}")


def _calibrate(template: "Template", *, settings: "Settings") -> "list[Judge]":
    """Measure the judges that the template has no record of, against people's labels."""
    from fluvial.gate.judge import calibrate, find_judge
    from fluvial.gate.package import make_opener

    opener = make_opener(data_dir=settings.data_dir, offline=settings.offline)
    judges = [find_judge(name) for name in template.list_unknown_judges()]
    return [asyncio.run(calibrate(judge, open_package=opener)) for judge in judges]


def _show_plan(plan: "Plan") -> None:
    click.echo(
        f"{clean(plan.name)}: attempt {plan.attempt} of {clean(plan.lineage)}, confidence "
        f"{plan.confidence:.4g}, seed {plan.seed}"
    )
    estimates = {each.risk: each for each in plan.estimates}
    rows: list[list[str]] = []
    for risk in plan.risks:
        found = estimates[risk.name]
        sign = "≤" if risk.direction == "at_most" else "≥"
        allowed = "none passes" if found.allowed_failures is None else str(found.allowed_failures)
        time_ = "" if found.seconds is None else name_duration(found.seconds)
        power = f"{100 * found.power:.0f} % at {100 * found.assumed_share:.4g} %"
        rows.append(
            [
                risk.name,
                f"{sign} {100 * risk.bar:.4g} %",
                str(risk.samples),
                str(risk.clusters or risk.samples),
                allowed,
                power,
                risk.judge or "exact",
                time_,
            ]
        )
    headings = [
        "risk",
        "bar",
        "samples",
        "clusters",
        "may fail or be flagged",
        "power",
        "judge",
        "time",
    ]
    print_table(headings, rows, right=(1, 2, 3, 4))
    weak = [clean(each.risk) for each in plan.estimates if each.power < LOW_POWER]
    if weak:
        click.echo(
            f"less likely to pass than not, even if all is well: {', '.join(weak)}; more samples "
            "or a better judge would help (`fluvial gate size`)"
        )
    _show_judges(plan)
    known = [each for each in plan.estimates if each.seconds is not None]
    if known:
        seconds, usd = sum(e.seconds or 0 for e in known), sum(e.usd or 0 for e in known)
        missing = len(plan.risks) - len(known)
        note = f" (without {missing} that were never timed)" if missing else ""
        click.echo(f"about {name_duration(seconds)}, {usd:.2f} USD{note}")


def _show_judges(plan: "Plan") -> None:
    for judge in plan.judges:
        found = judge.calibration
        click.echo(
            f"judge {clean(judge.name)}: "
            + (
                "no record; its risks can only give NOT ENOUGH EVIDENCE"
                if found is None
                else f"caught {found.caught} of {found.positives} failures, "
                f"{found.false_alarms} false alarms in {found.negatives}"
            )
        )


@click.command()
@json_option
@data_dir_option
@config_option
def attempts(*, as_json: bool, data_dir: Path | None, config_file: Path | None) -> None:
    """List what was planned and run, by lineage, and the alpha that the next attempt has."""
    from dataclasses import asdict

    from fluvial.gate.ledger import Ledger, find_ledger
    from fluvial.gate.spending import spend_alpha

    ledger = Ledger(find_ledger(load_settings(config_file, data_dir=data_dir).data_dir))
    entries = ledger.list_entries()
    if as_json:
        print_json([asdict(entry) for entry in entries])
        return
    rows = [
        [e.lineage, str(e.attempt), e.event, name_time(e.at), e.plan_sha256[:12]] for e in entries
    ]
    print_table(["lineage", "attempt", "", "at", "plan"], rows, right=(1,))
    for lineage in dict.fromkeys(entry.lineage for entry in entries):
        due = ledger.next_attempt(lineage)
        alpha = spend_alpha(0.05, attempt=due)
        click.echo(f"{clean(lineage)}: attempt {due} is next, with {alpha:.3g} of an alpha of 0.05")
