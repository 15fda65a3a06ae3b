"""Bounds on files that come in, before they are read; files that go out, whole or not at all."""

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from fluvial.errors import ConflictError, ModelError, StorageError, TooLargeError, UnsupportedError
from fluvial.model.exchange.linear import Linear
from fluvial.model.exchange.term import MAX_RANK

HEADER_BYTES = 4 * 2**20
"""Room for names, shapes and metadata; real headers are under 100 kB."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def check_incoming(path: Path, *, limit_bytes: int) -> None:
    """Raise unless `path` is a plain file of at most `limit_bytes`.

    UnsupportedError for the formats that would run code when read, ModelError when there is no such
    file, TooLargeError when it is over the limit. Nothing of it is read.
    """
    if path.suffix.lower() in PICKLES:
        raise UnsupportedError(
            f"{path.name} may be a pickle, which could run code when it is read; "
            "give the adapter as safetensors or GGUF"
        )
    if not path.is_file():
        raise ModelError(f"there is no file {path.name} in {path.parent.name or path.parent}")
    size = path.stat().st_size
    if size > limit_bytes:
        raise TooLargeError(
            f"{path.name} has {size:,} bytes; an adapter of rank {MAX_RANK} for this model "
            f"has at most {limit_bytes:,}"
        )


def bound_bytes(linears: Iterable[Linear]) -> int:
    """Return what a file with float32 terms of the highest rank on all linears may take."""
    return HEADER_BYTES + sum(4 * MAX_RANK * (each.inputs + each.outputs) for each in linears)


def check_absent(*paths: Path) -> None:
    """Raise ConflictError if one of these files exists: an export replaces nothing."""
    for path in paths:
        if path.exists():
            raise ConflictError(f"{path} exists already; export to another place or remove it")


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make the file under another name, then give it its own.

    Raises StorageError when the disk refuses; nothing is left behind then.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        os.replace(partial, path)
    except OSError as error:
        raise StorageError(f"{path} can't be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
