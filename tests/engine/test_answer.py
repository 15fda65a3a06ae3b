"""One answer from logits: text, stops, logprobs beside their text, the reason to end."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluvial.engine.answer import Answer, Piece
from fluvial.engine.grammar import GrammarCompiler
from fluvial.types import Grammar, Sampling

EOS, OTHER = 9, 8
PIECES = [b"a", b"b", b"ab", "é".encode()[:1], "é".encode()[1:], "字".encode(), b" ", b"\xff"]


class Words:
    """Ten tokens: pieces of text, halves of a character, a broken byte, two control tokens."""

    vocab_size = 10
    eos_ids = frozenset({EOS})
    marks = {"<end>": EOS, "<other>": OTHER}

    def token_bytes(self, token: int) -> bytes:
        return PIECES[token] if token < len(PIECES) else b""

    def encode(self, text: str) -> list[int]:
        raise NotImplementedError


WORDS = Words()


def point(token: int) -> np.ndarray:
    logits = np.zeros(10, np.float32)
    logits[token] = 20
    return logits


def write(tokens: list[int], *, limit_tokens: int = 100, **options: object) -> list[Piece]:
    """Let an answer draw these tokens, until it ends."""
    sampling = Sampling(**{"temperature": 0.0, **options})
    answer = Answer(sampling, tokenizer=WORDS, vocab_size=10, prompt=[1], limit_tokens=limit_tokens)
    pieces: list[Piece] = []
    for token in tokens:
        pieces.append(answer.take(point(token)))
        if pieces[-1].finish:
            return pieces
    return [*pieces, answer.end("cancelled")]


def join(pieces: list[Piece]) -> tuple[str, str | None]:
    return "".join(piece.text for piece in pieces), pieces[-1].finish


def tell(pieces: list[Piece]) -> list[list[str]]:
    return [[logprob.text for logprob in piece.logprobs] for piece in pieces]


def test_an_answer_ends_at_the_end_token_at_its_limit_or_when_it_is_told_to() -> None:
    assert join(write([0, 1, EOS, 0])) == ("ab", "stop")
    assert join(write([0, 1, 0, 1], limit_tokens=3)) == ("aba", "length")
    assert join(write([0, 1])) == ("ab", "cancelled")
    assert join(write([0, 3], limit_tokens=2)) == ("a\ufffd", "length")


def test_tokens_are_counted_but_not_the_one_that_ends() -> None:
    answer = Answer(
        Sampling(temperature=0.0), tokenizer=WORDS, vocab_size=10, prompt=[], limit_tokens=9
    )
    for token in (0, 1, EOS):
        answer.take(point(token))
    assert answer.completion_tokens == 2


def test_stop_tokens_end_an_answer_and_are_not_shown() -> None:
    assert join(write([0, 2, 1], stop_token_ids=(2,))) == ("a", "stop")
    assert join(write([0, EOS, 1, 2], stop_token_ids=(2,), ignore_eos=True)) == ("ab", "stop")


def test_ignoring_the_end_goes_on_to_the_limit() -> None:
    assert join(write([0, EOS, OTHER, 1], limit_tokens=4, ignore_eos=True)) == ("ab", "length")


def test_a_stop_string_over_tokens_and_halves_of_a_character_is_never_half_shown() -> None:
    pieces = write([0, 1, 3, 4, 6, 0], stop=("bé ",))
    assert [piece.text for piece in pieces] == ["a", "", "", "", ""]
    assert join(pieces) == ("a", "stop")
    assert join(write([0, 3, 4, 1], stop=("ab", "é"))) == ("a", "stop")


def test_a_stop_that_becomes_whole_at_the_limit_is_a_stop() -> None:
    # "ab" could still have become "abb".
    assert join(write([6, 2], limit_tokens=2, stop=("abb", "ab"))) == (" ", "stop")


def test_logprobs_come_with_the_text_their_token_ends_in() -> None:
    pieces = write([0, 3, 4, 5, EOS], logprobs=2)
    assert [piece.text for piece in pieces] == ["a", "", "é", "字", ""]
    assert tell(pieces) == [["a"], [], ["\ufffd", "\ufffd"], ["字"], []]
    first = pieces[0].logprobs[0]
    assert first.bytes == b"a"
    assert [each.text for each in first.top] == ["a", "b"]
    assert first.logprob == first.top[0].logprob > first.top[1].logprob
    assert pieces[2].logprobs[0].bytes == "é".encode()[:1]


def test_text_that_is_held_back_holds_its_logprobs_back() -> None:
    pieces = write([0, 1, 6], stop=("abab",), logprobs=0)
    assert [piece.text for piece in pieces] == ["", "", "ab ", ""]
    assert tell(pieces) == [[], [], ["a", "b", " "], []]


def test_logprobs_of_what_a_stop_cut_off_are_not_told() -> None:
    pieces = write([0, 1, 6, 0], stop=("b ",), logprobs=0)
    assert join(pieces) == ("a", "stop")
    assert tell(pieces) == [["a"], [], []]
    # The cut goes through "ab": its first half is shown, so it is told.
    pieces = write([6, 2, 6], stop=("b ",), logprobs=0)
    assert join(pieces) == (" a", "stop")
    assert [text for texts in tell(pieces) for text in texts] == [" ", "ab"]


def test_a_control_token_has_a_name_and_no_bytes() -> None:
    pieces = write([0, EOS, OTHER], ignore_eos=True, limit_tokens=3, logprobs=1)
    told = [each for piece in pieces for each in piece.logprobs]
    assert [(each.text, each.bytes) for each in told] == [
        ("a", b"a"),
        ("<end>", None),
        ("<other>", None),
    ]
    top = write([0], logprobs=10)[0].logprobs[0].top
    assert ("<end>", None) in [(each.text, each.bytes) for each in top]


def test_no_logprobs_unless_asked_for() -> None:
    assert tell(write([0, 1, EOS])) == [[], [], []]


def test_a_grammar_ends_the_answer_when_nothing_can_follow() -> None:
    class Bytes(Words):
        vocab_size = 257
        eos_ids = frozenset({256})

        def token_bytes(self, token: int) -> bytes:
            return bytes([token]) if token < 256 else b""

        def encode(self, text: str) -> list[int]:
            return list(text.encode())

    grammar = Grammar(kind="regex", text="ab?c")
    words = Bytes()
    answer = Answer(
        Sampling(temperature=0.0, grammar=grammar),
        tokenizer=words,
        vocab_size=257,
        prompt=[],
        limit_tokens=10,
        grammar=GrammarCompiler(words).open(grammar),
    )
    pieces = [answer.take(np.zeros(257, np.float32)) for _ in range(3)]
    assert join(pieces) == ("abc", "stop")
    assert pieces[-1].token == ord("c")
    assert answer.completion_tokens == 3


@given(
    tokens=st.lists(st.integers(0, 8), max_size=12),
    stops=st.lists(st.text("abé字 ", min_size=1, max_size=3), max_size=3),
    limit_tokens=st.integers(1, 14),
)
def test_any_answer_is_its_text_cut_at_the_first_stop(
    tokens: list[int], stops: list[str], limit_tokens: int
) -> None:
    pieces = write([*tokens, EOS], stop=tuple(stops), limit_tokens=limit_tokens, logprobs=0)
    text = b"".join(map(WORDS.token_bytes, tokens[:limit_tokens])).decode("utf-8", "replace")
    cut = min((text.find(stop) for stop in stops if stop in text), default=len(text))
    shown, finish = join(pieces)
    assert shown == text[:cut]
    assert all(piece.finish is None for piece in pieces[:-1])
    if cut < len(text):
        assert finish == "stop"
    told = [each for piece in pieces for each in piece.logprobs]
    spelled = b"".join(each.bytes or b"" for each in told).decode("utf-8", "replace")
    if cut == len(text):
        assert len(told) == min(len(tokens), limit_tokens)
        assert spelled == text
    else:
        assert len(told) <= len(tokens)


@pytest.mark.parametrize("stops", [(), ("zz",)])
def test_logprobs_never_come_before_their_text(stops: tuple[str, ...]) -> None:
    pieces = write([0, 3, 4, 1, 5, 2], stop=stops, logprobs=0)
    shown, told = "", ""
    for piece in pieces:
        shown += piece.text
        told += b"".join(each.bytes or b"" for each in piece.logprobs).decode("utf-8", "replace")
        assert len(told) <= len(shown)
    assert shown == told
