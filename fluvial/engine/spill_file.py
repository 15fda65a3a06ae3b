"""The files that kept prefixes stand in: safetensors, with a header that is checked first.

The metadata names the format, the checkpoint, the engine's version, the lane (its digest) and a
checksum; `chain` holds digests of the tokens, in links of LINK_TOKENS: each stands for everything
up to its end, so that beginnings are compared without the tokens.
"""

import hashlib
import json
import logging
import os
import secrets
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

Tensors = Mapping[str, NDArray[Any]]

FORMAT = "fluvial-cache-1"
LINK_TOKENS = 16

_MAX_HEADER_BYTES = 10_000_000
_LINK_CHARS = 16
_log = logging.getLogger(__name__)


def write_file(path: Path, tensors: Tensors, *, header: Mapping[str, str]) -> int:
    """Write a private file, whole or not at all; return its size in bytes. Raises OSError."""
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    metadata = {"format": FORMAT, **header, "crc32": str(_checksum(arrays))}
    data = safetensors.numpy.save(arrays, metadata=metadata)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return len(data)


def make_chain(tokens: NDArray[np.int32], salt: str) -> tuple[str, str]:
    """Return the digests of all whole links, one after another, and one of everything."""
    state = hashlib.blake2b(salt.encode(), digest_size=32)
    links: list[str] = []
    whole = len(tokens) - len(tokens) % LINK_TOKENS
    data = np.ascontiguousarray(tokens, np.int32).tobytes()
    for start in range(0, whole, LINK_TOKENS):
        state.update(data[4 * start : 4 * (start + LINK_TOKENS)])
        links.append(state.hexdigest()[:_LINK_CHARS])
    state.update(data[4 * whole :])
    return "".join(links), state.hexdigest()


def count_links(left: str, right: str) -> int:
    """Count the links that are the same; each stands for all tokens up to its end."""

    def same(count: int) -> bool:
        at = slice(_LINK_CHARS * (count - 1), _LINK_CHARS * count)
        return left[at] == right[at]

    low, high = 0, min(len(left), len(right)) // _LINK_CHARS
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if same(middle) else (low, middle - 1)
    return low


def digest(text: str) -> str:
    """Return a name for `text` that doesn't tell it."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _checksum(arrays: Tensors) -> int:
    total = 0
    for name in sorted(arrays):
        label = f"{name} {arrays[name].dtype} {arrays[name].shape}"
        total = zlib.crc32(label.encode(), total)
        total = zlib.crc32(np.ascontiguousarray(arrays[name]).tobytes(), total)
    return total


def read_file(path: Path) -> Tensors | None:
    """Read what `write_file` wrote; None, with a line in the log, where it is damaged or gone."""
    try:
        header = read_header(path)
        arrays = safetensors.numpy.load(path.read_bytes())
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        _log.warning("the cache %s is damaged: %s", path.name[:12], error)
        return None
    if header is None or header.get("crc32") != str(_checksum(arrays)):
        _log.warning("the cache %s is damaged: its checksum differs", path.name[:12])
        return None
    return arrays


def read_header(path: Path) -> dict[str, Any] | None:
    """Return the metadata of a safetensors file; None where there is none to trust."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= _MAX_HEADER_BYTES:
                return None
            header = json.loads(file.read(length))
    except (OSError, ValueError, RecursionError):
        return None
    found = header.get("__metadata__") if isinstance(header, dict) else None
    return found if isinstance(found, dict) else None
