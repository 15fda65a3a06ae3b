"""Bytes of tokens to text, piece by piece: a token may end in the middle of a character."""

import codecs


class TextDecoder:
    """Turns UTF-8 that comes in pieces into text.

    Invariant: under any splitting, all pieces returned, joined, equal
    `whole.decode("utf-8", "replace")`; a character is never shown before it is complete.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, data: bytes) -> str:
        """Return the text that `data` completes; at most 3 bytes are held back."""
        return self._decoder.decode(data)

    @property
    def pending(self) -> bool:
        """Whether the beginning of a character is held back."""
        return bool(self._decoder.getstate()[0])

    def finish(self) -> str:
        """Return what is left: a U+FFFD for a character that never ended, else nothing."""
        return self._decoder.decode(b"", final=True)
