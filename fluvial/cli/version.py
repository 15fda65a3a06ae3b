"""`fluvial sessions`: the versions of what a conversation learned; see, compare, keep, branch."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fluvial.cli.connection import connect_to
from fluvial.cli.option import json_option, print_json, server_options
from fluvial.cli.terminal import clean_line, name_time, print_table
from fluvial.errors import InputError

if TYPE_CHECKING:
    from fluvial.cli.client import Client

Json = dict[str, Any]

HEADINGS = [
    *(
        "version",
        "id",
        "from",
        "origin",
        "tokens",
        "updates/skipped",
        "frozen -> adapted bits/byte",
    ),
    *("drift", "bytes", "made", "note"),
]
RIGHT = (4, 5, 6, 7, 8)


@click.command()
@click.argument("session")
@json_option
@server_options
def versions(session: str, as_json: bool, url: str | None, config_file: Path | None) -> None:
    """List the versions of what a conversation learned.

    Bits per byte are of the text that a version learned, before that: under the frozen base, and
    as the adapter was. Drift is nats a token, of its budget.
    """
    from fluvial.cli.client import session_path

    with connect_to(url, config_file) as client:
        found = client.get(session_path(session, "versions"))
    if as_json:
        print_json(found)
        return
    print_table(HEADINGS, [_make_row(version, found) for version in found["data"]], right=RIGHT)
    marks = "* in force" if found["current"] else "the base is in force"
    click.echo(f"{marks}; {found['bytes']:,} of {found['limit_bytes']:,} bytes")


@click.command()
@click.argument("session")
@click.argument("a")
@click.argument("b")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@json_option
@server_options
def compare(
    session: str,
    a: str,
    b: str,
    file: Path,
    as_json: bool,
    url: str | None,
    config_file: Path | None,
) -> None:
    """Show bits per byte of FILE, a text, under the versions A and B, and under the base."""
    from fluvial.cli.client import session_path

    text = _read_text(file)
    with connect_to(url, config_file) as client:
        body = {"a": a, "b": b, "text": text}
        found = client.post(session_path(session, "compare"), body, timeout_s=None)
    if as_json:
        print_json(found)
        return
    base = found["base"]["bits_per_byte"]
    rows = [
        [name, f"{bits:.4f}", f"{1 - bits / base:+.2%}" if base else ""]
        for name, bits in [
            ("base", base),
            *((f"version {found[k]['number']}", found[k]["bits_per_byte"]) for k in ("a", "b")),
        ]
    ]
    print_table(["", "bits/byte", "better by"], rows, right=(1, 2))
    click.echo(f"{clean_line(file.name)}: {found['tokens']:,} tokens, {found['bytes']:,} bytes")


@click.command()
@click.argument("session")
@click.argument("version")
@server_options
def pin(session: str, version: str, url: str | None, config_file: Path | None) -> None:
    """Keep VERSION from quota and expiry."""
    _set_pinned(session, version, True, url, config_file)


@click.command()
@click.argument("session")
@click.argument("version")
@server_options
def unpin(session: str, version: str, url: str | None, config_file: Path | None) -> None:
    """Let quota and expiry have VERSION."""
    _set_pinned(session, version, False, url, config_file)


@click.command()
@click.argument("session")
@click.argument("version")
@click.option("--title", default="", help="[default: that of SESSION]")
@click.option("--messages", is_flag=True, help="Copy the messages too.")
@server_options
def branch(
    session: str,
    version: str,
    title: str,
    messages: bool,
    url: str | None,
    config_file: Path | None,
) -> None:
    """Begin a conversation with a copy of VERSION (0: the base)."""
    from fluvial.cli.client import session_path

    with connect_to(url, config_file) as client:
        body = {"title": title, "messages": messages}
        made = client.post(session_path(session, "versions", version, "branch"), body)
    click.echo(f"session {made['id']}")


@click.command("delete-version")
@click.argument("session")
@click.argument("version", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Don't ask.")
@server_options
def delete_version(
    session: str, version: tuple[str, ...], yes: bool, url: str | None, config_file: Path | None
) -> None:
    """Delete versions for good: file, and everything computed by them."""
    from fluvial.cli.client import session_path

    with connect_to(url, config_file) as client:
        for one in version:
            found = client.get(session_path(session, "versions", one))
            if not yes:
                click.confirm(f"Delete {name_version(found)} for good?", abort=True)
            client.delete(session_path(session, "versions", found["number"]))
            click.echo(f"{name_version(found)} is deleted")


def restore(client: "Client", session: str, version: str | int | None) -> int:
    """Put `version` (None: the parent of the one in force) in force; return its number.

    Raises InputError when the base is in force already and no version is given.
    """
    from fluvial.cli.client import session_path

    if version is None:
        found = client.get(session_path(session, "versions"))
        if found["current"] == 0:
            raise InputError("the base is in force: there is nothing to undo")
        parents = {each["number"]: each["parent"] for each in found["data"]}
        version = parents[found["current"]]
        if version not in {0, *parents}:
            raise InputError(
                f"version {version}, which came before, is deleted; name one, or 0 for the base"
            )
    return client.post(session_path(session, "versions", version, "restore"))["version"]


def name_version(version: Json) -> str:
    """Name a version for people."""
    return f"version {version['number']} ({version['short']})"


def _make_row(version: Json, found: Json) -> list[str]:
    marks = " *" if version["number"] == found["current"] else ""
    return [
        f"{version['number']}{marks}{' pinned' if version['pinned'] else ''}",
        version["short"],
        _name_parents(version, found["data"]),
        version["origin"],
        f"{version['tokens_learned']:,}",
        f"{version['updates']}/{version['skipped']}",
        f"{_name_bits(version['frozen_bits_per_byte'])}"
        f" -> {_name_bits(version['score_before_bits_per_byte'])}",
        name_drift(version["drift"], found["drift_budget"]),
        f"{version['bytes']:,}",
        name_time(version["created_at"]),
        clean_line(version["note"], width=200),
    ]


def _name_parents(version: Json, versions: list[Json]) -> str:
    """Name what a version was made from, by number where the session still has it."""
    if not version["parents"]:
        return "base"
    numbers: dict[str, str] = {each["id"]: str(each["number"]) for each in versions}
    parents: list[str] = version["parents"]
    return "+".join(numbers.get(parent, parent[:12]) for parent in parents)


def _name_bits(bits: float | None) -> str:
    return "-" if bits is None else f"{bits:.4f}"


def name_drift(drift: float | None, budget: float) -> str:
    """Write a drift, in nats a token, against its budget."""
    return "not measured" if drift is None else f"{drift:.4f} of {budget:g}"


def _set_pinned(
    session: str, version: str, pinned: bool, url: str | None, config_file: Path | None
) -> None:
    from fluvial.cli.client import session_path

    with connect_to(url, config_file) as client:
        changed = client.patch(session_path(session, "versions", version), {"pinned": pinned})
    click.echo(f"{name_version(changed)} is {'pinned' if pinned else 'no longer pinned'}")


def _read_text(file: Path) -> str:
    try:
        return file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not a text in UTF-8: {error}") from None
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from None
