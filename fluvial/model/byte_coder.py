"""Byte-level BPE: text is cut into words, words into UTF-8 bytes, and bytes are merged.

Source: GPT-2 (Radford et al. 2019, section 2.2); merging runs in the `tokenizers` library.
"""

from collections.abc import Iterator

from tokenizers import Tokenizer as NativeTokenizer
from tokenizers.models import BPE

from fluvial.errors import ModelError
from fluvial.model import segment
from fluvial.model.pretokenizer import Pretokenizer
from fluvial.model.vocabulary import BYTE_CHARS, Kind, Vocabulary

_CHAR_BYTES = {char: byte for byte, char in enumerate(BYTE_CHARS)}


class ByteCoder:
    """Encode with one vocabulary and one pre-tokeniser; immutable, safe between threads."""

    def __init__(self, words: Vocabulary, *, pre: Pretokenizer) -> None:
        """Build the native tables. Raises ModelError when the library refuses them."""
        self._words = words
        self._cut = pre.cut
        self._native = _build_native(words, pre)

    def encode(self, text: str, *, first: bool = True) -> Iterator[list[int]]:
        """Yield the ids of `text`, segment by segment. `first` makes no difference here."""
        del first
        for part in segment.cut(text, at=self._cut):
            yield self._native.encode(part, add_special_tokens=False).ids

    def spell(self, token: str, kind: int) -> bytes:
        """Return the bytes of a token; b"" for one that is no text."""
        if kind == Kind.USER:
            return token.encode("utf-8", errors="replace")
        if kind != Kind.NORMAL:
            return b""
        try:
            return bytes([_CHAR_BYTES[char] for char in token])
        except KeyError:
            return token.encode("utf-8", errors="replace")

    def trim(self, text: str) -> str:
        """Return decoded text without what encoding put before it: here, as it is."""
        return text

    @property
    def missing_bytes(self) -> frozenset[int]:
        """The bytes that the vocabulary can't spell."""
        return frozenset(b for b, c in enumerate(BYTE_CHARS) if c not in self._words.plain)


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
