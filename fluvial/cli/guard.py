"""`fluvial guard`: read the guard's policy back, try it on a text; train what it ships with."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fluvial.cli.guard_train import calibrate, train
from fluvial.cli.option import (
    config_option,
    data_dir_option,
    json_option,
    load_settings,
    print_json,
)
from fluvial.cli.terminal import clean, clean_line, print_table, write_note

if TYPE_CHECKING:
    from fluvial.config import Settings
    from fluvial.guard.check import Finding
    from fluvial.guard.guard import Guard
    from fluvial.guard.policy import Place, Policy

MAX_TEXT_BYTES = 8 * 2**20

policy_option = click.option(
    "--policy",
    "policy_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Policy to use, a TOML file. [default: the setting guard_policy, else the shipped one]",
)


@click.group()
def guard() -> None:
    """Look at the guard, which checks prompts and answers before anyone sees them."""


guard.add_command(train)
guard.add_command(calibrate)


@guard.command()
@policy_option
@json_option
@config_option
def show(policy_file: Path | None, as_json: bool, config_file: Path | None) -> None:
    """Read the policy back: checks, categories, actions, words, how text is held back."""
    from fluvial.guard.opening import load_policy

    settings = load_settings(config_file, guard_policy=policy_file)
    policy = load_policy(settings)
    if as_json:
        whole = policy.model_dump(mode="json")
        print_json({"guard": settings.guard, "policy_sha256": policy.sha256, **whole})
        return
    _print_policy(policy, settings)


@guard.command()
@click.argument("text", required=False)
@click.option(
    "--as",
    "place",
    type=click.Choice(["prompt", "answer", "document"]),
    default="prompt",
    show_default=True,
    help="What the text is.",
)
@policy_option
@json_option
@data_dir_option
@config_option
def check(
    text: str | None,
    place: "Place",
    policy_file: Path | None,
    as_json: bool,
    data_dir: Path | None,
    config_file: Path | None,
) -> int:
    """Try the policy on TEXT, or on what comes in on standard input; nothing is recorded.

    Exit code 0: the text passes, perhaps masked; 3: it is refused or stopped.
    """
    settings = load_settings(config_file, data_dir=data_dir, guard_policy=policy_file)
    given = sys.stdin.read(MAX_TEXT_BYTES + 1) if text is None else text
    if len(given.encode(errors="replace")) > MAX_TEXT_BYTES:
        raise click.UsageError(f"the text is over {MAX_TEXT_BYTES} bytes")
    opened = _open_guard(settings)
    try:
        told = _judge(opened, given, place=place)
    finally:
        opened.close()
    if as_json:
        print_json(told)
    else:
        _print_judgement(told)
    return 3 if told["action"] in ("refuse", "stop") else 0


def _open_guard(settings: "Settings") -> "Guard":
    from fluvial.guard.opening import load_policy, open_guard
    from fluvial.guard.policy import ModelProvider
    from fluvial.guard.provider_model import Writer

    def open_model(provider: ModelProvider) -> Writer:
        from fluvial.service.start import open_guard_model

        return open_guard_model(provider, settings=settings)

    return open_guard(load_policy(settings), open_model=open_model)


def _judge(opened: "Guard", text: str, *, place: "Place") -> dict[str, Any]:
    from fluvial.guard.guard import mask
    from fluvial.guard.policy import pick_language

    findings = opened.find(text, place=place)
    rulings = opened.rule(findings, place=place)
    first = rulings[0] if rulings else None
    kept = first is not None and first.action in ("refuse", "stop")
    language = pick_language(text)
    message = opened.policy.speak(first.category, language=language) if first and kept else ""
    return {
        "action": first.action if first is not None else "allow",
        "category": first.category if first is not None else "",
        "message": message,
        "text": "" if kept else mask(opened.policy, text, rulings),
        "findings": [_describe(each, opened, text, place) for each in findings],
        "guard_sha256": opened.sha256,
    }


def _describe(finding: "Finding", opened: "Guard", text: str, place: "Place") -> dict[str, Any]:
    rule = opened.policy.rule(finding.category)
    return {
        "category": finding.category,
        "score": round(finding.score, 4),
        "threshold": rule.least(place),
        "action": rule.action(place) if finding.score >= rule.least(place) else "allow",
        "check": finding.check,
        "text": None if finding.end is None else text[finding.start : finding.end],
    }


def _print_judgement(told: dict[str, Any]) -> None:
    rows = [
        [
            each["category"],
            f"{each['score']:.3f}",
            f"{each['threshold']:g}",
            each["action"],
            each["check"],
            clean_line(each["text"] or "(the whole text)", width=40),
        ]
        for each in told["findings"]
    ]
    if rows:
        headings = ["category", "score", "from", "action", "check", "where"]
        print_table(headings, rows, right=(1, 2))
    click.echo(told["action"] + (f": {told['category']}" if told["category"] else ""))
    if told["message"] or told["action"] == "redact":
        click.echo(clean(told["message"] or told["text"]))


def _print_policy(policy: "Policy", settings: "Settings") -> None:
    if settings.guard == "off":
        write_note("the guard is off")
    for place in ("prompt", "answer", "document"):
        names = ", ".join(policy.checks.at(place)) or "none"
        click.echo(f"{place}: checked by {names}")
    hold = policy.hold
    click.echo(
        f"held back: checked every {hold.every_tokens} tokens with {hold.window_tokens} more kept, "
        f"early after {hold.delay_ms} ms, given up after {hold.timeout_ms} ms"
    )
    words = policy.listed()
    rows = [
        [
            name,
            f"{rule.least('prompt'):g}",
            rule.prompt,
            f"{rule.least('answer'):g}",
            rule.answer,
            rule.document,
            str(rule.debounce),
            str(len(words.get(name, []))),
        ]
        for name, rule in policy.category.items()
    ]
    headings = ["category", "from", "prompt", "from", "answer", "document", "checks", "words"]
    print_table(headings, rows, right=(1, 3, 6, 7))
    click.echo(f"sha256 of the policy: {policy.sha256}")
