"""`fluvial sessions plot`: what a conversation read and gained, as a picture in a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fluvial.cli.chart import draw_chart
from fluvial.cli.connection import connect_to, write_file
from fluvial.cli.evidence import order_scores, sum_up
from fluvial.cli.option import server_options
from fluvial.cli.terminal import clean_line
from fluvial.errors import InputError

if TYPE_CHECKING:
    from fluvial.cli.client import Client

Json = dict[str, Any]
plot_option = click.option(
    "--plot",
    "plot_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Save a picture (SVG) of bits per byte, frozen and adapted, by tokens read.",
)


@click.command()
@click.argument("session")
@click.option(
    "--plot",
    "file",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The SVG to write.",
)
@click.option("--force", is_flag=True, help="Overwrite the file.")
@server_options
def plot(session: str, file: Path, force: bool, url: str | None, config_file: Path | None) -> None:
    """Draw all that a conversation has read: bits per byte before learning, frozen and adapted."""
    check_target(file, force=force)
    with connect_to(url, config_file) as client:
        save_plot(client, session, file, force=force)


def check_target(file: Path, *, force: bool) -> None:
    """Refuse a file that can't be written, before any work. Raises InputError."""
    if file.suffix.lower() != ".svg":
        raise InputError(f"{file}: pictures are SVG; give a name that ends with .svg")
    if not file.absolute().parent.is_dir():
        raise InputError(f"{file}: there is no folder {file.absolute().parent}")
    if file.exists() and not force:
        raise InputError(f"{file} exists; add --force to overwrite it")


def save_plot(
    client: "Client",
    session: str,
    file: Path,
    *,
    readings: Sequence[str] | None = None,
    force: bool,
) -> None:
    """Draw a session's scores, of `readings` only if given. Raises InputError if it has none."""
    from fluvial.cli.client import session_path

    found = client.get(session_path(session))
    scores = order_scores(client.get(session_path(session, "scores"))["data"])
    if readings is not None:
        scores = [score for score in scores if score["reading"] in readings]
    total = sum_up(scores)
    if total is None:
        raise InputError(f"nothing to draw: {clean_line(session)} has read no text yet")
    name = clean_line(found["title"] or found["id"], width=48)
    title = f"{name}: {total.frozen_bpb:.4f} frozen, {total.adapted_bpb:.4f} adapted"
    picture = draw_chart(scores, title=f"{title} ({total.gain:+.2%})", current=found["version"])
    write_file(file, picture.encode(), force=force)
    click.echo(f"{file}: {total.chunks} chunks")
