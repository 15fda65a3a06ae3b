from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from fluvial.engine.plan import share_tokens


@dataclass
class Row:
    lane: str
    lag: int


def share(*rows: tuple[str, int], step: int = 100, prefill: int = 100) -> list[int]:
    return share_tokens(
        [Row(lane, lag) for lane, lag in rows], step_tokens=step, prefill_tokens=prefill
    )


def test_rows_that_decode_come_first():
    assert share(("a", 500), ("b", 1), ("c", 1), step=10) == [8, 1, 1]


def test_lanes_share_evenly_and_leave_what_they_do_not_need():
    assert share(("a", 500), ("b", 500), step=10) == [5, 5]
    assert share(("a", 500), ("b", 3), ("c", 500), step=11) == [4, 3, 4]


def test_first_of_a_lane_goes_first():
    assert share(("a", 500), ("a", 20), ("b", 500), step=10) == [5, 0, 5]
    assert share(("a", 3), ("a", 20), ("b", 500), step=10) == [3, 2, 5]


def test_prompts_are_held_back_beside_answers():
    assert share(("a", 500), ("b", 1), prefill=16) == [16, 1]


rows = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 40)), min_size=1, max_size=8)


@given(rows=rows, step=st.integers(8, 64), prefill=st.integers(1, 64))
def test_any_step_is_bounded_fair_and_goes_on(rows: list[tuple[str, int]], step: int, prefill: int):
    shares = share(*rows, step=step, prefill=prefill)
    assert sum(shares) <= step
    assert all(0 <= part <= lag for part, (_, lag) in zip(shares, rows, strict=True))
    served = [lane for part, (lane, _) in zip(shares, rows, strict=True) if part]
    assert set(served) == {lane for lane, _ in rows}
    assert all(part for part, (_, lag) in zip(shares, rows, strict=True) if lag == 1)
    firsts: set[str] = set()
    for part, (lane, lag) in zip(shares, rows, strict=True):
        if lag > 1 and lane not in firsts:
            firsts.add(lane)
            assert part >= 1
