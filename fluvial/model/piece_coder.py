"""SentencePiece's BPE: characters merge into pieces across the whole text; spaces are `▁`.

Characters that the vocabulary lacks become byte tokens, `<0x0A>`. Some user-defined tokens (runs
of white space, HTML tags) are found in ordinary text before anything is merged.

Sources: Kudo & Richardson 2018 (arXiv 1808.06226), https://github.com/google/sentencepiece
(src/bpe_model.cc); merging runs in the `tokenizers` library.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as NativeTokenizer
from tokenizers import pre_tokenizers
from tokenizers.models import BPE

from fluvial.errors import ModelError
from fluvial.model import segment
from fluvial.model.vocabulary import MAX_MERGES, SPACE, Kind, Vocabulary

MAX_PIECE_CHARS = 128
MAX_TOTAL_CHARS = 4 * 2**20


@dataclass(frozen=True, kw_only=True)
class PieceForm:
    """How a family prepares text. `prefix`: which stretches between tokens get a space before.

    `doubles`: also one that starts with a space. `splits`: no piece reaches over a space, however
    the merges are.
    """

    prefix: Literal["never", "always", "first"] = "never"
    doubles: bool = True
    splits: bool = False


class PieceCoder:
    """Encode with one vocabulary in one form; immutable, safe between threads."""

    def __init__(self, words: Vocabulary, *, form: PieceForm) -> None:
        """Build the native tables. Raises ModelError when the library refuses them."""
        self._literals = words.literals
        self._literal = _compile_literals(words.literals)
        self._form = form
        self._cut = _compile_cut(words.plain)
        self._native = _build_native(words, form)

    def encode(self, text: str, *, first: bool = True) -> Iterator[list[int]]:
        """Yield the ids of `text` in stretches. `first`: nothing stands before it."""
        at = 0
        for match in self._literal.finditer(text):
            yield from self._merge(text[at : match.start()], first=first and at == 0)
            yield [self._literals[match.group()]]
            at = match.end()
        yield from self._merge(text[at:], first=first and at == 0)

    def spell(self, token: str, kind: int) -> bytes:
        """Return the bytes of a token; b"" for one that is no text."""
        if kind == Kind.BYTE:
            return bytes([int(token[3:5], 16)])
        if kind not in (Kind.NORMAL, Kind.USER):
            return b""
        return token.replace(SPACE, " ").encode()

    def trim(self, text: str) -> str:
        """Return decoded text without the space that encoding put before it."""
        return text if self._form.prefix == "never" else text.removeprefix(" ")

    @property
    def missing_bytes(self) -> frozenset[int]:
        """The bytes that the vocabulary can't spell: none."""
        return frozenset()

    def _merge(self, text: str, *, first: bool) -> Iterator[list[int]]:
        for part in segment.cut(self._prefix(text, first=first), at=self._cut):
            if part:
                yield self._native.encode(part.replace(" ", SPACE), add_special_tokens=False).ids

    def _prefix(self, text: str, *, first: bool) -> str:
        form = self._form
        if not text or form.prefix == "never" or (form.prefix == "first" and not first):
            return text
        return text if not form.doubles and text[0] in (" ", SPACE) else f" {text}"


def list_merges(
    pieces: Mapping[str, int], *, scores: NDArray[np.floating]
) -> list[tuple[str, str]]:
    """Return the merges that the scores of `pieces` stand for, the one to apply first in front.

    A piece is made of any two others that spell it; the higher its score, the earlier. Between the
    ways to make one piece, the longer left part goes first.
    Raises ModelError for scores that leave the order open, and for more than is sane.
    """
    _check_sizes(pieces)
    found: list[tuple[float, list[tuple[str, str]]]] = []
    count = 0
    for token, i in pieces.items():
        if ways := _list_ways(token, pieces):
            found.append((float(scores[i]), ways))
            count += len(ways)
            if count > MAX_MERGES:
                raise ModelError(f"the pieces can be made in over {MAX_MERGES:,} ways")
    ranks = {rank for rank, _ in found}
    if not all(map(math.isfinite, ranks)) or len(ranks) != len(found):
        raise ModelError(
            "tokenizer.ggml.scores holds a number twice or something that is no number; the order "
            "of merging is open"
        )
    found.sort(key=lambda entry: -entry[0])
    return [pair for _, ways in found for pair in ways]


def _list_ways(token: str, pieces: Mapping[str, int]) -> list[tuple[str, str]]:
    return [
        (left, right)
        for at in range(len(token) - 1, 0, -1)
        if (left := token[:at]) in pieces and (right := token[at:]) in pieces
    ]


def _check_sizes(pieces: Mapping[str, int]) -> None:
    # Both bounds together keep the search for ways at about a second.
    longest = max(pieces, key=len, default="")
    if len(longest) > MAX_PIECE_CHARS or sum(map(len, pieces)) > MAX_TOTAL_CHARS:
        raise ModelError(
            f"the pieces are too long: at most {MAX_PIECE_CHARS} characters each and "
            f"{MAX_TOTAL_CHARS:,} in all are supported"
        )


def _compile_literals(literals: Mapping[str, int]) -> re.Pattern[str]:
    longest_first: Sequence[str] = sorted(literals, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _compile_cut(plain: Mapping[str, int]) -> re.Pattern[str]:
    # Before a space, unless a piece holds one after the character that stands there.
    inner = re.compile(f"([^{SPACE}]){SPACE}")
    joints = {char for token in plain if SPACE in token for char in inner.findall(token)}
    return re.compile(f"(?<=[^{SPACE} {re.escape(''.join(sorted(joints)))}])(?= )")


def _build_native(words: Vocabulary, form: PieceForm) -> NativeTokenizer:
    named = zip(words.tokens, words.kinds, range(len(words.tokens)), strict=True)
    bytes_ = {token: i for token, kind, i in named if kind == Kind.BYTE}
    try:
        model = BPE(vocab={**words.plain, **bytes_}, merges=words.merges, byte_fallback=True)
    except Exception as error:
        raise ModelError(f"the vocabulary can't be used: {str(error)[:200]}") from None
    native = NativeTokenizer(model)
    if form.splits:
        native.pre_tokenizer = pre_tokenizers.Metaspace(
            replacement=SPACE, prepend_scheme="never", split=True
        )
    return native
