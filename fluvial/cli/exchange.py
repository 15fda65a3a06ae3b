"""`fluvial sessions export`, `import`: versions as files."""

import io
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile

import click

from fluvial.cli.connection import connect_to, write_file
from fluvial.cli.option import server_options
from fluvial.cli.version import name_version
from fluvial.errors import InputError

SUFFIXES = {"fluvial": ".safetensors", "peft": "", "gguf": ".gguf"}


@click.command()
@click.argument("session")
@click.argument("version", required=False)
@click.option("--format", type=click.Choice(list(SUFFIXES)), default="fluvial", show_default=True)
@click.option("--lossy", is_flag=True, help="Fold gains, which PEFT and GGUF can't say, in.")
@click.option("-o", "--output", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite what exists.")
@server_options
def export(
    session: str,
    version: str | None,
    format: str,
    lossy: bool,
    output: Path | None,
    force: bool,
    url: str | None,
    config_file: Path | None,
) -> None:
    """Write VERSION (left out: the one in force) as a file; for peft, as a folder."""
    from fluvial.cli.client import session_path

    with connect_to(url, config_file) as client:
        handle = version or str(client.get(session_path(session))["version"])
        if handle == "0":
            raise InputError("the base is in force: there is nothing to export")
        path = session_path(session, "versions", handle, "export")
        asked = {} if format == "fluvial" else {"format": format, "lossy": str(lossy).lower()}
        data, headers = client.download(path, **asked)
    target = output or Path(f"version-{handle}{SUFFIXES[format]}")
    if format == "peft":
        _unpack(data, target, force=force)
    else:
        write_file(target, data, force=force)
    click.echo(f"version {handle} is in {target} ({len(data):,} bytes)")
    loss = float(headers.get("fluvial-loss", "0"))
    if loss:
        click.echo(f"the format holds all but {loss:.2%} of its change")


@click.command("import")
@click.argument("session")
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@click.option("--rank", type=click.IntRange(1, 64), help="Compress to this rank. [default: 64]")
@server_options
def import_version(
    session: str, path: Path, rank: int | None, url: str | None, config_file: Path | None
) -> None:
    """Put the adapter at PATH in force as a new version: a file, or a PEFT folder."""
    from fluvial.cli.client import session_path

    name, data = _read(path)
    query = {} if rank is None else {"rank": rank}
    with connect_to(url, config_file) as client:
        there = session_path(session, "versions", "import")
        made = client.upload_bytes(there, name, data, **query)
    click.echo(f"{name_version(made)} is in force, from {made['format']}")
    if made["note"]:
        click.echo(made["note"])


def _read(path: Path) -> tuple[str, bytes]:
    """Return a file's name and bytes; of a folder, as a zip of its files."""
    try:
        if not path.is_dir():
            return path.name, path.read_bytes()
        packed = io.BytesIO()
        with ZipFile(packed, "w", ZIP_STORED) as archive:
            for file in sorted(path.glob("adapter_*")):
                archive.write(file, file.name)
        return f"{path.resolve().name}.zip", packed.getvalue()
    except OSError as error:
        raise InputError(f"{error.filename or path}: {error.strerror}") from None


def _unpack(data: bytes, folder: Path, *, force: bool) -> None:
    """Write the files of a zip that our own server made; their names are not trusted."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} can't be made: {error.strerror}") from None
    with ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            write_file(folder / Path(info.filename).name, archive.read(info), force=force)
