"""What streams equals what would have come out whole, however it was split."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from fluvial.engine.stop import StopFilter
from fluvial.engine.text import TextDecoder

# Bytes that begin, continue and break characters, beside arbitrary ones.
tricky = st.sampled_from(
    [b"a", b"\xc3", b"\xa9", b"\xe4", b"\xbd", b"\xf0\x9f", b"\x91", b"\xed\xa0\x80", b"\xff"]
)
some_bytes = st.binary(max_size=40) | st.lists(tricky, max_size=20).map(b"".join)
some_text = st.text("ab", max_size=40) | st.text("abc\n ", max_size=30) | st.text(max_size=20)
some_stops = st.lists(st.text("abc", min_size=1, max_size=5) | st.text(min_size=1), max_size=4)


def split(whole: Sequence, cuts: list[int]) -> list:
    borders = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    return [whole[start:end] for start, end in zip(borders, borders[1:], strict=False)]


cuts = st.lists(st.integers(0, 40), max_size=40)


@given(whole=some_bytes, cuts=cuts)
def test_text_streamed_is_text_decoded_whole(whole: bytes, cuts: list[int]):
    decoder = TextDecoder()
    streamed = [decoder.push(piece) for piece in split(whole, cuts)]
    assert "".join([*streamed, decoder.finish()]) == whole.decode("utf-8", "replace")


@given(whole=some_text, stops=some_stops, cuts=cuts)
def test_stop_streamed_is_the_whole_cut_at_the_first_match(
    whole: str, stops: list[str], cuts: list[int]
):
    stop_filter = StopFilter(stops)
    shown = [stop_filter.push(piece) for piece in split(whole, cuts)]
    shown.append(stop_filter.finish())
    matches = [whole.find(stop) for stop in stops if stop in whole]
    assert "".join(shown) == whole[: min(matches, default=len(whole))]
    assert stop_filter.stopped == bool(matches)


@given(whole=some_text, stops=some_stops, cuts=cuts)
def test_only_what_may_become_a_stop_is_held_back(whole: str, stops: list[str], cuts: list[int]):
    stop_filter, pushed, shown = StopFilter(stops), "", ""
    for piece in split(whole, cuts):
        pushed += piece
        shown += stop_filter.push(piece)
        held = pushed[len(shown) :]
        if held and not stop_filter.stopped:
            assert any(stop.startswith(held) and stop != held for stop in stops)
