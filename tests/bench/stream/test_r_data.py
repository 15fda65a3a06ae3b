import struct
import zlib

import pytest

from fluvial.bench.stream.r_data import read_vectors
from fluvial.errors import SourceError


def pack(*strings: str, kind: int = 16, version: int = 3) -> bytes:
    head = b"X\n" + struct.pack(">4i", version, 0x40200, 0x30500, 5) + b"UTF-8"
    body = struct.pack(">2i", kind, len(strings))
    for string in strings:
        raw = string.encode()
        body += struct.pack(">2i", 0x40009, len(raw)) + raw
    return head + body


def store(*objects: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(raw)) + zlib.compress(raw) for raw in objects)


def test_reads_every_vector() -> None:
    assert read_vectors(store(pack("a", "", "诗"), pack())) == [["a", "", "诗"], []]
    assert read_vectors(b"") == []


@pytest.mark.parametrize(
    "raw",
    [
        store(pack("a", kind=13)),
        store(pack("a", version=2)),
        store(pack("abc"))[:-4],
        store(pack("abc")[:-1]),
        store(b"X\n"),
        store(pack("a").replace(b"\0\0\0\1a", b"\x7f\0\0\1a")),
        store(pack("a").replace(b"\0\0\0\1a", b"\xff\xff\xff\xffa")),
        store(b"X\n" + bytes(2**24)),
        b"\0\0\0\1nothing that zlib made",
    ],
)
def test_anything_else_is_refused(raw: bytes) -> None:
    with pytest.raises(SourceError, match="R's data"):
        read_vectors(raw)
