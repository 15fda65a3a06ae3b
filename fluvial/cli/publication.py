"""`fluvial sessions publish`, `adopt`, `merge` and their like: versions that are shared."""

from pathlib import Path
from typing import Any

import click

from fluvial.cli.connection import connect_to
from fluvial.cli.option import json_option, print_json, server_options
from fluvial.cli.terminal import name_time, print_table
from fluvial.cli.version import name_version
from fluvial.errors import InputError


@click.command()
@click.argument("session")
@click.argument("version")
@click.argument("name")
@server_options
def publish(
    session: str, version: str, name: str, url: str | None, config_file: Path | None
) -> None:
    """Give a copy of VERSION to everyone on the server, under NAME."""
    from fluvial.cli.client import session_path

    with connect_to(url, config_file) as client:
        made = client.post(session_path(session, "versions", version, "publish"), {"name": name})
    click.echo(f"{made['short']} is published as {made['name']}")


@click.command()
@click.argument("name")
@server_options
def unpublish(name: str, url: str | None, config_file: Path | None) -> None:
    """Take back what you published under NAME; adopted copies stay."""
    from urllib.parse import quote

    with connect_to(url, config_file) as client:
        client.delete(f"/v1/published/{quote(name, safe='')}")
    click.echo(f"{name} is no longer published")


@click.command()
@json_option
@server_options
def published(as_json: bool, url: str | None, config_file: Path | None) -> None:
    """List what is published on the server."""
    with connect_to(url, config_file) as client:
        found = client.get("/v1/published")["data"]
    if as_json:
        print_json(found)
        return
    rows = [
        [
            each["name"],
            each["short"],
            each["model"],
            f"{each['tokens_learned']:,}",
            "-" if each["drift"] is None else f"{each['drift']:.4f}",
            "yours" if each["yours"] else "",
            name_time(each["created_at"]),
        ]
        for each in found
    ]
    print_table(["name", "id", "model", "tokens", "drift", "", "published"], rows, right=(3, 4))


@click.command()
@click.argument("session")
@click.argument("name")
@server_options
def adopt(session: str, name: str, url: str | None, config_file: Path | None) -> None:
    """Put a copy of what is published under NAME in force in SESSION."""
    from fluvial.cli.client import session_path

    with connect_to(url, config_file) as client:
        made = client.post(session_path(session, "versions", "adopt"), {"published": name})
    click.echo(f"{name_version(made)} is in force")


@click.command()
@click.argument("session")
@click.argument("parts", nargs=-1, required=True)
@click.option("--rank", type=click.IntRange(1, 64), help="[default: the highest of theirs]")
@server_options
def merge(
    session: str,
    parts: tuple[str, ...],
    rank: int | None,
    url: str | None,
    config_file: Path | None,
) -> None:
    """Put the weighted sum of PARTS in force in SESSION.

    A part is VERSION, OTHER_SESSION/VERSION or @PUBLISHED, each perhaps with :WEIGHT behind it.
    """
    from fluvial.cli.client import session_path

    body: dict[str, Any] = {"parts": [parse_part(part) for part in parts]}
    body |= {} if rank is None else {"rank": rank}
    with connect_to(url, config_file) as client:
        made = client.post(session_path(session, "versions", "merge"), body, timeout_s=None)
    click.echo(f"{name_version(made)} is in force")
    if made["note"]:
        click.echo(made["note"])


def parse_part(text: str) -> dict[str, Any]:
    """Read one part of a merge. Raises InputError."""
    name, weight = text.rsplit(":", 1) if ":" in text else (text, "1")
    try:
        part: dict[str, Any] = {"weight": float(weight)}
    except ValueError:
        raise InputError(f"{text!r}: {weight!r} is no weight") from None
    if name.startswith("@"):
        return {**part, "published": name[1:]}
    session, slash, version = name.rpartition("/")
    if not version:
        raise InputError(f"{text!r} names no version")
    return {**part, "version": version, **({"session": session} if slash else {})}
