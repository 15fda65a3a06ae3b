"""`fluvial serve`: make sure the model is there, then answer requests until told to stop."""

from pathlib import Path

import click

from fluvial.cli.option import config_option, data_dir_option, load_settings


@click.command()
@click.option("--host", help="Address to listen on. [default: 127.0.0.1]")
@click.option(
    "--port", type=int, help="Port to listen on; 0 lets the system choose. [default: 8420]"
)
@data_dir_option
@config_option
@click.option("--model", help="Model to serve; pulled first when it is not installed.")
@click.option("--offline", is_flag=True, default=None, help="Never use the network.")
@click.option(
    "--mode",
    type=click.Choice(["development", "production"]),
    help="Production serves others, and only under a valid release. [default: development]",
)
@click.option(
    "--release",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The signed release of what is served.",
)
@click.option(
    "--release-key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The public key of who signs releases.",
)
@click.option("--threads", type=int, help="Decoding threads; 0 measures at start.")
def serve(
    host: str | None,
    port: int | None,
    data_dir: Path | None,
    config_file: Path | None,
    model: str | None,
    offline: bool | None,
    mode: str | None,
    release: Path | None,
    release_key: Path | None,
    threads: int | None,
) -> None:
    """Start the server and its page, on http://127.0.0.1:8420 unless told otherwise."""
    settings = load_settings(
        config_file,
        host=host,
        port=port,
        data_dir=data_dir,
        model=model,
        offline=offline,
        mode=mode,
        release=release,
        release_key=release_key,
        threads=threads,
    )
    from fluvial.cli.progress import TransferBar
    from fluvial.cli.terminal import write_note
    from fluvial.model.registry import Registry

    with TransferBar() as bar:
        Registry(settings.data_dir).ensure(settings.model, offline=settings.offline, progress=bar)
    from fluvial.server import app

    told = False

    def tell_build(_: float) -> None:
        nonlocal told
        if not told:
            write_note(f"building the decoding graph of {settings.model}, once; it takes seconds")
        told = True

    app.serve(settings, on_build=tell_build)
