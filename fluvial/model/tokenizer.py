"""Text to token ids and back, exactly as the model was trained.

Special tokens exist only in text that a template wrote (`encode_marked`). Ordinary text (`encode`)
never becomes one: the tables that native code searches do not hold them.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

from fluvial.errors import InputError
from fluvial.model import tokenizer_file, tokenizer_folder
from fluvial.model.mark import MarkFinder
from fluvial.model.vocabulary import Vocabulary

_FIRST_PLACEHOLDER = 0xDC00
_SURROGATE = re.compile("[\ud800-\udfff]")


class Coder(Protocol):
    """One way to make ids of plain text; immutable, safe between threads.

    `encode` yields ids stretch by stretch; with `first`, nothing stands before the text. `spell`
    gives one token's bytes. `trim` takes from decoded text what encoding put before it.
    `missing_bytes` are those that the vocabulary can't spell.
    """

    @property
    def missing_bytes(self) -> frozenset[int]: ...

    def encode(self, text: str, *, first: bool = True) -> Iterator[list[int]]: ...

    def spell(self, token: str, kind: int) -> bytes: ...

    def trim(self, text: str) -> str: ...


class Tokenizer:
    """Encode and decode text for one model; immutable and safe to share between threads.

    `vocab_size` counts every id, unused ones too. `eos_ids` are the ids that end a turn. `bos_id`
    is the token that some models want first in a raw text; `adds_bos` tells whether this one does.
    Templates write their own.
    """

    def __init__(self, words: Vocabulary, *, coder: Coder, adds_bos: bool) -> None:
        self._words = words
        self._coder = coder
        self._marks = MarkFinder(words.marks)
        edges = sorted({edge for mark in words.marks for edge in (mark[0], mark[-1])})
        self._shield = {ord(c): _FIRST_PLACEHOLDER + i for i, c in enumerate(edges)}
        self._unshield = {placeholder: edge for edge, placeholder in self._shield.items()}
        self.vocab_size = len(words.tokens)
        self.eos_ids = words.end_ids
        self.bos_id = words.bos_id
        self.adds_bos = adds_bos

    @staticmethod
    def from_gguf(metadata: Mapping[str, object]) -> "Tokenizer":
        """Build the tokenizer a GGUF file describes.

        Args: `metadata` holds the file's keys, numeric arrays as numpy arrays.
        Raises ModelError naming the key that is missing, damaged or not supported.
        """
        words, coder, adds_bos = tokenizer_file.read_tokenizer(metadata)
        return Tokenizer(words, coder=coder, adds_bos=adds_bos)

    @staticmethod
    def from_folder(path: Path) -> "Tokenizer":
        """Build the tokenizer of a safetensors checkpoint from `tokenizer.json` and its configs.

        Raises ModelError when a file is missing, damaged, or describes another kind of tokenizer
        than byte-level BPE or SentencePiece's BPE with byte fallback.
        """
        words, coder, adds_bos = tokenizer_folder.read_tokenizer(path)
        return Tokenizer(words, coder=coder, adds_bos=adds_bos)

    def encode(self, text: str) -> list[int]:
        """Return the ids of plain text; what looks like a special token in it is only text.

        The ids equal those of `transformers`; both leave out bytes that the vocabulary lacks (see
        `missing_bytes`). Only a run of over a million characters without one safe place to cut is
        cut anyway. Raises InputError for text with lone surrogates, which is not Unicode.
        """
        return self._encode(text, first=True)

    def count(self, text: str) -> int:
        """Return how many tokens `encode(text)` has."""
        _check_unicode(text)
        return sum(map(len, self._coder.encode(text)))

    def encode_marked(self, text: str) -> list[int]:
        """Return the ids of a template's text: special tokens are parsed, shielded ones are not."""
        ids: list[int] = []
        at = 0
        for start, end in self._marks.find(text):
            piece = text[at:start].translate(self._unshield)
            ids += self._encode(piece, first=at == 0)
            ids.append(self._words.marks[text[start:end]])
            at = end
        return ids + self._encode(text[at:].translate(self._unshield), first=at == 0)

    def shield(self, text: str) -> str:
        """Return `text` in a form that no template can turn into a special token.

        Each character that a special token starts or ends with becomes a lone surrogate, which no
        real text contains; `encode_marked` turns it back once the special tokens have been found.
        Raises InputError for text that has lone surrogates already.
        """
        _check_unicode(text)
        return text.translate(self._shield)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids` without control tokens; broken UTF-8 becomes U+FFFD.

        Raises InputError for an id outside the vocabulary.
        """
        text = b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")
        return self._coder.trim(text)

    def token_bytes(self, token_id: int) -> bytes:
        """Return the exact bytes of one token; b"" for control and unused ones.

        Raises InputError for an id outside the vocabulary.
        """
        if not 0 <= token_id < self.vocab_size:
            raise InputError(f"token id {token_id}; ids go from 0 to {self.vocab_size - 1}")
        return self._pieces[token_id]

    @property
    def marks(self) -> Mapping[str, int]:
        """Every special token that `encode_marked` parses, with its id."""
        return self._words.marks

    @property
    def missing_bytes(self) -> frozenset[int]:
        """The bytes this vocabulary can't spell; text loses them, as it does in `transformers`."""
        return self._coder.missing_bytes

    @cached_property
    def _pieces(self) -> list[bytes]:
        words, spell = self._words, self._coder.spell
        return [spell(t, kind) for t, kind in zip(words.tokens, words.kinds, strict=True)]

    def _encode(self, text: str, *, first: bool) -> list[int]:
        _check_unicode(text)
        return [i for ids in self._coder.encode(text, first=first) for i in ids]


def _check_unicode(text: str) -> None:
    found = _SURROGATE.search(text)
    if found:
        raise InputError(
            f"the text has a lone surrogate (U+{ord(found.group()):04X}) at character "
            f"{found.start()}, which is not valid Unicode"
        )
