"""`fluvial audit`: read the audit log, hold it to its chain, take a copy of it.

All of it works with the server running and without it.
"""

import re
from collections.abc import Iterator
from itertools import islice
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
from fluvial.cli.terminal import clean_line, name_time, print_table, write_note

if TYPE_CHECKING:
    from fluvial.store.audit_check import Verified
    from fluvial.store.audit_entry import Entry
    from fluvial.store.audit_folder import Head

_HEAD = re.compile(r"([0-9]{1,15}):([0-9a-f]{64})", re.ASCII)


@click.group()
def audit() -> None:
    """Look at what was done here: the guard, releases, versions, administration."""


@audit.command("list")
@click.option("--kind", help="Only entries of this kind, or of this beginning such as 'guard'.")
@click.option("--subject", help="Only entries about this, such as the id of a session.")
@click.option("--last", type=click.IntRange(1, 1_000_000), default=50, show_default=True)
@click.option("--texts", is_flag=True, help="Show the texts that the setting audit_texts kept.")
@json_option
@data_dir_option
@config_option
def list_entries(
    kind: str | None,
    subject: str | None,
    last: int,
    texts: bool,
    as_json: bool,
    data_dir: Path | None,
    config_file: Path | None,
) -> None:
    """List the last entries, oldest first. JSON: one object a line."""
    from fluvial.store.audit_check import read_back

    folder = load_settings(config_file, data_dir=data_dir).data_dir
    chosen = (each for each in read_back(folder) if _is_wanted(each, kind, subject))
    entries = list(islice(chosen, last))[::-1]
    if as_json:
        for entry in entries:
            click.echo(entry.encode(), nl=False)
        return
    rows = [
        [
            str(entry.number),
            name_time(entry.time),
            entry.kind,
            clean_line(entry.actor),
            clean_line(entry.subject),
            clean_line(_write_detail(entry), width=200),
        ]
        for entry in entries
    ]
    print_table(["number", "time", "kind", "by", "on", "detail"], rows, right=(0,))
    if texts:
        _show_texts(folder, entries)


@audit.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--head", help="NUMBER:SHA256 of an entry, kept elsewhere, that must be there.")
@json_option
@data_dir_option
@config_option
def verify(
    file: Path | None,
    head: str | None,
    as_json: bool,
    data_dir: Path | None,
    config_file: Path | None,
) -> None:
    """Check every entry and the chain; exit code 1 names the first one that is broken.

    FILE is a copy made by `fluvial audit export`; without it, the log in the data folder is
    checked. Keep the head that is printed on another machine: it finds a log written anew.
    """
    from fluvial.store import audit_check

    expected = None if head is None else _parse_head(head)
    if file is None:
        settings = load_settings(config_file, data_dir=data_dir)
        found = audit_check.verify(settings.data_dir, expected=expected)
    else:
        heads = [] if expected is None else [expected]
        found = audit_check.check_lines(_read_file(file), heads=heads)
    if as_json:
        print_json(_describe(found))
    else:
        _tell(found)
    if found.problem is not None:
        raise click.exceptions.Exit(1)


@audit.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@data_dir_option
@config_option
def export(file: Path, data_dir: Path | None, config_file: Path | None) -> None:
    """Copy the log into one FILE of JSON lines, as it is; prints its head."""
    from fluvial.store import audit_check

    folder = load_settings(config_file, data_dir=data_dir).data_dir
    found = audit_check.verify(folder)
    try:
        with file.open("xb") as copy:
            copy.writelines(line for line in audit_check.read_snapshot(folder))
    except FileExistsError:
        raise click.UsageError(f"{file} is there already; choose another name") from None
    _tell(found)
    if found.problem is not None:
        raise click.exceptions.Exit(1)


def _is_wanted(entry: "Entry", kind: str | None, subject: str | None) -> bool:
    fits = kind is None or entry.kind == kind or entry.kind.startswith(f"{kind.rstrip('.')}.")
    return fits and (subject is None or entry.subject == subject)


def _write_detail(entry: "Entry") -> str:
    return ", ".join(f"{name} {value}" for name, value in entry.detail.items())


def _show_texts(data_dir: Path, entries: "list[Entry]") -> None:
    from fluvial.store.audit_folder import AuditFolder
    from fluvial.store.audit_text import Texts

    folder = AuditFolder(data_dir)
    texts = Texts(folder.texts, key=folder.read_key(), keep=False)
    for entry in entries:
        digest = entry.detail.get("text_hmac")
        if isinstance(digest, str):
            text = texts.read(digest, session=entry.subject)
            text = texts.read(digest, session=None) if text is None else text
            shown = "(not kept)" if text is None else clean_line(text, width=2000)
            click.echo(f"{entry.number}: {shown}")


def _parse_head(text: str) -> "Head":
    from fluvial.store.audit_folder import Head

    found = _HEAD.fullmatch(text)
    if found is None:
        raise click.UsageError("--head is NUMBER:SHA256, as `fluvial audit verify` prints it")
    return Head(number=int(found[1]), sha256=found[2])


def _read_file(file: Path) -> Iterator[bytes]:
    from fluvial.errors import NotFoundError
    from fluvial.store.audit_check import read_lines

    if not file.is_file():
        raise NotFoundError(f"there is no file {file}")
    return read_lines([(file, file.stat().st_size)])


def _describe(found: "Verified") -> dict[str, object]:
    return {
        "whole": found.problem is None,
        "problem": found.problem,
        "broken": found.broken,
        "entries": found.entries,
        "first": found.first,
        "head": f"{found.head.number}:{found.head.sha256}",
        "torn_bytes": found.torn_bytes,
    }


def _tell(found: "Verified") -> None:
    if found.problem is not None:
        write_note(f"broken at entry {found.broken}: {found.problem}")
        return
    click.echo(f"whole: {found.entries} entries, {found.first} to {found.head.number}")
    click.echo(f"head {found.head.number}:{found.head.sha256}")
    if found.torn_bytes:
        write_note(
            f"after it, {found.torn_bytes} bytes of an entry that was never acknowledged: its "
            "writer died; the next entry cuts them off"
        )
