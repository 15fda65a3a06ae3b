"""`fluvial gate verdict` and `size`: what plain counts show, and how many a bar takes."""

import sys
from typing import TYPE_CHECKING

import click

from fluvial.cli.option import json_option, print_json
from fluvial.cli.terminal import print_table

if TYPE_CHECKING:
    from fluvial.gate.verdict import Verdict

EXIT_CODES = {"PASS": 0, "FAIL": 3, "NOT ENOUGH EVIDENCE": 4}
SIZES = (0.5, 0.8, 0.9, 0.95)


class Share(click.ParamType[float]):
    """A share, as a number or in percent: 0.01 or 1%."""

    name = "share"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        text = str(value).strip()
        try:
            return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            self.fail(f"{text!r} is no share; write 0.01 or 1%", param, ctx)


@click.command()
@click.option("--trials", type=int, required=True, help="Trials that came to an end.")
@click.option("--failures", type=int, required=True, help="Failures among them.")
@click.option("--bar", type=Share(), required=True, help="Most failures allowed: 0.01 or 1%.")
@click.option("--at-least", is_flag=True, help="The bar is the least share of successes.")
@click.option("--confidence", type=Share(), default=0.95, show_default=True, help="One-sided.")
@click.option("--anytime", is_flag=True, help="The test may have stopped at any time.")
@click.option("--exit-code", is_flag=True, help="Leave with 3 for FAIL, 4 for not enough.")
@json_option
def verdict(
    *,
    trials: int,
    failures: int,
    bar: float,
    at_least: bool,
    confidence: float,
    anytime: bool,
    exit_code: bool,
    as_json: bool,
) -> None:
    """Judge plain counts by a bar. Trials must be independent: of those alike, count one."""
    from fluvial.gate.evidence import Evidence, check_counts
    from fluvial.gate.statistics import check_share
    from fluvial.gate.verdict import decide

    check_counts(("failures", failures, "trials", trials))
    check_share(confidence, name="confidence")
    found = decide(
        Evidence(samples=trials, clusters=trials, failed=failures),
        bar=bar,
        direction="at_least" if at_least else "at_most",
        alpha=1 - confidence,
        mode="anytime" if anytime else "fixed",
        min_clusters=0,
    )
    if as_json:
        counts = {"trials": trials, "failures": failures, "bar": bar, "at_least": at_least}
        print_json(_view(found) | counts | {"confidence": confidence, "anytime": anytime})
    else:
        click.echo(f"{found.outcome}: {failures} failures in {trials} trials")
        _tell(found, anytime=anytime)
    if exit_code:
        sys.exit(EXIT_CODES[found.outcome])


@click.command()
@click.option("--bar", type=Share(), required=True, help="Most failures allowed: 0.01 or 1%.")
@click.option("--share", type=Share(), help="True share of failures. [default: a quarter]")
@click.option("--confidence", type=Share(), default=0.95, show_default=True, help="One-sided.")
@click.option("--attempt", type=int, default=1, show_default=True, help="Of its lineage.")
@click.option("--anytime", is_flag=True, help="The test may stop at any time.")
@json_option
def size(
    *,
    bar: float,
    share: float | None,
    confidence: float,
    attempt: int,
    anytime: bool,
    as_json: bool,
) -> None:
    """Tell how many clusters a bar takes, for how likely a PASS."""
    from fluvial.gate.power import Design, count_allowed, find_fewest, find_trials, limit_failures
    from fluvial.gate.spending import spend_alpha

    test = Design(
        limit=limit_failures(bar, direction="at_most"),
        alpha=spend_alpha(1 - confidence, attempt=attempt),
        mode="anytime" if anytime else "fixed",
    )
    true = bar / 4 if share is None else share
    sizes = {power: find_trials(test, share=true, power=power) for power in SIZES}
    clean_only = find_fewest(test, failed=0)
    if as_json:
        print_json({"alpha": test.alpha, "clean": clean_only, "share": true, "power": sizes})
        return
    rows = [["no failure at all", "-" if clean_only is None else str(clean_only), "0"]]
    for power, trials in sizes.items():
        allowed = None if trials is None else count_allowed(test, trials=trials)
        wanted = f"{100 * power:.0f} % likely at {100 * true:.4g} %"
        rows.append([wanted, "none" if trials is None else str(trials), str(allowed or 0)])
    print_table(["a PASS with", "clusters", "may fail"], rows, right=(1, 2))


def _view(found: "Verdict") -> dict[str, object]:
    return {
        "verdict": found.outcome,
        "reason": found.reason,
        "bound_above": found.bound_above,
        "bound_below": found.bound_below,
        "further_clean": found.further_clean,
    }


def _tell(found: "Verdict", *, anytime: bool) -> None:
    click.echo(f"{found.reason} (each bound with confidence {1 - found.alpha:.6g})")
    if found.further_clean and not anytime:
        click.echo(
            "Trials added after looking count only where that was planned: with --anytime, or as a "
            "new attempt."
        )
