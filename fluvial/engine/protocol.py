"""What a batch needs of a decoder, so that packed graphs, fallbacks and doubles fit alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fluvial.model.adapter import Adapter


class Cache(Protocol):
    """The state of one sequence inside a decoder; opaque but for the tokens it holds."""

    @property
    def tokens(self) -> list[int]: ...

    @property
    def length(self) -> int: ...


@dataclass(frozen=True)
class Part:
    """One sequence's share of a step: the tokens that it appends to its cache, 1 or more.

    `wanted` are indices into `tokens` whose logits are needed, ascending.
    """

    cache: Any
    tokens: Sequence[int]
    adapter: Adapter | None = None
    wanted: Sequence[int] = ()


class Decoder(Protocol):
    """Runs sequences whose keys and values live in pages. One thread owns it.

    Pages are counted by reference: caches made by `fork` share those of their common beginning.
    """

    @property
    def context_tokens(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def page_tokens(self) -> int: ...

    @property
    def total_pages(self) -> int: ...

    @property
    def free_pages(self) -> int: ...

    @property
    def recurrent(self) -> bool:
        """Whether there are states that can't be trimmed, only restored at snapshots."""
        ...

    def new_cache(self) -> Any:
        """Begin a sequence; it has no pages yet."""
        ...

    def reserve(self, cache: Any, tokens: int) -> bool:
        """Make room for `tokens` in all; False, with nothing changed, when pages are missing."""
        ...

    def step(self, parts: Sequence[Part]) -> Sequence[NDArray[np.float32]]:
        """Append each part's tokens; return for each part float32 [len(wanted), vocabulary]."""
        ...

    def snapshot(self, cache: Any) -> None:
        """Keep the recurrent states of this length; nothing where there are none."""
        ...

    def restorable(self, cache: Any, length: int) -> int:
        """Return the greatest length, at most `length`, that `fork` can go to."""
        ...

    def fork(self, cache: Any, length: int) -> Any:
        """Make a cache of the first `length` tokens; a partly filled last page is copied."""
        ...

    def truncate(self, cache: Any, length: int) -> None:
        """Forget the tokens from `length` on."""
        ...

    def release(self, cache: Any) -> None:
        """Give everything back; the cache must not be used again."""
        ...

    def forget_adapter(self, key: str) -> None:
        """Let go of the tensors of the adapter with this key; a later step may bring it again."""
        ...

    def export(self, cache: Any) -> Mapping[str, NDArray[Any]]:
        """Return copies of all that a cache holds, to be given to `restore` later."""
        ...

    def restore(self, tokens: Sequence[int], tensors: Mapping[str, NDArray[Any]]) -> Any | None:
        """Make a cache of what `export` gave; None when pages are missing.

        Raises ModelError when the tensors do not fit.
        """
        ...
