import math
from dataclasses import replace

import pytest

from fluvial.errors import InputError
from fluvial.store import Store
from fluvial.types import Session

from .sample import make_score, make_session


def test_scores_come_back_in_order_with_their_index(store: Store, session: Session) -> None:
    reading = store.create_reading(session, kind="document", name="n", text="t")
    scores = [make_score(reading, start=512 * i) for i in range(12)]
    assert [store.append_score(score) for score in scores] == list(range(1, 13))
    assert store.scores(session) == list(enumerate(scores, 1))
    assert store.scores(session, after=10) == list(enumerate(scores, 1))[10:]
    assert store.scores(session, after=12) == store.scores(session, after=2**80) == []
    assert store.scores(session, after=-(2**80)) == store.scores(session)


def test_each_session_counts_for_itself(store: Store) -> None:
    for _ in range(2):
        session = make_session(store)
        reading = store.create_reading(session, kind="document", name="n", text="t")
        assert store.append_score(make_score(reading)) == 1


def test_truncate_drops_the_end_of_one_reading(store: Store, session: Session) -> None:
    one, two = (
        store.create_reading(session, kind="document", name=n, text="t") for n in ("1", "2")
    )
    for start in (0, 512, 1024):
        store.append_score(make_score(one, start=start))
        store.append_score(make_score(two, start=start))
    store.truncate_scores(one, start=512)
    left = [(i, s.reading == one.id, s.start) for i, s in store.scores(session)]
    assert left == [(1, True, 0), (2, False, 0), (4, False, 512), (6, False, 1024)]


def test_an_index_is_never_used_again(store: Store, session: Session) -> None:
    reading = store.create_reading(session, kind="document", name="n", text="t")
    store.append_score(make_score(reading))
    store.truncate_scores(reading, start=0)
    assert store.append_score(make_score(reading)) == 2
    store.forget(session)
    assert store.append_score(make_score(reading)) == 3


@pytest.mark.parametrize("nats", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["frozen_nats", "adapted_nats"])
def test_scores_that_are_not_numbers_are_refused(
    store: Store, session: Session, field: str, nats: float
) -> None:
    reading = store.create_reading(session, kind="document", name="n", text="t")
    with pytest.raises(InputError, match="finite"):
        store.append_score(replace(make_score(reading), **{field: nats}))
    assert store.scores(session) == []
