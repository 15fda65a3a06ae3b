import pytest

from fluvial.engine.stop import StopFilter


def push_all(stops: list[str], pieces: list[str]) -> list[str]:
    stop_filter = StopFilter(stops)
    return [*(stop_filter.push(piece) for piece in pieces), stop_filter.finish()]


def test_without_stops_everything_passes_at_once():
    assert push_all([], ["a", "bc"]) == ["a", "bc", ""]


def test_only_what_may_become_a_stop_is_held():
    assert push_all(["END"], ["one E", "N", "d E", "x"]) == ["one ", "", "ENd ", "Ex", ""]


def test_stop_over_three_pieces():
    assert push_all(["END"], ["one E", "N", "D two", "three"]) == ["one ", "", "", "", ""]


def test_held_text_comes_out_at_the_end():
    assert push_all(["END"], ["one EN"]) == ["one ", "EN"]


def test_self_overlapping_stop():
    assert "".join(push_all(["aab"], ["aa", "aa", "b", "c"])) == "aa"


def test_earliest_beginning_wins_over_earliest_end():
    assert "".join(push_all(["abcd", "bc"], ["xab", "c", "d"])) == "x"
    assert "".join(push_all(["abcd", "bc"], ["xab", "c", "e"])) == "xa"
    assert "".join(push_all(["abcd", "bc"], ["xab", "c"])) == "xa"


def test_shorter_stop_with_the_same_beginning_does_not_wait():
    stop_filter = StopFilter(["ab", "abc"])
    assert stop_filter.push("xab") == "x"
    assert stop_filter.stopped


def test_nothing_comes_after_the_stop():
    stop_filter = StopFilter(["."])
    assert stop_filter.push("a.b") == "a"
    assert stop_filter.stopped
    assert stop_filter.push("c.") == ""
    assert stop_filter.finish() == ""


@pytest.mark.parametrize("stop", ["\n", "é", "👋🏽", " "])
def test_any_character_can_stop(stop: str):
    assert "".join(push_all([stop], ["a", stop, "b"])) == "a"


def test_what_is_held_stays_shorter_than_the_longest_stop():
    stop_filter = StopFilter(["a" * 256])
    shown = sum(len(stop_filter.push("a" * 100)) for _ in range(2))
    assert shown == 0
    assert stop_filter.push("b") == "a" * 200 + "b"
