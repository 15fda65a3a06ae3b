"""`fluvial sessions`: list, show, delete conversations; undo, freeze, export what they learned."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fluvial.cli.option import json_option, load_settings, print_json, server_options
from fluvial.cli.terminal import clean, clean_line, name_time, print_table
from fluvial.errors import InputError

if TYPE_CHECKING:
    from fluvial.cli.client import Client

Json = dict[str, Any]


@click.group()
def sessions() -> None:
    """Look at conversations, and at what they learned."""


@sessions.command("list")
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True)
@json_option
@server_options
def list_sessions(limit: int, as_json: bool, url: str | None, config_file: Path | None) -> None:
    """List conversations, newest first."""
    with _connect(url, config_file) as client:
        found: list[Json] = client.get("/v1/sessions", limit=limit)["data"]
    if as_json:
        print_json(found)
        return
    rows = [
        [
            session["id"],
            clean_line(session["title"] or ""),
            session["model"],
            str(session["version"]),
            session["learning"],
            name_time(session["updated_at"]),
        ]
        for session in found
    ]
    print_table(["session", "title", "model", "version", "learning", "changed"], rows, right=(3,))


@sessions.command()
@click.argument("session")
@json_option
@server_options
def show(session: str, as_json: bool, url: str | None, config_file: Path | None) -> None:
    """Show a conversation: its state, what it has read, its messages."""
    from fluvial.cli.client import session_path

    with _connect(url, config_file) as client:
        found = client.get(session_path(session))
        readings = client.get(session_path(session, "readings"))["data"]
        messages = client.get(session_path(session, "messages"))["data"]
    if as_json:
        print_json({**found, "readings": readings, "messages": messages})
        return
    context = found["context"]
    click.echo(f"{found['id']}  {clean_line(found['title'] or '')}")
    click.echo(
        f"model {found['model']}, version {found['version']}, learning {found['learning']}, "
        f"context {context['used_tokens']} of {context['limit_tokens']} tokens"
    )
    for reading in readings:
        total = "?" if reading["tokens_total"] is None else f"{reading['tokens_total']:,}"
        name = clean_line(reading["name"])
        click.echo(f"  {reading['status']:9} {reading['tokens_read']:,}/{total} tokens  {name}")
    for message in messages:
        click.echo(f"\n{message['role']}:\n{clean(message['content'])}")


@sessions.command()
@click.argument("session", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Don't ask.")
@server_options
def delete(session: tuple[str, ...], yes: bool, url: str | None, config_file: Path | None) -> None:
    """Delete conversations: messages, readings, versions, files."""
    from fluvial.cli.client import session_path

    with _connect(url, config_file) as client:
        for one in session:
            title = clean_line(client.get(session_path(one))["title"] or "no title")
            if not yes:
                click.confirm(f"Delete {one} ({title}) and all it learned?", abort=True)
            client.delete(session_path(one))
            click.echo(f"{one} is deleted")


@sessions.command()
@click.argument("session")
@json_option
@server_options
def versions(session: str, as_json: bool, url: str | None, config_file: Path | None) -> None:
    """List the versions of what a conversation learned."""
    from fluvial.cli.client import session_path

    with _connect(url, config_file) as client:
        found = client.get(session_path(session, "versions"))
    if as_json:
        print_json(found)
        return
    rows = [
        [
            f"{version['number']}{' *' if version['number'] == found['current'] else ''}",
            str(version["parent"]),
            f"{version['tokens_learned']:,}",
            str(version["updates"]),
            f"{version['drift']:.2e}",
            f"{version['bytes']:,}",
            name_time(version["created_at"]),
        ]
        for version in found["data"]
    ]
    headings = ["version", "from", "tokens", "updates", "drift", "bytes", "made"]
    print_table(headings, rows, right=(1, 2, 3, 4, 5))
    click.echo("* in force" if found["current"] else "the base is in force")


@sessions.command()
@click.argument("session")
@click.argument("version", required=False, type=click.IntRange(min=0))
@server_options
def undo(session: str, version: int | None, url: str | None, config_file: Path | None) -> None:
    """Go back to VERSION (0: the base; left out: the one before). No version is deleted."""
    with _connect(url, config_file) as client:
        click.echo(f"version {restore(client, session, version)} is in force")


@sessions.command()
@click.argument("session")
@server_options
def freeze(session: str, url: str | None, config_file: Path | None) -> None:
    """Stop learning: a frozen conversation still reads and scores."""
    _set_learning(session, "frozen", url, config_file)


@sessions.command()
@click.argument("session")
@server_options
def unfreeze(session: str, url: str | None, config_file: Path | None) -> None:
    """Learn again."""
    _set_learning(session, "on", url, config_file)


@sessions.command()
@click.argument("session")
@click.argument("version", required=False, type=click.IntRange(min=1))
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--force", is_flag=True, help="Overwrite the file when it exists.")
@server_options
def export(
    session: str,
    version: int | None,
    output: Path | None,
    force: bool,
    url: str | None,
    config_file: Path | None,
) -> None:
    """Write VERSION (left out: the one in force) as a safetensors file."""
    from fluvial.cli.client import session_path

    with _connect(url, config_file) as client:
        number = version or client.get(session_path(session))["version"]
        if number == 0:
            raise InputError("the base is in force: there is nothing to export")
        data = client.download(session_path(session, "versions", number, "export"))
    file = output or Path(f"version-{number}.safetensors")
    _write(file, data, force)
    click.echo(f"version {number} is in {file} ({len(data):,} bytes)")


def restore(client: "Client", session: str, number: int | None) -> int:
    """Make version `number` (None: the parent of the one in force) the one in force; return it.

    Raises InputError when the base is in force already and no number is given.
    """
    from fluvial.cli.client import session_path

    if number is None:
        found = client.get(session_path(session, "versions"))
        if found["current"] == 0:
            raise InputError("the base is in force: there is nothing to undo")
        number = next(
            version["parent"] for version in found["data"] if version["number"] == found["current"]
        )
    return client.post(session_path(session, "versions", number, "restore"))["version"]


def _set_learning(session: str, learning: str, url: str | None, config_file: Path | None) -> None:
    from fluvial.cli.client import session_path

    with _connect(url, config_file) as client:
        client.patch(session_path(session), {"learning": learning})
    click.echo(f"{session} is {'frozen' if learning == 'frozen' else 'learning'}")


def _connect(url: str | None, config_file: Path | None) -> "Client":
    settings = load_settings(config_file)
    from fluvial.cli.client import connect

    return connect(url, settings=settings)


def _write(file: Path, data: bytes, force: bool) -> None:
    try:
        with file.open("wb" if force else "xb") as target:
            target.write(data)
    except FileExistsError:
        raise InputError(f"{file} exists; add --force to overwrite it") from None
    except OSError as error:
        raise InputError(f"{file} can't be written: {error.strerror}") from None
