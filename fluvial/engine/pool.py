"""Memories that the graph reads and writes in place: pages, states, adapters."""

import math
from collections import OrderedDict
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from fluvial.engine.huge import allocate_huge
from fluvial.model.adapter import Adapter
from fluvial.model.layout import PAGE_TOKENS, SLAB_PAGES, Layout

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


class PagePool:
    """Pages of keys and values, counted: a page with several holders is never written.

    The memory is taken from the system only as slabs of pages are first written; pages that were
    written before are given out first.
    """

    def __init__(self, layout: Layout, *, pages: int) -> None:
        slab_bytes = SLAB_PAGES * layout.page_bytes
        shape = (-(-pages // SLAB_PAGES), slab_bytes)
        self.data: Bytes = allocate_huge(math.prod(shape)).reshape(shape)
        self._streams = _cut(self.data, layout)
        self._holders = [0] * pages
        self._free = list(range(pages - 1, -1, -1))

    @property
    def total(self) -> int:
        return len(self._holders)

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self, count: int) -> list[int] | None:
        """Return `count` pages held once, or None when fewer are free."""
        if count > len(self._free):
            return None
        taken = [self._free.pop() for _ in range(count)]
        for page in taken:
            self._holders[page] = 1
        return taken

    def hold(self, pages: list[int]) -> None:
        """Add one holder to each page."""
        for page in pages:
            self._holders[page] += 1

    def drop(self, pages: list[int]) -> None:
        """Take one holder from each page; those without any are free."""
        for page in reversed(pages):
            self._holders[page] -= 1
            if self._holders[page] == 0:
                self._free.append(page)

    def is_shared(self, page: int) -> bool:
        return self._holders[page] > 1

    def copy(self, source: int, target: int) -> None:
        for stream in self._streams:
            stream[divmod(target, SLAB_PAGES)] = stream[divmod(source, SLAB_PAGES)]

    def read(self, pages: list[int]) -> Bytes:
        """Return a copy of what pages hold, uint8 [pages, page_bytes]."""
        at = np.divmod(np.array(pages, np.int64), SLAB_PAGES)
        return np.concatenate([stream[at] for stream in self._streams], axis=1)

    def write(self, pages: list[int], data: Bytes) -> None:
        """Fill pages with what `read` returned."""
        at = np.divmod(np.array(pages, np.int64), SLAB_PAGES)
        start = 0
        for stream in self._streams:
            stream[at] = data[:, start : start + stream.shape[-1]]
            start += stream.shape[-1]


class StatePool:
    """States of convolutions and recurrences, one slot for each sequence; grows as needed."""

    def __init__(self, layout: Layout) -> None:
        self._floats = layout.state_floats
        self.data: Floats = np.zeros((1, self._floats), np.float32)
        self._free = [0]

    def take(self) -> int:
        if not self._free:
            size = len(self.data)
            self.data = np.concatenate([self.data, np.zeros_like(self.data)])
            self._free = list(range(2 * size - 1, size - 1, -1))
        slot = self._free.pop()
        self.data[slot] = 0
        return slot

    def drop(self, slot: int) -> None:
        self._free.append(slot)


class AdapterPool:
    """Adapters in the order of `native/source/adapter.h`, the least recently used making room."""

    def __init__(self, layout: Layout, *, slots: int) -> None:
        self._layout = layout
        self._slots = slots
        self._rank = 0
        self.data: Floats = np.zeros((0, 0), np.float32)
        self._slot_of: OrderedDict[str, int] = OrderedDict()
        self._free: list[int] = []
        self._allocate(1)

    def place(self, adapters: list[Adapter | None]) -> list[int]:
        """Return a slot for each, -1 for None; loads those that are not there yet."""
        wanted = {adapter.key: adapter for adapter in adapters if adapter is not None}
        rank = max((adapter.rank for adapter in wanted.values()), default=0)
        if rank > self._rank or len(wanted) > self._slots:
            self._slots = max(self._slots, len(wanted))
            self._allocate(max(rank, self._rank))
        for key in wanted:
            if key in self._slot_of:
                self._slot_of.move_to_end(key)
        for key, adapter in wanted.items():
            if key not in self._slot_of:
                self._load(adapter)
        return [-1 if each is None else self._slot_of[each.key] for each in adapters]

    def forget(self, key: str) -> None:
        """Overwrite the adapter with this key, if it is here; its slot is the next to be used."""
        if key in self._slot_of:
            slot = self._slot_of.pop(key)
            self.data[slot] = 0
            self._free.append(slot)

    def _allocate(self, rank: int) -> None:
        self._rank = rank
        self._slot_of.clear()
        self._free = list(range(self._slots - 1, -1, -1))
        self.data = np.zeros((self._slots, self._layout.adapter_floats(rank)), np.float32)

    def _load(self, adapter: Adapter) -> None:
        if self._free:
            slot = self._free.pop()
        else:
            _, slot = self._slot_of.popitem(last=False)
        self._write(self.data[slot], adapter)
        self._slot_of[adapter.key] = slot

    def _write(self, into: Floats, adapter: Adapter) -> None:
        """Copy tensors to their places; a lower rank than the pool's is filled up with zeros."""
        layout, rank = self._layout, self._rank
        into[:] = 0
        for name, place in layout.gain_of.items():
            gain = adapter.tensors[name]
            into[place : place + len(gain)] = gain
        for name, unit in layout.unit_of.items():
            a, b = adapter.tensors[f"{name}.a"], adapter.tensors[f"{name}.b"]
            start = layout.gains + rank * unit
            middle = start + rank * len(a)
            into[start:middle].reshape(len(a), rank)[:, : a.shape[1]] = a
            end = middle + rank * b.shape[1]
            into[middle:end].reshape(rank, -1)[: len(b)] = b


def _cut(slabs: Bytes, layout: Layout) -> list[Bytes]:
    """Return each stream's pages [slabs, pages of a slab, bytes], which lie side by side."""
    ends = [SLAB_PAGES * end for end in accumulate(layout.streams, initial=0)]
    return [
        slabs[:, start:end].reshape(len(slabs), SLAB_PAGES, -1) for start, end in pairwise(ends)
    ]


def count_pages(tokens: int) -> int:
    """Return the pages that `tokens` take."""
    return -(-tokens // PAGE_TOKENS)
