"""Text to token ids and back, exactly as the model was trained: byte-level BPE from the model file.

Special tokens exist only in text that a template wrote (`encode_marked`). Ordinary text (`encode`)
never becomes one: the tables that native code searches do not hold them.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer as NativeTokenizer
from tokenizers.models import BPE

from fluvial.errors import InputError, ModelError
from fluvial.model import tokenizer_folder, vocabulary
from fluvial.model.pretokenizer import Pretokenizer
from fluvial.model.vocabulary import Kind, Vocabulary

SEGMENT_CHARS = 16 * 1024
MAX_SEGMENT_CHARS = 2**20

_FIRST_PLACEHOLDER = 0xDC00
# Every pre-tokeniser in the table ends a word at these places, whatever stands around them: after a
# letter before white space, and after any visible character before a space.
_SAFE_CUT = re.compile(r"(?<=[A-Za-z\u3400-\u9fff])(?=[ \n])|(?<=[!-~\u3400-\u9fff])(?= )")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Tokenizer:
    """Encode and decode text for one model; immutable and safe to share between threads.

    `vocab_size` counts every id, unused ones too. `eos_ids` are the ids that end a turn. `bos_id`
    is the token that some models want first in a raw text; `adds_bos` tells whether this one does.
    Templates write their own.
    """

    def __init__(self, words: Vocabulary, *, pre: Pretokenizer, adds_bos: bool) -> None:
        self._words = words
        self._native = _build_native(words, pre)
        self._mark_regex = _compile_marks(words.marks)
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
        vocabulary.check_model(metadata.get("tokenizer.ggml.model"))
        pre = vocabulary.read_pre(metadata)
        adds_bos = metadata.get("tokenizer.ggml.add_bos_token", pre.adds_bos)
        return Tokenizer(vocabulary.read_gguf(metadata), pre=pre, adds_bos=adds_bos is True)

    @staticmethod
    def from_folder(path: Path) -> "Tokenizer":
        """Build the tokenizer of a safetensors checkpoint from `tokenizer.json` and its configs.

        Raises ModelError when a file is missing, damaged, or describes anything but byte-level BPE.
        """
        words, pre, adds_bos = tokenizer_folder.read_tokenizer(path)
        return Tokenizer(words, pre=pre, adds_bos=adds_bos)

    def encode(self, text: str) -> list[int]:
        """Return the ids of plain text; what looks like a special token in it is only text.

        The ids equal those of `transformers`; both leave out bytes that the vocabulary lacks (see
        `missing_bytes`). Only a run of over a million characters without one safe place to cut is
        cut anyway. Raises InputError for text with lone surrogates, which is not Unicode.
        """
        ids: list[int] = []
        for segment in self._split(text):
            ids += self._native.encode(segment, add_special_tokens=False).ids
        return ids

    def count(self, text: str) -> int:
        """Return how many tokens `encode(text)` has."""
        encode = self._native.encode
        return sum(len(encode(s, add_special_tokens=False)) for s in self._split(text))

    def encode_marked(self, text: str) -> list[int]:
        """Return the ids of a template's text: special tokens are parsed, shielded ones are not."""
        ids: list[int] = []
        at = 0
        for match in self._mark_regex.finditer(text):
            ids += self.encode(text[at : match.start()].translate(self._unshield))
            ids.append(self._words.marks[match.group()])
            at = match.end()
        return ids + self.encode(text[at:].translate(self._unshield))

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
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

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

    @cached_property
    def missing_bytes(self) -> frozenset[int]:
        """The bytes this vocabulary can't spell; text loses them, as it does in `transformers`."""
        return frozenset(b for b, c in enumerate(BYTE_CHARS) if c not in self._words.plain)

    @cached_property
    def _pieces(self) -> list[bytes]:
        words = self._words
        return [_spell(t, kind) for t, kind in zip(words.tokens, words.kinds, strict=True)]

    def _split(self, text: str) -> Iterator[str]:
        # Whole documents in one native call would hold the interpreter's lock for seconds.
        _check_unicode(text)
        at = 0
        while len(text) - at > SEGMENT_CHARS:
            limit = at + MAX_SEGMENT_CHARS
            cut = _SAFE_CUT.search(text, at + SEGMENT_CHARS, limit)
            end = cut.start() if cut else min(limit, len(text))
            yield text[at:end]
            at = end
        yield text[at:]


def _check_unicode(text: str) -> None:
    found = _SURROGATE.search(text)
    if found:
        raise InputError(
            f"the text has a lone surrogate (U+{ord(found.group()):04X}) at character "
            f"{found.start()}, which is not valid Unicode"
        )


def _build_native(words: Vocabulary, pre: Pretokenizer) -> NativeTokenizer:
    try:
        model = BPE(vocab=dict(words.plain), merges=words.merges, ignore_merges=pre.whole_words)
    except Exception as error:
        raise ModelError(f"the vocabulary can't be used: {str(error)[:200]}") from None
    native = NativeTokenizer(model)
    native.pre_tokenizer = pre.build()
    normalizer = pre.normalizer()
    if normalizer is not None:
        native.normalizer = normalizer
    return native


def _compile_marks(marks: Mapping[str, int]) -> re.Pattern[str]:
    # The longest first: `<|a|>b` must not be read as `<|a|>` and "b" when both are tokens.
    longest_first = sorted(marks, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _list_byte_chars() -> list[str]:
    # GPT-2's alphabet: printable Latin-1 bytes stand for themselves, the others from U+0100 on.
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(b) if b in printable else chr(next(others)) for b in range(256)]


BYTE_CHARS = _list_byte_chars()
_CHAR_BYTES = {char: byte for byte, char in enumerate(BYTE_CHARS)}


def _spell(token: str, kind: int) -> bytes:
    if kind == Kind.USER:
        return token.encode("utf-8", errors="replace")
    if kind != Kind.NORMAL:
        return b""
    try:
        return bytes([_CHAR_BYTES[char] for char in token])
    except KeyError:
        return token.encode("utf-8", errors="replace")
