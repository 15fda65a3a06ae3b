"""Undo the cheap disguises of a text before it is checked, and keep the way back to the original.

`normalise` gives the plain reading: compatibility forms, invisible characters, marks, letters that
look like Latin ones, traditional Chinese. `read_otherwise` gives the readings that only hold when
somebody was hiding something: letters spelt as digits, spaced letters, base64 and hex.

Letters that look alike come from Unicode's table of confusables (UTS #39, `confusables.txt`), as
the package confusable-homoglyphs carries it; Chinese characters from OpenCC's table in
opencc-purepy. Both are data, read once. Every step is linear in the text.
"""

import base64
import binascii
import functools
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise

MAX_BLOBS = 16
MAX_BLOB_CHARS = 8192
MAX_DEPTH = 2
"""How often what was decoded is decoded again."""

_INVISIBLE = frozenset("\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180e\u2800\u3164\uffa0")
_LEET = str.maketrans({"0": "o", "1": "i", "3": "e", "4": "a", "5": "s", "7": "t", "8": "b"}) | {
    ord("@"): "a",
    ord("$"): "s",
    ord("!"): "i",
    ord("+"): "t",
    ord("|"): "i",
    ord("€"): "e",
}
_LEET_WORD = re.compile(r"(?<![\w@$!+|€])[\w@$!+|€]{3,40}(?![\w@$+|€])")
_SPACED = re.compile(r"(?<![^\W_])[^\W_](?:[\s.\-_*·/,|]{1,5}[^\W_](?![^\W_])){3,400}")
_LATIN_NAME = re.compile(
    r"LATIN (?:SMALL |CAPITAL )?LETTER (?:SMALL CAPITAL )?([A-Z])(?: WITH .*)?"
)
_COUNT = re.compile(r"[\d$€+]+[a-z]{1,3}", re.I)
"""10th, 500ml, $5k: numbers with a unit, not disguised words."""
_BLOB = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2}[\s:,]?){12,}")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One reading of a text: its character `i` comes from `starts[i]`; one more for the end.

    Invariant: len(starts) == len(text) + 1, and starts never falls inside one piece.
    """

    text: str
    starts: Sequence[int]
    kind: str = "plain"

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return the characters of the original that [start, end) was read from."""
        if start >= end:
            return self.starts[start], self.starts[start]
        after = bisect_right(self.starts, self.starts[end - 1])
        return self.starts[start], self.starts[min(after, len(self.text))]


def normalise(text: str) -> Reading:
    """Return the plain reading of `text`."""
    if text.isascii():
        return Reading(text=text, starts=range(len(text) + 1))
    return _fold_letters(_fold_forms(text))


def read_otherwise(plain: Reading) -> list[Reading]:
    """Return the readings of a text that hide something; none when there is nothing to undo."""
    found = [each for each in (_join_spaced(plain), _undo_leet(plain)) if each is not None]
    joined = next((each for each in found if each.kind == "spaced"), None)
    if joined is not None:
        both = _undo_leet(joined)
        found += [both] if both is not None else []
    return [*found, *_decode_blobs(plain)]


def _fold_forms(text: str) -> Reading:
    """Apply NFKC, drop what can't be seen and marks on Latin letters, simplify Chinese."""
    letters: list[str] = []
    starts: list[int] = []
    simple = _read_chinese()
    for at, char in enumerate(text):
        for each in simple.get(char) or _fold_char(char):
            letters.append(each)
            starts.append(at)
    return Reading(text="".join(letters), starts=[*starts, len(text)])


@functools.lru_cache(maxsize=8192)
def _fold_char(char: str) -> str:
    if char < "\x80":
        return char
    if 0xE0020 <= ord(char) <= 0xE007E:  # tags: invisible ASCII
        return chr(ord(char) - 0xE0000)
    if "\u4e00" <= char <= "\u9fff":
        return char
    if char in _INVISIBLE or unicodedata.category(char) in ("Cf", "Mn", "Me", "Cn", "Co"):
        return ""
    named = _LATIN_NAME.fullmatch(unicodedata.name(char, ""))
    if named is not None:
        return named[1] if char.isupper() else named[1].lower()
    if unicodedata.decomposition(char):
        bare = unicodedata.normalize("NFKD", char)
        kept = "".join(each for each in bare if unicodedata.category(each) not in ("Mn", "Me"))
        if kept.isascii():
            return kept
    return unicodedata.normalize("NFKC", char)


def _fold_letters(reading: Reading) -> Reading:
    """Read letters as the Latin ones they look like, in words that are Latin or can be."""
    look = _read_confusables()
    letters = list(reading.text)
    for word in re.finditer(r"[^\W\d_]+", reading.text):
        part = word.group()
        if part.isascii() or "\u4e00" <= part[0] <= "\u9fff":
            continue
        strange = [each for each in part if not each.isascii()]
        mixed = len(strange) < len(part)
        if mixed or all(each in look for each in strange):
            for at in range(*word.span()):
                letters[at] = look.get(letters[at], letters[at])
    return Reading(text="".join(letters), starts=reading.starts)


def _undo_leet(reading: Reading) -> Reading | None:
    letters = list(reading.text)
    changed = False
    for word in _LEET_WORD.finditer(reading.text):
        part = word.group()
        if not _is_leet(part):
            continue
        end = word.end() - (len(part) - len(part.rstrip("!|+")))
        for at in range(word.start(), end):
            letters[at] = _LEET.get(ord(letters[at]), letters[at])
        changed = True
    if not changed:
        return None
    kind = "leet" if reading.kind == "plain" else f"{reading.kind}+leet"
    return Reading(text="".join(letters), starts=reading.starts, kind=kind)


def _is_leet(word: str) -> bool:
    """Tell h4ck from mp3, 10th, x86 and $500: a sign between letters, or many of them."""
    core = word.rstrip("!|+")
    if _COUNT.fullmatch(core):
        return False
    signs = sum(ord(each) in _LEET for each in core)
    letters = sum(each.isalpha() for each in core)
    inside = re.search(r"[^\W\d_][0134578@$!+|€]+[^\W\d_]", core) is not None
    return letters > 0 and signs > 0 and (inside or (signs >= 2 and letters >= 2))


def _join_spaced(reading: Reading) -> Reading | None:
    """Join letters that stand apart (h o w, h-o-w); wider gaps between them become spaces."""
    letters: list[str] = []
    starts: list[int] = []
    last = 0
    for run in _SPACED.finditer(reading.text):
        _keep(reading, last, run.start(), letters, starts)
        _join_run(reading, run.start(), run.end(), letters, starts)
        last = run.end()
    if last == 0:
        return None
    _keep(reading, last, len(reading.text), letters, starts)
    return Reading(text="".join(letters), starts=[*starts, reading.starts[-1]], kind="spaced")


def _join_run(
    reading: Reading, start: int, end: int, letters: list[str], starts: list[int]
) -> None:
    places = [start + each.start() for each in re.finditer(r"[^\W_]", reading.text[start:end])]
    steps = [after - before for before, after in pairwise(places)]
    narrow = min(steps)
    for at, step in zip(places, [*steps, narrow], strict=True):
        letters.append(reading.text[at])
        starts.append(reading.starts[at])
        if step > narrow:
            letters.append(" ")
            starts.append(reading.starts[at + 1])


def _keep(reading: Reading, start: int, end: int, letters: list[str], starts: list[int]) -> None:
    letters.extend(reading.text[start:end])
    starts.extend(reading.starts[start:end])


def _decode_blobs(reading: Reading, *, depth: int = 1) -> Iterator[Reading]:
    for number, (start, end, text) in enumerate(_find_blobs(reading.text)):
        if number == MAX_BLOBS:
            return
        first, last = reading.span(start, end)
        plain = normalise(text)
        starts = [first] * len(plain.text) + [last]
        inner = Reading(text=plain.text, starts=starts, kind="encoded")
        yield inner
        if depth < MAX_DEPTH:
            yield from _decode_blobs(inner, depth=depth + 1)


def _find_blobs(text: str) -> Iterator[tuple[int, int, str]]:
    for pattern, decode in ((_BLOB, _decode_base64), (_HEX, _decode_hex)):
        for found in pattern.finditer(text):
            decoded = decode(found.group()[:MAX_BLOB_CHARS])
            if decoded is not None:
                yield found.start(), found.end(), decoded


def _decode_base64(blob: str) -> str | None:
    body = blob.rstrip("=").replace("-", "+").replace("_", "/")
    body = body[: len(body) - (len(body) % 4 == 1)]
    try:
        return _as_text(base64.b64decode(body + "=" * (-len(body) % 4), validate=True))
    except (binascii.Error, ValueError):
        return None


def _decode_hex(blob: str) -> str | None:
    digits = re.sub(r"[\s:,]", "", blob)
    return _as_text(bytes.fromhex(digits[: len(digits) // 2 * 2]))


def _as_text(data: bytes) -> str | None:
    """Return the bytes as text when people could have written it, else None."""
    text = data.decode("utf-8", "ignore")
    if len(text) < 6 or len(text.encode("utf-8")) < 0.9 * len(data):
        return None
    readable = sum(each.isalnum() or each in " \n\t.,;:!?'\"-，。！？、" for each in text)
    return text if readable >= 0.9 * len(text) else None


@functools.cache
def _read_chinese() -> dict[str, str]:
    """Return traditional characters and the simplified ones they are written as."""
    table = files("opencc_purepy") / "dicts" / "TSCharacters.txt"
    rows = (line.split("\t") for line in table.read_text("utf-8").splitlines())
    return {row[0]: row[1].split()[0] for row in rows if len(row) == 2 and len(row[0]) == 1}


@functools.cache
def _read_confusables() -> dict[str, str]:
    """Return letters outside ASCII that look like one ASCII letter."""
    from confusable_homoglyphs import confusables

    data: dict[str, list[dict[str, str]]] = confusables.confusables_data
    found: dict[str, str] = {}
    for letter, twins in data.items():
        if len(letter) != 1 or letter.isascii() or not letter.isalpha():
            continue
        shown = [each["c"] for each in twins]
        latin = [each for each in shown if len(each) == 1 and each.isascii() and each.isalpha()]
        if latin:
            low = letter.islower()
            found[letter] = next((each for each in latin if each.islower() == low), latin[0])
    return found
