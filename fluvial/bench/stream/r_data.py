"""Read vectors of strings out of an R package's data, as R's lazy loading stores them.

Source: R Internals, section 1.8 "Serialization Formats" and 1.6 on `.rdb` files.
"""

import struct
import zlib

from fluvial.errors import SourceError

MAX_OBJECT_BYTES = 2**24
_HEAD = b"X\n"
_VECTOR, _STRING = 16, 9


def read_vectors(database: bytes) -> list[list[str]]:
    """Return the vectors of strings in a `.rdb` file. Raises SourceError when it has other things.

    Each object is its length (4 bytes, big-endian) and a zlib stream of R's XDR form.
    """
    vectors: list[list[str]] = []
    at = 0
    try:
        while at < len(database):
            inflater = zlib.decompressobj()
            raw = inflater.decompress(database[at + 4 :], MAX_OBJECT_BYTES)
            if not inflater.eof:
                raise SourceError("R's data holds an object that is too large or cut off")
            at = len(database) - len(inflater.unused_data)
            vectors.append(_read_vector(raw))
    except (zlib.error, struct.error, UnicodeDecodeError) as error:
        raise SourceError(f"R's data is damaged: {error}") from None
    return vectors


def _read_vector(raw: bytes) -> list[str]:
    version, _, _, encoding_bytes = struct.unpack_from(">4i", raw, 2)
    at = 18 + encoding_bytes
    kind, count = struct.unpack_from(">2i", raw, at)
    if raw[:2] != _HEAD or version != 3 or kind & 0xFF != _VECTOR:
        raise SourceError("R's data holds something else than plain vectors of strings")
    at += 8
    strings: list[str] = []
    for _ in range(count):
        kind, length = struct.unpack_from(">2i", raw, at)
        if kind & 0xFF != _STRING or not 0 <= length <= len(raw) - at - 8:
            raise SourceError("R's data holds a vector of something else than strings")
        strings.append(raw[at + 8 : at + 8 + length].decode("utf-8"))
        at += 8 + length
    return strings
