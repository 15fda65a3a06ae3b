"""`fluvial sessions`: list, show, delete conversations; undo and freeze what they learned.

Commands for versions are in `version.py`, `exchange.py` and `publication.py`.
"""

from pathlib import Path
from typing import Any

import click

from fluvial.cli.connection import connect_to
from fluvial.cli.exchange import export, import_version
from fluvial.cli.option import json_option, print_json, server_options
from fluvial.cli.plot import plot
from fluvial.cli.publication import adopt, merge, publish, published, unpublish
from fluvial.cli.terminal import clean, clean_line, name_time, print_table
from fluvial.cli.version import branch, compare, delete_version, pin, restore, unpin, versions

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
    with connect_to(url, config_file) as client:
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

    with connect_to(url, config_file) as client:
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

    with connect_to(url, config_file) as client:
        for one in session:
            title = clean_line(client.get(session_path(one))["title"] or "no title")
            if not yes:
                click.confirm(f"Delete {one} ({title}) and all it learned?", abort=True)
            client.delete(session_path(one))
            click.echo(f"{one} is deleted")


@sessions.command()
@click.argument("session")
@click.argument("version", required=False)
@server_options
def undo(session: str, version: str | None, url: str | None, config_file: Path | None) -> None:
    """Go back to VERSION (0: the base; left out: the one before). No version is deleted."""
    with connect_to(url, config_file) as client:
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


def _set_learning(session: str, learning: str, url: str | None, config_file: Path | None) -> None:
    from fluvial.cli.client import session_path

    with connect_to(url, config_file) as client:
        client.patch(session_path(session), {"learning": learning})
    click.echo(f"{session} is {'frozen' if learning == 'frozen' else 'learning'}")


for command in (
    versions,
    compare,
    plot,
    pin,
    unpin,
    branch,
    delete_version,
    export,
    import_version,
    publish,
    unpublish,
    published,
    adopt,
    merge,
):
    sessions.add_command(command)
