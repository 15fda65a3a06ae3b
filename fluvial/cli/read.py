"""`fluvial read SESSION FILE...`: have a session read files, and see what it gained."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fluvial.cli.evidence import Evidence, order_scores, sum_up
from fluvial.cli.option import load_settings, server_options
from fluvial.cli.plot import check_target, plot_option, save_plot
from fluvial.cli.terminal import clean, clean_line, name_duration, print_table, write_note
from fluvial.cli.version import name_drift, name_version
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
@plot_option
@click.option("--force", is_flag=True, help="Overwrite the file of --plot.")
@server_options
def read(
    session: str,
    files: tuple[Path, ...],
    plot_file: Path | None,
    force: bool,
    url: str | None,
    config_file: Path | None,
) -> int:
    """Have SESSION (`new` begins one) read FILES: text, Markdown, HTML or PDF.

    The reading goes on in the server when this command is stopped. At its end: surprise before
    learning, frozen and adapted; the seconds it cost; what was not learned from, and why; and how
    far the model drifted, of its budget.
    """
    settings = load_settings(config_file)
    if plot_file is not None:
        check_target(plot_file, force=force)
    from fluvial.cli.client import connect, session_path

    with connect(url, settings=settings) as client:
        if session != "new":
            client.get(session_path(session))
            started = send_files(client, session, files)
        else:
            session, started = _begin(client, files)
        done = watch(client, session, started)
        if plot_file is not None:
            ids = [reading["id"] for reading in started]
            save_plot(client, session, plot_file, readings=ids, force=force)
        return 0 if done else 1


def _begin(client: "Client", files: Sequence[Path]) -> tuple[str, list[Json]]:
    """Begin a session that reads `files`; none stays behind where they are refused."""
    from fluvial.cli.client import session_path

    session = client.post("/v1/sessions", {"title": files[0].name[:80]})["id"]
    try:
        started = send_files(client, session, files)
    except FluvialError:
        client.delete(session_path(session))
        raise
    click.echo(f"session {session}")
    return session, started


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
    """Print what reading gained, what it cost and left out, and how far the model drifted."""
    from fluvial.cli.client import session_path

    scores = order_scores(client.get(session_path(session, "scores"))["data"])
    own = {
        reading["id"]: sum_up([score for score in scores if score["reading"] == reading["id"]])
        for reading in readings
    }
    rows = [_make_row(reading, own[reading["id"]]) for reading in readings]
    headings = ["file", "status", "tokens", "frozen bits/byte", "adapted bits/byte", "gain", "cost"]
    print_table(headings, rows, right=(2, 3, 4, 5, 6))
    for reading in readings:
        total = own[reading["id"]]
        if total is not None and total.left_out:
            click.echo(f"{clean_line(reading['name'])}: {total.explain_left_out()}")
    _report_drift(client.get(session_path(session, "versions")))
    for reading in readings:
        if reading["error"]:
            write_note(f"{clean(reading['name'])}: {reading['error']}")


def _make_row(reading: Json, total: Evidence | None) -> list[str]:
    row = [reading["name"], reading["status"], f"{reading['tokens_read']:,}"]
    if total is None:
        return [*row, "", "", "", ""]
    cost = "" if total.seconds is None else name_duration(total.seconds)
    bits = [f"{total.frozen_bpb:.4f}", f"{total.adapted_bpb:.4f}"]
    return [*row, *bits, f"{total.gain:+.2%}", cost]


def _report_drift(versions: Json) -> None:
    """Print how far the version in force drifted, and what was done about it."""
    for version in versions["data"]:
        if version["number"] == versions["current"]:
            drift = name_drift(version["drift"], versions["drift_budget"])
            note = f"; {clean_line(version['note'], width=200)}" if version["note"] else ""
            click.echo(f"{name_version(version)} is in force: drift {drift}{note}")
