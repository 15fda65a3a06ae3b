"""The frames between the server and its child processes: a JSON header, then raw bytes. No pickle.

4 bytes   length of the header, little-endian
8 bytes   length of the body, little-endian
header    UTF-8 JSON object
body      bytes (safetensors, or nothing)
"""

import json
import struct
from typing import Any, BinaryIO

_LENGTHS = struct.Struct("<IQ")
MAX_HEADER_BYTES = 16 * 2**20
MAX_BODY_BYTES = 4 * 2**30


class ClosedError(Exception):
    """The other side has gone; no frame can follow."""


def write_frame(stream: BinaryIO, header: dict[str, Any], body: bytes = b"") -> None:
    """Write one frame and flush; raises ClosedError when nobody reads any more."""
    data = json.dumps(header).encode()
    try:
        stream.write(_LENGTHS.pack(len(data), len(body)))
        stream.write(data)
        stream.write(body)
        stream.flush()
    except (BrokenPipeError, ValueError):
        raise ClosedError from None


def read_frame(stream: BinaryIO) -> tuple[dict[str, Any], bytes]:
    """Read one frame. Raises ClosedError at the stream's end, ValueError for one out of bounds."""
    header_length, body_length = _LENGTHS.unpack(_read_exactly(stream, _LENGTHS.size))
    if header_length > MAX_HEADER_BYTES or body_length > MAX_BODY_BYTES:
        raise ValueError(f"a frame of {header_length} + {body_length} bytes is out of bounds")
    header = json.loads(_read_exactly(stream, header_length))
    return header, _read_exactly(stream, body_length)


def _read_exactly(stream: BinaryIO, length: int) -> bytes:
    data = stream.read(length)
    if len(data) < length:
        raise ClosedError
    return data
