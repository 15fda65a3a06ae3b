"""Pages: what one holds goes with it, wherever it lies; and the memory they lie in."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fluvial.engine.huge import allocate_huge, has_huge_pages
from fluvial.engine.pool import AdapterPool, PagePool
from fluvial.model.adapter import Adapter
from fluvial.model.layout import SLAB_PAGES, Layout

LAYOUT = Layout(
    cache_bits=8,
    streams=(64, 128, 192),
    state_floats=0,
    state_offsets={},
    gains=0,
    units=0,
    gain_of={},
    unit_of={},
)
PAGES = 2 * SLAB_PAGES + 5


def _fill(pool: PagePool) -> np.ndarray:
    data = np.random.default_rng(0).integers(0, 256, (PAGES, LAYOUT.page_bytes), np.uint8)
    pool.write(list(range(PAGES)), data)
    return data


def test_pages_are_read_as_they_were_written() -> None:
    pool = PagePool(LAYOUT, pages=PAGES)
    data = _fill(pool)
    some = [PAGES - 1, 0, SLAB_PAGES, SLAB_PAGES - 1, 3]
    np.testing.assert_array_equal(pool.read(some), data[some])


def test_a_copy_takes_all_streams_and_touches_no_other_page() -> None:
    pool = PagePool(LAYOUT, pages=PAGES)
    data = _fill(pool)
    pool.copy(3, SLAB_PAGES + 7)
    data[SLAB_PAGES + 7] = data[3]
    np.testing.assert_array_equal(pool.read(list(range(PAGES))), data)


def test_streams_of_a_slab_are_pages_side_by_side() -> None:
    pool = PagePool(LAYOUT, pages=PAGES)
    data = _fill(pool)
    slab = pool.data[1]
    second = slab[64 * SLAB_PAGES : (64 + 128) * SLAB_PAGES].reshape(SLAB_PAGES, 128)
    np.testing.assert_array_equal(second, data[SLAB_PAGES : 2 * SLAB_PAGES, 64 : 64 + 128])


def test_pages_that_were_given_back_come_first() -> None:
    pool = PagePool(LAYOUT, pages=PAGES)
    first = pool.take(4)
    assert first is not None
    assert first == [0, 1, 2, 3]
    pool.drop(first)
    assert pool.take(5) == [0, 1, 2, 3, 4]
    assert pool.take(PAGES) is None
    assert pool.free == PAGES - 5


@pytest.mark.skipif(not has_huge_pages(), reason="the system has no huge pages")
def test_large_memory_lies_in_huge_pages() -> None:
    memory = allocate_huge(16 * 2**20)
    assert not memory.any()
    memory[:] = 1
    assert memory.ctypes.data % 2**21 == 0
    text = Path("/proc/self/smaps").read_text(encoding="ascii")
    areas = text.split("\nVmFlags")
    (area,) = [each for each in areas if _holds(each, memory.ctypes.data)]
    huge = next(line for line in area.splitlines() if line.startswith("AnonHugePages"))
    assert int(huge.split()[1]) >= 14 * 1024


def test_no_memory_is_nothing() -> None:
    assert allocate_huge(0).size == 0


def _holds(area: str, address: int) -> bool:
    heads = [line for line in area.splitlines() if "-" in line.split(" ")[0]]
    low, high = (int(part, 16) for part in heads[0].split(" ")[0].split("-")) if heads else (0, 0)
    return low <= address < high


def test_a_forgotten_adapter_is_overwritten_and_its_slot_is_used_again() -> None:
    layout = replace(LAYOUT, gains=3, gain_of={"layers.0.gain": 0})

    def make(value: float) -> Adapter:
        tensors = {
            "layers.0.gain": np.full(3, value, np.float32),
            "layers.0.o.a": np.zeros((1, 1), np.float32),
        }
        return Adapter(f"s/{value:.0f}", tensors)

    one, two, three = make(1), make(2), make(3)
    pool = AdapterPool(layout, slots=2)
    assert pool.place([one, two, None]) == [0, 1, -1]
    pool.forget("s/2")
    pool.forget("s/never")
    assert pool.data.tolist() == [[1, 1, 1], [0, 0, 0]]
    assert pool.place([three, one]) == [1, 0]
    assert pool.data.tolist() == [[1, 1, 1], [3, 3, 3]]
