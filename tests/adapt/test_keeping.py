"""What is kept, and what goes first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluvial.adapt.keeping import (
    Limits,
    choose_expendable,
    choose_over_quota,
    require_room,
)
from fluvial.errors import ConflictError
from fluvial.types import Holding, Session

SESSION = Session(
    id="s",
    owner="me",
    title="",
    model="m",
    checkpoint="c",
    learning="on",
    version=0,
    created_at=0.0,
    updated_at=0.0,
)


def hold(
    number: int,
    *,
    session: str = "s",
    size: int = 10,
    pinned: bool = False,
    in_force: bool = False,
    is_parent: bool = False,
) -> Holding:
    return Holding(
        session=session,
        owner="me",
        number=number,
        bytes=size,
        created_at=float(number),
        pinned=pinned,
        in_force=in_force,
        is_parent=is_parent,
    )


def test_the_oldest_go_first_and_the_parent_of_the_one_in_force_last() -> None:
    held = [
        hold(1, is_parent=True),
        hold(2, pinned=True),
        hold(3, in_force=True),
        hold(4),
        hold(5),
    ]
    chosen = [
        [each.number for each in choose_expendable(held, limit_bytes=limit)]
        for limit in (50, 49, 40, 30, 20, 10, 0)
    ]
    assert chosen == [[], [4], [4], [4, 5], [4, 5, 1], [4, 5, 1], [4, 5, 1]]


def test_a_session_gives_before_the_owner_does() -> None:
    limits = Limits(session_bytes=20, owner_bytes=40)
    others = [hold(1, session="t"), hold(2, session="t"), hold(3, session="t", in_force=True)]
    inside = [hold(n, in_force=n == 9) for n in (6, 7, 8, 9)]
    chosen = choose_over_quota([*others, *inside], session=SESSION, limits=limits)
    assert [(each.session, each.number) for each in chosen] == [("s", 6), ("s", 7), ("t", 1)]


@pytest.mark.parametrize(
    ("held", "fits"),
    [
        ([], True),
        ([hold(1, in_force=True), hold(2), hold(3)], True),
        ([hold(1, pinned=True), hold(2)], True),
        ([hold(1, pinned=True), hold(2, pinned=True)], False),
        ([hold(1, session="t", in_force=True), hold(2, session="t")], True),
        ([hold(n, session=f"t{n}", in_force=True) for n in range(4)], False),
    ],
)
def test_room_is_what_neither_pins_nor_what_is_in_force_elsewhere_take(
    held: list[Holding], fits: bool
) -> None:
    limits = Limits(session_bytes=20, owner_bytes=40)
    if fits:
        require_room(held, session=SESSION, size_bytes=10, limits=limits)
        return
    with pytest.raises(ConflictError) as caught:
        require_room(held, session=SESSION, size_bytes=10, limits=limits)
    assert caught.value.code == "quota_reached"


def test_a_version_in_force_counts_when_a_new_session_begins() -> None:
    limits = Limits(session_bytes=20, owner_bytes=20)
    held = [hold(1, in_force=True), hold(1, session="t", in_force=True)]
    require_room(held, session=SESSION, size_bytes=10, limits=limits)
    with pytest.raises(ConflictError):
        require_room(held, session=None, size_bytes=10, limits=limits)


HELD = st.lists(
    st.builds(
        hold,
        st.integers(1, 9),
        session=st.sampled_from(["s", "t"]),
        size=st.integers(0, 20),
        pinned=st.booleans(),
        in_force=st.booleans(),
        is_parent=st.booleans(),
    ),
    max_size=8,
    unique_by=lambda each: (each.session, each.number),
)


@given(HELD, st.integers(0, 100), st.integers(0, 100))
def test_enough_goes_and_nothing_that_is_kept(
    held: list[Holding], session_bytes: int, owner_bytes: int
) -> None:
    limits = Limits(session_bytes=session_bytes, owner_bytes=owner_bytes)
    chosen = choose_over_quota(held, session=SESSION, limits=limits)
    assert not any(each.pinned or each.in_force for each in chosen)
    assert len({(each.session, each.number) for each in chosen}) == len(chosen)
    left = [each for each in held if each not in chosen]
    may_go = [each for each in left if not each.pinned and not each.in_force]
    assert sum(each.bytes for each in left) <= owner_bytes or not may_go
    inside = [each for each in left if each.session == "s"]
    assert sum(e.bytes for e in inside) <= session_bytes or not set(inside) & set(may_go)


def test_expiry_counts_in_seconds_and_0_is_never() -> None:
    limits = Limits(session_bytes=1, owner_bytes=1, expiry_s=60.0)
    assert limits.expires_at(100.0) == 160.0
    assert Limits(session_bytes=1, owner_bytes=1).expires_at(100.0) is None
