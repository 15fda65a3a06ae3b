"""Held text: the same under any splitting, and never a character past the last one checked."""

from hypothesis import given
from hypothesis import strategies as st

from fluvial.guard.guard import Guard, mask
from fluvial.guard.hold import Ask, Holder
from fluvial.guard.pattern import PatternCheck
from fluvial.guard.word import WordCheck
from tests.guard.world import make_guard, make_policy

GUARD = make_guard()
words = st.sampled_from(
    ["project", "aurora", "auroras", "bob", "Ada", "Lovelace", "极光", "计划", "bread", "\n", "odd"]
)
some_text = st.lists(words, max_size=25).map(" ".join) | st.text("ab o乐r\n", max_size=80)
joins = st.lists(words | st.sampled_from([" ", ""]), max_size=30).map("".join)
texts = some_text | joins
cuts = st.lists(st.integers(0, 200), max_size=60)


def split(whole: str, cuts: list[int]) -> list[str]:
    borders = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    return [whole[a:b] for a, b in zip(borders, borders[1:], strict=False)]


def take_all(holder: Holder, guard: Guard, *, rush: bool = False) -> str:
    shown = ""
    while (ask := holder.ask(rush=rush)) is not None:
        found = guard.find(holder.text[ask.start : ask.end], place="answer")
        shown += holder.take(ask, found)
        assert holder.released <= ask.end
    return shown


def stream(
    guard: Guard, pieces: list[str], *, rushes: list[bool] | None = None
) -> tuple[str, Holder]:
    holder = Holder(guard)
    shown = ""
    for number, piece in enumerate(pieces):
        holder.push(piece)
        shown += take_all(holder, guard, rush=bool(rushes and rushes[number % len(rushes)]))
    holder.close()
    return shown + take_all(holder, guard), holder


@given(text=texts, cuts=cuts)
def test_text_released_is_the_same_under_any_splitting(text: str, cuts: list[int]) -> None:
    whole, at_once = stream(GUARD, [text])
    pieces, in_parts = stream(GUARD, split(text, cuts))
    assert pieces == whole
    assert in_parts.ruling == at_once.ruling
    assert in_parts.flags == at_once.flags


@given(text=texts, cuts=cuts)
def test_what_is_streamed_is_what_the_whole_text_would_be(text: str, cuts: list[int]) -> None:
    shown, holder = stream(GUARD, split(text, cuts))
    rulings = GUARD.rule(GUARD.find(text, place="answer"), place="answer")
    masked = mask(GUARD.policy, text, rulings)
    if any(ruling.action == "stop" for ruling in rulings):
        assert holder.ruling is not None
        assert masked.startswith(shown)
    else:
        assert holder.ruling is None
        assert shown == masked


@given(text=texts, cuts=cuts, rushes=st.lists(st.booleans(), min_size=1, max_size=5))
def test_nothing_that_is_found_is_shown_even_in_a_rush(
    text: str, cuts: list[int], rushes: list[bool]
) -> None:
    shown, holder = stream(GUARD, split(text, cuts), rushes=rushes)
    left = GUARD.rule(GUARD.find(shown, place="answer"), place="answer")
    assert not [ruling for ruling in left if ruling.action == "stop"]
    if holder.ruling is None:
        rulings = GUARD.rule(GUARD.find(text, place="answer"), place="answer")
        assert not [ruling for ruling in rulings if ruling.action == "stop"]


@given(text=st.text(max_size=60), cuts=cuts, every=st.integers(1, 9), window=st.integers(0, 9))
def test_harmless_text_comes_out_whole_whatever_the_window(
    text: str, cuts: list[int], every: int, window: int
) -> None:
    policy = make_policy().with_hold(every_tokens=every, window_tokens=window)
    guard = Guard(policy, GUARD.checks)
    shown, holder = stream(guard, split(text, cuts))
    if not guard.rule(guard.find(text, place="answer"), place="answer"):
        assert shown == text
    assert holder.released <= len(text)


@given(text=texts)
def test_every_character_shown_was_in_a_check_that_passed(text: str) -> None:
    holder = Holder(GUARD)
    seen = 0
    for char in text:
        holder.push(char)
        while (ask := holder.ask()) is not None:
            seen = max(seen, ask.end)
            holder.take(ask, GUARD.find(holder.text[ask.start : ask.end], place="answer"))
        assert holder.released <= seen


def test_a_second_check_has_to_agree_and_nothing_is_shown_meanwhile() -> None:
    guard = make_guard(("[category.aurora]\n", "[category.aurora]\ndebounce = 2\n"))
    holder = Holder(guard)
    holder.push("fine words and aurora then bread ")
    asks: list[Ask] = []
    while holder.ruling is None and (ask := holder.ask()) is not None:
        asks.append(ask)
        found = guard.find(holder.text[ask.start : ask.end], place="answer")
        shown = holder.take(ask, found)
        assert not (found and shown)
    assert holder.ruling is not None
    first = next(ask for ask in asks if "aurora " in holder.text[: ask.end])
    assert asks.index(first) == len(asks) - 2
    # The last check of an answer needs no second one.
    holder = Holder(guard)
    holder.push("aurora")
    holder.close()
    assert take_all(holder, guard) == ""
    assert holder.ruling is not None


def test_a_finding_that_goes_away_lets_the_text_out() -> None:
    guard = make_guard(("[category.aurora]\n", "[category.aurora]\ndebounce = 2\n"))
    shown, holder = stream(guard, ["some more words, auroras and bread"])
    assert (shown, holder.ruling) == ("some more words, auroras and bread", None)


def test_after_a_ruling_nothing_is_asked_or_shown() -> None:
    shown, holder = stream(GUARD, ["aurora is here and goes on " * 20])
    assert shown == ""
    holder.push("more")
    assert holder.ask() is None
    assert holder.ask(rush=True) is None


def test_a_number_in_groups_is_masked_as_a_whole_even_in_a_rush() -> None:
    policy = make_policy(('answer = ["words"]', 'answer = ["patterns"]'))
    guard = Guard(policy, [WordCheck(policy.listed()), PatternCheck()])
    policy.category["card"] = policy.rule("name")
    pieces = ["the card is", " 4111", " 1111", " 1111", " 1111", " and", " 12", " apples"]
    shown, holder = stream(guard, pieces, rushes=[True])
    assert shown == "the card is [card] and 12 apples"
    assert holder.ruling is None
