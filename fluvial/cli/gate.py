"""`fluvial gate`: the commands that test and release a model; each is in a file beside it."""

import click

from fluvial.cli.gate_count import size, verdict
from fluvial.cli.gate_plan import attempts, plan
from fluvial.cli.gate_release import keygen, show, sign, verify
from fluvial.cli.gate_run import calibrate_judge, run_plan


@click.group()
def gate() -> None:
    """Test a model against a plan, and release it: PASS, FAIL or NOT ENOUGH EVIDENCE."""


for command in (
    plan,
    attempts,
    verdict,
    size,
    run_plan,
    calibrate_judge,
    keygen,
    sign,
    verify,
    show,
):
    gate.add_command(command)
