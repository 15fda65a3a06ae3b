"""The prompt: passages beside the question only, and never at the cost of the conversation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluvial.errors import ContextLengthError
from fluvial.service.prompt import Document, Prompt, build, check_size, frame, measure_tokens
from fluvial.testing import ScriptedEngine
from fluvial.types import Message

ZEBRA = Document(
    reading="read_1", name="zebra.txt", text="The zebra eats grass on the savanna.\n\n" * 40
)
HISTORY = [Message(role="user", content="Hi"), Message(role="assistant", content="Hello")]
QUESTION = Message(role="user", content="What does the zebra eat?")


def make(messages: list[Message], *, documents: list[Document], **given: int | None) -> Prompt:
    engine = ScriptedEngine(context_tokens=1000)
    settings = {"budget_tokens": 300, "answer_tokens": None, **given}
    return build(messages, documents=documents, engine=engine, **settings)


def test_without_documents_the_prompt_is_the_conversation() -> None:
    built = make([*HISTORY, QUESTION], documents=[])
    assert (built.messages, built.passages) == ((*HISTORY, QUESTION), ())


def test_passages_change_the_last_message_only() -> None:
    built = make([*HISTORY, QUESTION], documents=[ZEBRA])
    assert built.messages[:-1] == tuple(HISTORY)
    assert "[zebra.txt]" in built.messages[-1].content
    assert built.messages[-1].content.endswith(QUESTION.content)
    assert [(p.reading, p.name) for p in built.passages] == [("read_1", "zebra.txt")]
    assert 0 < built.passages[0].tokens <= 300


def test_a_question_about_nothing_read_gets_no_passages() -> None:
    other = Message(role="user", content="Quelle heure?")
    assert make([other], documents=[ZEBRA]).passages == ()


def test_the_answer_keeps_its_room() -> None:
    long = [Message(role="user", content="x" * 500), QUESTION]
    assert make(long, documents=[ZEBRA], answer_tokens=400).passages == ()
    assert make(long, documents=[ZEBRA], answer_tokens=10).passages != ()


@given(
    history=st.integers(0, 1200),
    budget=st.integers(0, 2000),
    answer=st.none() | st.integers(1, 1000),
)
def test_whatever_fits_without_passages_fits_with_them(
    history: int, budget: int, answer: int | None
) -> None:
    engine = ScriptedEngine(context_tokens=1000)
    messages = [Message(role="user", content="y" * history), QUESTION]
    built = build(
        messages, documents=[ZEBRA], engine=engine, budget_tokens=budget, answer_tokens=answer
    )
    assert sum(passage.tokens for passage in built.passages) <= budget
    if built.passages:
        assert engine.count(built.messages) + (answer or 256) <= engine.context_tokens
    else:
        assert built.messages == tuple(messages)


def test_what_can_not_fit_is_refused_before_it_is_tokenised() -> None:
    engine = ScriptedEngine(context_tokens=1000)
    longest = measure_tokens(engine)
    assert longest == 1
    check_size([Message(role="user", content="é" * 1499)], engine=engine, token_bytes=longest)
    with pytest.raises(ContextLengthError, match="3000 bytes"):
        check_size([Message(role="user", content="é" * 1500)], engine=engine, token_bytes=longest)


def test_the_frame_names_each_document_once_per_passage() -> None:
    text = frame("Why?", passages=[("a.txt", " one \n"), ("b.txt", "two")])
    assert text.count("[a.txt]\none\n") == 1
    assert text.endswith("---\n\nWhy?")
