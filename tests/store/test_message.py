import threading
from dataclasses import replace
from pathlib import Path

import pytest

from fluvial.errors import ConflictError, InputError, NotFoundError
from fluvial.store import UNSET, Store
from fluvial.types import Message, PassageNote, Session, StoredMessage

HI = Message(role="user", content="hi")
TEXTS = {
    "empty": "",
    "NUL": "a\x00b\x00",
    "controls": "".join(map(chr, range(32))) + "\x7f\x85",
    "astral": "😀🏳️‍🌈 𝔘 \U0010ffff",
    "right to left": "שלום عليكم \u202e evil \u2066",
    "not normalised": "e\u0301 \u00e9 \u212b",
    "line ends": "a\r\nb\rc\n\u2028",
    "noncharacters": "\ufffe\uffff\ufeff",
    "SQL": "'; DROP TABLE message; -- %s :x ?",
    "one MB": "河é" * 200_000,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_any_text_comes_back_exactly(store: Store, session: Session, text: str) -> None:
    message = store.append_message(session, role="user", content=text, version=0)
    assert message.content == text
    answer = store.append_message(session, role="assistant", content="", version=0)
    answer = store.update_message(answer, content=text, finish="stop")
    assert store.messages(session) == [message, answer]
    assert store.messages(session)[1].content == text


@pytest.mark.parametrize("text", ["\ud800", "ok \udfff", "\udc00\ud800"])
def test_lone_surrogates_are_refused_and_leave_nothing(
    store: Store, session: Session, text: str
) -> None:
    with pytest.raises(InputError, match="lone surrogate"):
        store.append_message(session, role="user", content=text, version=0)
    messages = [HI, Message(role="user", content=text)]
    with pytest.raises(InputError, match="lone surrogate"):
        store.append_turn(session, messages=messages, parent=None, version=0)
    assert store.messages(session) == []
    kept = store.append_message(session, role="user", content="kept", version=0)
    with pytest.raises(InputError, match="lone surrogate"):
        store.update_message(kept, content=text)
    assert store.messages(session) == [kept]


def test_turn_is_stored_with_an_empty_answer(store: Store, session: Session) -> None:
    system = Message(role="system", content="be brief")
    users, answer = store.append_turn(session, messages=[system, HI], parent=None, version=3)
    assert [(m.role, m.content, m.position) for m in users] == [
        ("system", "be brief", 0),
        ("user", "hi", 1),
    ]
    assert (answer.role, answer.content, answer.finish, answer.version, answer.position) == (
        "assistant",
        "",
        None,
        3,
        2,
    )
    assert store.messages(session) == [*users, answer]
    moved = store.session(session.id, owner="ann")
    assert moved.updated_at > session.updated_at


@pytest.mark.parametrize("name", [t for t in TEXTS.values() if len(t) < 100], ids=repr)
def test_passages_are_kept_with_the_answer_only(
    store: Store, session: Session, data_dir: Path, name: str
) -> None:
    notes = (
        PassageNote(reading="read_b", name=name, tokens=300),
        PassageNote(reading="read_a", name="a.txt", tokens=0),
    )
    users, answer = store.append_turn(
        session, messages=[HI, HI], parent=None, version=0, passages=notes
    )
    assert [message.passages for message in (*users, answer)] == [(), (), notes]
    done = store.update_message(answer, content="done", finish="stop")
    assert done == replace(answer, content="done", finish="stop")
    store.close()
    again = Store.open(data_dir)
    assert again.messages(session) == [*users, done]
    again.close()


def test_a_turn_that_is_refused_leaves_no_passages(store: Store, session: Session) -> None:
    note = PassageNote(reading="read_a", name="a.txt", tokens=1)
    store.append_turn(session, messages=[HI], parent=None, version=0)
    with pytest.raises(ConflictError):
        store.append_turn(session, messages=[HI], parent=None, version=0, passages=[note])
    assert [message.passages for message in store.messages(session)] == [(), ()]


def test_turn_without_messages_is_refused(store: Store, session: Session) -> None:
    with pytest.raises(InputError, match="at least one"):
        store.append_turn(session, messages=[], parent=None, version=0)


def test_parent_must_be_the_last_message(store: Store, session: Session) -> None:
    users, answer = store.append_turn(session, messages=[HI], parent=None, version=0)
    for parent in (None, users[0].id, "msg_unknown", "\ud800", ""):
        with pytest.raises(ConflictError) as caught:
            store.append_turn(session, messages=[HI], parent=parent, version=0)
        assert caught.value.code == "session_changed"
        assert answer.id in caught.value.message.encode().decode()
    assert len(store.messages(session)) == 2
    store.append_turn(session, messages=[HI], parent=answer.id, version=0)
    store.append_turn(session, messages=[HI], parent=UNSET, version=0)
    assert [m.position for m in store.messages(session)] == list(range(6))


def test_update_keeps_what_is_not_given(store: Store, session: Session) -> None:
    _, answer = store.append_turn(session, messages=[HI], parent=None, version=0)
    half = store.update_message(answer, content="half")
    assert half == replace(answer, content="half")
    done = store.update_message(answer, content="", finish="length", version=2)
    assert done == replace(answer, content="", finish="length", version=2)
    assert store.update_message(answer, content="x").finish == "length"
    with pytest.raises(NotFoundError):
        store.update_message(replace(answer, id="msg_unknown"), content="x")


def test_of_two_writers_with_one_parent_exactly_one_wins(store: Store, session: Session) -> None:
    parent: str | None = None
    for _ in range(20):
        won: list[StoredMessage] = []
        lost: list[ConflictError] = []
        barrier = threading.Barrier(2)

        def write(name: str, *, parent: str | None, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            try:
                messages = [Message(role="user", content=name)]
                turn = store.append_turn(session, messages=messages, parent=parent, version=0)
            except ConflictError as error:
                lost.append(error)  # noqa: B023
            else:
                won.append(turn[1])  # noqa: B023

        threads = [
            threading.Thread(target=write, args=(name,), kwargs={"parent": parent}) for name in "ab"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(won), [error.code for error in lost]) == (1, ["session_changed"])
        assert store.messages(session)[-1] == won[0]
        parent = won[0].id
    assert len(store.messages(session)) == 40
