"""`fluvial read SESSION FILE...`: have a session read files, and see what it gained."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fluvial.cli.option import load_settings, server_options
from fluvial.cli.terminal import clean, print_table, write_note
from fluvial.errors import FluvialError

if TYPE_CHECKING:
    from fluvial.cli.client import Client

POLL_S = 0.5
_ENDED = ("done", "cancelled", "failed")
Json = dict[str, Any]


@click.command()
@click.argument("session")
@click.argument(
    "files",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False, readable=True),
)
@server_options
def read(session: str, files: tuple[Path, ...], url: str | None, config_file: Path | None) -> int:
    """Have SESSION (`new` begins one) read FILES: text, Markdown, HTML or PDF.

    The reading goes on in the server when this command is stopped.
    """
    settings = load_settings(config_file)
    from fluvial.cli.client import connect, session_path

    with connect(url, settings=settings) as client:
        if session != "new":
            client.get(session_path(session))
            return 0 if read_files(client, session, files) else 1
        session = client.post("/v1/sessions", {"title": files[0].name[:80]})["id"]
        try:
            started = send_files(client, session, files)
        except FluvialError:
            client.delete(session_path(session))
            raise
        click.echo(f"session {session}")
        return 0 if watch(client, session, started) else 1


def read_files(client: "Client", session: str, files: Sequence[Path]) -> bool:
    """Send `files`, follow their reading, print the gain; tell whether all were read to the end."""
    return watch(client, session, send_files(client, session, files))


def send_files(client: "Client", session: str, files: Sequence[Path]) -> list[Json]:
    """Send `files` to a session; return their readings, which begin in the background."""
    from fluvial.cli.client import session_path

    return [client.upload(session_path(session, "readings"), file) for file in files]


def watch(client: "Client", session: str, started: Sequence[Json]) -> bool:
    """Follow readings to their end and print the gain; tell whether all came to it."""
    try:
        ended = _follow(client, session, [reading["id"] for reading in started])
    except KeyboardInterrupt:
        write_note(f"no longer watching; the session reads on (`fluvial sessions show {session}`)")
        raise
    _report(client, session, ended)
    return all(reading["status"] == "done" for reading in ended)


def _follow(client: "Client", session: str, ids: list[str]) -> list[Json]:
    from fluvial.cli.progress import Bar

    ended: list[Json] = []
    with Bar(unit="tokens") as bar:
        for wanted in ids:
            reading = _find(client, session, wanted)
            bar.start(reading["name"], total=reading["tokens_total"])
            while True:
                bar.reach(
                    reading["tokens_read"],
                    total=reading["tokens_total"],
                    left_s=reading.get("seconds_left"),
                )
                if reading["status"] in _ENDED:
                    break
                time.sleep(POLL_S)
                reading = _find(client, session, wanted)
            ended.append(reading)
    return ended


def _find(client: "Client", session: str, wanted: str) -> Json:
    from fluvial.cli.client import ServerError, session_path

    for reading in client.get(session_path(session, "readings"))["data"]:
        if reading["id"] == wanted:
            return reading
    raise ServerError(f"the reading {wanted} was removed from the session")


def _report(client: "Client", session: str, readings: list[Json]) -> None:
    """Print bits per byte, frozen beside adapted, over all bytes scored of each reading."""
    from fluvial.cli.client import session_path

    scores: list[Json] = client.get(session_path(session, "scores"))["data"]
    rows = [_summarise(reading, scores) for reading in readings]
    headings = ["file", "status", "tokens", "frozen bits/byte", "adapted bits/byte", "gain"]
    print_table(headings, rows, right=(2, 3, 4, 5))
    for reading in readings:
        if reading["error"]:
            write_note(f"{clean(reading['name'])}: {reading['error']}")


def _summarise(reading: Json, scores: list[Json]) -> list[str]:
    own = [score for score in scores if score["reading"] == reading["id"]]
    row = [reading["name"], reading["status"], f"{reading['tokens_read']:,}"]
    size = sum(score["bytes"] for score in own)
    if not size:
        return [*row, "", "", ""]
    frozen = sum(score["frozen_bits_per_byte"] * score["bytes"] for score in own) / size
    adapted = sum(score["adapted_bits_per_byte"] * score["bytes"] for score in own) / size
    gain = 100 * (1 - adapted / frozen) if frozen else 0.0
    return [*row, f"{frozen:.4f}", f"{adapted:.4f}", f"{gain:+.2f}%"]
