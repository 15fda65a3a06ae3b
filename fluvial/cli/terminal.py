"""Text on a terminal: made safe to print, sizes and times for people."""

import re

import click

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """Replace control characters: text from models, files and servers must not steer the terminal.

    Newlines and tabs stay; so do all letters of all languages. Carriage returns are dropped.
    """
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r", ""))


def clean_line(text: str, *, width: int = 60) -> str:
    """Return `text` on one line of at most `width` characters."""
    line = " ".join(clean(text).split())
    return line if len(line) <= width else line[: width - 1] + "…"


def write_note(text: str) -> None:
    """Write one remark to stderr."""
    click.echo(clean(text), err=True)


def name_duration(seconds: float) -> str:
    """Write a time span for people: 45 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def name_time(epoch_s: float) -> str:
    """Write a moment in local time to the minute."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(epoch_s, UTC).astimezone().strftime("%Y-%m-%d %H:%M")


def print_table(headings: list[str], rows: list[list[str]], *, right: tuple[int, ...] = ()) -> None:
    """Print rows under headings on stdout; columns in `right` are aligned right.

    Nothing is cut when the output is not a terminal, so that it can be read by programs.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(clean(cell)) for cell in row))
    if not console.is_terminal:
        console.width = 10_000
    console.print(table)
