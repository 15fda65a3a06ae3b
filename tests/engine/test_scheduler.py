import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluvial.engine.scheduler import FairQueue
from fluvial.errors import BusyError

TIMEOUT_S = 30


def drain(queue: FairQueue[str]) -> list[str]:
    return [item for item in (queue.take() for _ in range(len(queue))) if item is not None]


def fill(*items: str, limit: int = 100) -> FairQueue[str]:
    """Queue items; the first letter is the lane."""
    queue: FairQueue[str] = FairQueue(limit)
    for item in items:
        queue.put(item, lane=item[0])
    return queue


def test_lanes_take_turns_and_keep_their_order():
    assert drain(fill("a1", "a2", "a3", "b1", "c1", "c2")) == ["a1", "b1", "c1", "a2", "c2", "a3"]


def test_lane_that_was_served_goes_to_the_end():
    queue = fill("a1", "a2", "b1")
    assert queue.take() == "a1"
    queue.put("c1", lane="c")
    assert drain(queue) == ["b1", "a2", "c1"]


def test_limit_is_named_and_freed_by_take_and_remove():
    queue = fill("a1", "a2", limit=2)
    with pytest.raises(BusyError, match="queue_limit = 2"):
        queue.put("b1", lane="b")
    queue.take()
    queue.put("b1", lane="b")
    assert queue.remove("b1", lane="b")
    queue.put("b2", lane="b")
    assert drain(queue) == ["a2", "b2"]


def test_remove_tells_whether_it_still_waited():
    queue = fill("a1", "a2")
    assert queue.remove("a1", lane="a")
    assert not queue.remove("a1", lane="a")
    assert not queue.remove("a2", lane="b")
    assert queue.take() == "a2"
    assert not queue.remove("a2", lane="a")
    assert len(queue) == 0


def test_take_of_an_empty_queue_is_none():
    queue: FairQueue[str] = FairQueue(1)
    assert queue.take() is None
    queue.put("a1", lane="a")
    assert [queue.take(), queue.take()] == ["a1", None]


def test_many_items_go_in_together_or_not_at_all():
    queue = fill("a1", limit=3)
    with pytest.raises(BusyError) as caught:
        queue.put("b1", "b2", "b3", lane="b", retry_after_s=7.0)
    assert caught.value.retry_after_s == 7.0
    assert len(queue) == 1
    assert not queue.find(lambda item: item[0] == "b")
    queue.put("b1", "b2", lane="b")
    assert drain(queue) == ["a1", "b1", "b2"]


def test_lane_whose_next_is_not_ready_is_passed_and_keeps_its_turn():
    queue = fill("a1", "a2", "b1", "b2")
    assert queue.take(ready=lambda item: item != "a1") == "b1"
    assert queue.take(ready=lambda item: item[0] != "b") == "a1"
    assert queue.take(ready=lambda item: False) is None
    assert drain(queue) == ["b2", "a2"]


def test_find_tells_items_with_their_lanes():
    queue = fill("a1", "b1", "b2")
    assert queue.find(lambda item: item.endswith("1")) == [("a", "a1"), ("b", "b1")]


def test_close_returns_the_rest_and_refuses():
    left = fill("a1", "b1", "a2")
    assert sorted(left.close()) == ["a1", "a2", "b1"]
    with pytest.raises(BusyError, match="shutting down"):
        left.put("a1", lane="a")
    assert left.take() is None
    assert left.close() == []
    assert len(left) == 0


def test_each_item_is_taken_once_by_many_threads():
    queue: FairQueue[str] = FairQueue(1000)
    taken: list[str] = []

    def work() -> None:
        while not done.is_set():
            item = queue.take()
            if item is not None:
                taken.append(item)
            if len(taken) == 400:
                done.set()

    done = threading.Event()
    workers = [threading.Thread(target=work) for _ in range(4)]
    writers = [
        threading.Thread(
            target=lambda lane=lane: [queue.put(f"{lane}{n}", lane=lane) for n in range(100)]
        )
        for lane in "abcd"
    ]
    for thread in (*workers, *writers):
        thread.start()
    assert done.wait(TIMEOUT_S)
    queue.close()
    for thread in (*workers, *writers):
        thread.join(TIMEOUT_S)
    assert Counter(taken) == Counter(f"{lane}{n}" for lane in "abcd" for n in range(100))


actions = st.lists(st.tuples(st.sampled_from(["put", "take", "remove"]), st.sampled_from("abcd")))


@given(actions=actions, limit=st.integers(1, 8))
def test_any_use_keeps_order_bound_and_fairness(actions: list[tuple[str, str]], limit: int):
    queue: FairQueue[tuple[str, int]] = FairQueue(limit)
    waiting: list[tuple[str, int]] = []
    overtaken: dict[tuple[str, int], Counter[str]] = {}
    for number, (action, lane) in enumerate(actions):
        mine = [item for item in waiting if item[0] == lane]
        if action == "put" and len(waiting) == limit:
            with pytest.raises(BusyError):
                queue.put((lane, number), lane=lane)
        elif action == "put":
            queue.put((lane, number), lane=lane)
            waiting.append((lane, number))
            overtaken[lane, number] = Counter()
        elif action == "take" and waiting:
            item = queue.take()
            assert item is not None
            assert item == next(other for other in waiting if other[0] == item[0])
            waiting.remove(item)
            for other in waiting:
                overtaken[other][item[0]] += 1
        elif action == "remove" and mine:
            assert queue.remove(mine[-1], lane=lane)
            waiting.remove(mine[-1])
        assert len(queue) == len(waiting)
        assert set(queue._lanes) == {item[0] for item in waiting}
    for (lane, _), passed in overtaken.items():
        own = passed.pop(lane, 0)
        assert all(count <= own + 1 for count in passed.values())
