"""Connect to the server that the settings name; write what came from it."""

from pathlib import Path
from typing import TYPE_CHECKING

from fluvial.cli.option import load_settings
from fluvial.errors import InputError

if TYPE_CHECKING:
    from fluvial.cli.client import Client


def connect_to(url: str | None, config_file: Path | None) -> "Client":
    """Return a client for the server at `url`, or where the settings put it."""
    settings = load_settings(config_file)
    from fluvial.cli.client import connect

    return connect(url, settings=settings)


def write_file(file: Path, data: bytes, *, force: bool) -> None:
    """Write a file; one that exists only with `force`. Raises InputError."""
    try:
        with file.open("wb" if force else "xb") as target:
            target.write(data)
    except FileExistsError:
        raise InputError(f"{file} exists; add --force to overwrite it") from None
    except OSError as error:
        raise InputError(f"{file} can't be written: {error.strerror}") from None
