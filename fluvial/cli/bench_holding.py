"""`fluvial bench guard-stream`: what holding text back until it is checked costs."""

from pathlib import Path
from typing import Any

import click

from fluvial.cli.installed import ensure_model, print_line
from fluvial.cli.option import config_option, data_dir_option, load_settings


@click.command("guard-stream")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object last.")
@click.option("--quick", is_flag=True, help="Two rounds of short answers.")
@click.option("--rounds", type=click.IntRange(1, 1000), help="Rounds to measure. [default: 12]")
@click.option("--model", help="Model to measure; pulled first when it is not installed.")
@click.option(
    "--threads", type=click.IntRange(1, 256), help="Decoding threads. [default: measured]"
)
@click.option(
    "--policy",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Policy of the guard. [default: the setting guard_policy, else the shipped one]",
)
@data_dir_option
@config_option
def guard_stream(
    as_json: bool,
    quick: bool,
    rounds: int | None,
    model: str | None,
    threads: int | None,
    policy: Path | None,
    data_dir: Path | None,
    config_file: Path | None,
) -> None:
    """Compare answers with the guard and without: first visible token, tokens a second."""
    settings = load_settings(
        config_file, data_dir=data_dir, model=model, threads=threads, guard_policy=policy
    )
    ensure_model(settings.model, settings)
    from fluvial.bench import holding
    from fluvial.cli.progress import Bar

    with Bar(unit="rounds") as bar:
        bar.start(settings.model, total=None)
        result = holding.run(
            settings=settings,
            rounds=rounds or (holding.QUICK_ROUNDS if quick else holding.ROUNDS),
            tokens=holding.QUICK_TOKENS if quick else holding.TOKENS,
            on_round=lambda done, total: bar.reach(done, total=total),
        )
    if as_json:
        print_line(result)
    else:
        _print_costs(result)


def _print_costs(result: dict[str, Any]) -> None:
    from fluvial.cli.terminal import print_table

    rows = [
        [
            streams,
            f"{found['first_ms_off']['p50']:.0f}",
            f"{found['first_ms_on']['p50']:.0f}",
            f"{found['first_ms_on']['p99']:.0f}",
            f"{found['tokens_per_s_off']:.1f}",
            f"{found['tokens_per_s_on']:.1f}",
            f"{found['overhead']:.1%}",
        ]
        for streams, found in result["streams"].items()
    ]
    headings = [
        *("answers", "first ms, off", "on", "on p99"),
        *("tokens/s, off", "on", "taken"),
    ]
    print_table(headings, rows, right=tuple(range(7)))
    checks = ", ".join(
        f"{place} {taken['p50']:.1f} ms (p99 {taken['p99']:.1f})"
        for place, taken in result["check_ms"].items()
    )
    click.echo(f"{result['model']}: one check of a {checks}")
