"""Damage files where their structure is: counts, lengths, types, offsets, and the text of values.

All functions take a `random.Random`, so that Hypothesis (which can shrink its draws), a plain seed
and a coverage-guided fuzzer can drive the same mutations.
"""

import json
import random
import struct
from dataclasses import dataclass
from typing import Any

# Numbers at which sizes, signs and types turn over.
NUMBERS = (
    *(0, 1, 2, 3, 7, 8, 9, 31, 32, 255, 256, 4096, 65535, 65536, 2**20, 2**24, 2**31 - 1, 2**31),
    *(2**32 - 1, 2**32, 2**33, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 1),
)
_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_FLOATS = (float("nan"), float("inf"), float("-inf"), -0.0, 0.0, 1e-45, 1e38, -1.0)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**53, 2**63, 2**64, 10**40, 0.5, -0.0, 1e308),
    *(float("nan"), float("inf"), "", " ", "\0", "\ud800", "\u2581", "x" * 3000, "<unk>", "BPE"),
    *([], {}, [[]], [None], [1, 2], ["a", "b"], {"a": 1}, {"type": "Sequence"}),
)


@dataclass
class Chunk:
    """A piece of a GGUF file; `kind` says what its bytes are (`count`, `text`, `data`, ...)."""

    kind: str
    data: bytes


class _Walk:
    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.chunks = data, 0, list[Chunk]()

    def take(self, size: int, kind: str) -> bytes:
        if size > len(self.data) - self.at:
            raise EOFError
        found = self.data[self.at : self.at + size]
        self.at += size
        self.chunks.append(Chunk(kind, found))
        return found

    def number(self, size: int, kind: str) -> int:
        return int.from_bytes(self.take(size, kind), "little")

    def text(self) -> None:
        self.take(self.number(8, "length"), "text")

    def value(self, kind: int) -> None:
        if kind == 8:
            self.text()
        elif kind == 9:
            inner, count = self.number(4, "type"), self.number(8, "count")
            if inner == 8:
                for _ in range(count):
                    self.text()
            else:
                self.take(count * _WIDTHS[inner], "array")
        else:
            self.take(_WIDTHS[kind], "value")


def split_gguf(data: bytes) -> list[Chunk]:
    """Return the chunks of a GGUF file; what can't be followed is one chunk at the end."""
    walk = _Walk(data)
    try:
        walk.take(4, "magic")
        walk.number(4, "version")
        tensors, values = walk.number(8, "count"), walk.number(8, "count")
        for _ in range(values):
            walk.text()
            walk.value(walk.number(4, "type"))
        for _ in range(tensors):
            walk.text()
            for _ in range(walk.number(4, "rank")):
                walk.number(8, "dimension")
            walk.number(4, "type")
            walk.number(8, "offset")
    except (EOFError, KeyError, OverflowError, MemoryError):
        pass
    return [*walk.chunks, Chunk("data", data[walk.at :])]


def mutate_gguf(data: bytes, rng: random.Random) -> bytes:
    """Return `data` with one to four of its fields changed."""
    chunks = split_gguf(data)
    for _ in range(rng.randint(1, 4)):
        _change_chunk(chunks, rng)
    return b"".join(chunk.data for chunk in chunks)


def _change_chunk(chunks: list[Chunk], rng: random.Random) -> None:
    # Hundreds of chunks are structure, one is the tensors' bytes: it gets a share of its own.
    index = len(chunks) - 1 if rng.random() < 0.15 else rng.randrange(len(chunks))
    chunk = chunks[index]
    action = rng.randrange(8)
    if action == 0:
        chunk.data = flip(chunk.data, rng)
    elif action == 1:
        other = rng.choice(chunks)
        chunk.data, other.data = other.data, chunk.data
    elif action == 2:
        chunks.insert(rng.randrange(len(chunks)), Chunk(chunk.kind, chunk.data))
    elif action == 3 and len(chunks) > 1:
        del chunks[index]
    elif action == 4:
        chunk.data = chunk.data[: rng.randrange(len(chunk.data) + 1)]
    elif chunk.kind in ("text", "data", "array"):
        chunk.data = _replace_part(chunk.data, rng)
    else:
        number = rng.choice(NUMBERS) if rng.random() < 0.7 else rng.getrandbits(64)
        chunk.data = (number & (2**64 - 1)).to_bytes(8, "little")[: len(chunk.data)]


def flip(data: bytes, rng: random.Random) -> bytes:
    """Return `data` with one bit turned."""
    if not data:
        return b"\0"
    changed = bytearray(data)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _replace_part(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    new = rng.choice(
        (
            struct.pack("<f", rng.choice(_FLOATS)),
            struct.pack("<e", rng.choice(_FLOATS[:5])),
            bytes(rng.getrandbits(8) for _ in range(rng.randint(1, 8))),
            b"\xff\xfe\xed\xa0\x80",
            b"\0" * rng.randint(1, 40),
            "\u2581<0x0A>".encode(),
        )
    )
    return data[:at] + new + data[at + rng.choice((0, len(new))) :]


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Return JSON with one to four values replaced, removed or renamed; or broken as text."""
    if rng.random() < 0.1:
        return flip(data, rng) if rng.random() < 0.7 else data[: rng.randrange(len(data) + 1)]
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return flip(data, rng)
    for _ in range(rng.randint(1, 4)):
        value = _change_value(value, rng)
    try:
        return json.dumps(value).encode()
    except (ValueError, RecursionError):
        return data


def _change_value(value: Any, rng: random.Random) -> Any:
    place, key = _choose_place(value, rng)
    if place is None:
        return _make_value(rng)
    action = rng.randrange(6)
    if action == 0:
        del place[key]
    elif action == 1 and isinstance(place, dict):
        place[rng.choice(("", "type", "id", "content", "\ud800", str(key) + "x"))] = place.pop(key)
    elif action == 2 and isinstance(place, list):
        place.append(place[key])
    elif action == 3:
        other, at = _choose_place(value, rng)
        place[key] = other[at] if other is not None and other is not place else None
    else:
        place[key] = _make_value(rng)
    return value


def _choose_place(value: Any, rng: random.Random) -> tuple[Any, Any]:
    place: Any = None
    key: Any = None
    while isinstance(value, dict | list) and value and (place is None or rng.random() < 0.75):
        place = value
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        value = value[key]
    return place, key


def _make_value(rng: random.Random) -> Any:
    if rng.random() < 0.05:
        nested: Any = 0
        for _ in range(rng.choice((3, 50, 400))):
            nested = [nested] if rng.random() < 0.5 else {"type": "Sequence", "a": nested}
        return nested
    found = rng.choice((*NUMBERS, *_VALUES, *_VALUES))
    return json.loads(json.dumps(found)) if isinstance(found, dict | list) else found


_BITS = (
    *("{{", "}}", "{%", "%}", "{#", "#}", "-", "|", "(", ")", "[", "]", ".", "'", "~", "**", "*"),
    *(" for x in messages ", " endfor ", " if ", " else ", " endif ", " set x = ", " macro f() "),
    *(
        "messages",
        "x",
        "[0]",
        "['content']",
        "range(10**9)",
        "'a' * 10**9",
        "9**9**9",
        "loop.index",
    ),
    *("|tojson", "|map(attribute='role')", "|join", "|replace('a','b'*9999)", "|safe", "|sort"),
    *("raise_exception('no')", "strftime_now('%Y' * 99999)", "namespace(a=1)", "x.__class__"),
    *("\ud800", "\0", "<|im_start|>", "\u2581", "self", "cycler('a')", "{% raw %}", "%%", "  "),
)


def mutate_template(source: str, rng: random.Random) -> str:
    """Return a template with pieces of the language put in, taken out or moved."""
    for _ in range(rng.randint(1, 5)):
        start, end = sorted(rng.randrange(len(source) + 1) for _ in range(2))
        if rng.random() < 0.6:
            source = source[:start] + rng.choice(_BITS) + source[start:]
        elif rng.random() < 0.5:
            source = source[:start] + source[min(end, start + 30) :]
        else:
            source = source[:start] + source[start : start + 60] * 2 + source[start + 60 :]
    return source
