"""The store agrees with a model of it in plain Python, whatever is done to it in whatever order."""

import atexit
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from fluvial.errors import ConflictError, NotFoundError
from fluvial.store import UNSET, Store, write_atomically
from fluvial.types import (
    ChunkScore,
    Message,
    PassageNote,
    Reading,
    Session,
    StoredMessage,
    Version,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NOTES = st.lists(
    st.builds(PassageNote, reading=TEXT, name=TEXT, tokens=st.integers(0, 2**40)), max_size=2
)
OWNERS = st.sampled_from(["ann", "bob"])


@cache
def _make_empty() -> Path:
    """Make a data folder without sessions; making tables anew for each example is slow."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    Store.open(folder / "data").close()
    return folder / "data"


@dataclass
class Model:
    """What one session should hold."""

    session: Session
    messages: list[StoredMessage] = field(default_factory=list)
    readings: dict[str, Reading] = field(default_factory=dict)
    texts: dict[str, str | None] = field(default_factory=dict)
    scores: list[tuple[int, ChunkScore]] = field(default_factory=list)
    versions: dict[int, Version] = field(default_factory=dict)
    version_count: int = 0
    score_count: int = 0


class StoreMachine(RuleBasedStateMachine):
    """Each rule does the same to the store and to the model; each invariant compares the two."""

    sessions = Bundle("sessions")
    readings = Bundle("readings")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        shutil.copytree(_make_empty(), self.folder / "data")
        self.store = Store.open(self.folder / "data")
        self.models: dict[str, Model] = {}
        self.queue: list[str] = []

    @initialize(target=sessions)
    def begin_sessions(self) -> MultipleResults[str]:
        """Begin with something to work on: most rules need a session."""
        owners = ("ann", "ann", "bob")
        return multiple(*(self.create_session(owner=o, title=o, learning="on") for o in owners))

    @initialize(target=readings)
    def begin_readings(self) -> MultipleResults[tuple[str, str]]:
        texts = [(id, str(i)) for i, id in enumerate(self.models)]
        return multiple(*(self.create_reading(id=id, name=n, text=n) for id, n in texts))

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    @rule(target=sessions, owner=OWNERS, title=TEXT, learning=st.sampled_from(["on", "frozen"]))
    def create_session(self, owner: str, title: str, learning: str) -> str:
        session = self.store.create_session(
            owner=owner, title=title, model="m", checkpoint="c", learning=learning
        )
        self.models[session.id] = Model(session)
        return session.id

    @rule(id=sessions, title=st.none() | TEXT, version=st.none() | st.integers(-1, 5))
    def update_session(self, id: str, title: str | None, version: int | None) -> None:
        model = self.models[id]
        if version is not None and version != 0 and version not in model.versions:
            with pytest.raises(NotFoundError):
                self.store.update_session(model.session, title=title, version=version)
            return
        updated = self.store.update_session(model.session, title=title, version=version)
        given = {"title": title, "version": version}
        changes = {key: value for key, value in given.items() if value is not None}
        self._touched(model)
        assert updated == replace(model.session, **changes)
        model.session = updated

    @rule(id=consumes(sessions))
    def delete_session(self, id: str) -> None:
        self.store.delete_session(self.models[id].session)
        gone = self.models.pop(id)
        self.queue = [reading for reading in self.queue if reading not in gone.readings]
        with pytest.raises(NotFoundError):
            self.store.session(id, owner=gone.session.owner)
        assert not (self.folder / "data" / "sessions" / id).exists()

    @rule(
        id=sessions,
        texts=st.lists(TEXT, min_size=1, max_size=3),
        parent=st.integers(-2, 4),
        notes=NOTES,
    )
    def append_turn(self, id: str, texts: list[str], parent: int, notes: list[PassageNote]) -> None:
        """`parent` picks a message of the session; -1 is None, -2 is UNSET."""
        model = self.models[id]
        known = [message.id for message in model.messages]
        given = {-1: None, -2: UNSET}.get(parent, known[parent] if 0 <= parent < len(known) else "")
        messages = [Message(role="user", content=text) for text in texts]
        if given is not UNSET and given != (known[-1] if known else None):
            with pytest.raises(ConflictError):
                self.store.append_turn(model.session, messages=messages, parent=given, version=0)
            return
        users, answer = self.store.append_turn(
            model.session, messages=messages, parent=given, version=0, passages=notes
        )
        assert [message.content for message in users] == texts
        assert answer.passages == tuple(notes)
        model.messages += [*users, answer]
        self._touched(model)

    @rule(id=sessions, which=st.integers(0, 20), text=TEXT, finish=st.sampled_from([None, "stop"]))
    def update_message(self, id: str, which: int, text: str, finish: str | None) -> None:
        messages = self.models[id].messages
        if which >= len(messages):
            return
        updated = self.store.update_message(messages[which], content=text, finish=finish)
        messages[which] = replace(messages[which], content=text)
        if finish is not None:
            messages[which] = replace(messages[which], finish=finish)
        assert updated == messages[which]

    @rule(target=readings, id=sessions, name=TEXT, text=TEXT)
    def create_reading(self, id: str, name: str, text: str) -> tuple[str, str]:
        model = self.models[id]
        reading = self.store.create_reading(model.session, kind="document", name=name, text=text)
        model.readings[reading.id] = reading
        model.texts[reading.id] = text
        self.queue.append(reading.id)
        self._touched(model)
        return id, reading.id

    @rule(
        key=readings,
        status=st.sampled_from([None, "queued", "reading", "done", "cancelled", "failed"]),
        tokens_read=st.none() | st.integers(0, 2**40),
        error=st.none() | TEXT,
    )
    def update_reading(
        self, key: tuple[str, str], status: str | None, tokens_read: int | None, error: str | None
    ) -> None:
        if (model := self.models.get(key[0])) is None:
            return
        reading = model.readings[key[1]]
        given = {"status": status, "tokens_read": tokens_read, "error": error}
        updated = self.store.update_reading(reading, **given)
        changes = {name: value for name, value in given.items() if value is not None}
        model.readings[key[1]] = replace(reading, **changes)
        assert updated == model.readings[key[1]]

    @rule(key=readings)
    def remove_text(self, key: tuple[str, str]) -> None:
        if (model := self.models.get(key[0])) is not None:
            self.store.remove_reading_text(model.readings[key[1]])
            model.texts[key[1]] = None

    @rule(key=readings, count=st.integers(1, 3), nats=st.floats(0, 1e9))
    def append_scores(self, key: tuple[str, str], count: int, nats: float) -> None:
        if (model := self.models.get(key[0])) is None:
            return
        for start in range(count):
            score = ChunkScore(
                session=key[0],
                reading=key[1],
                start=start,
                tokens=1,
                bytes=1,
                frozen_nats=nats,
                adapted_nats=nats / 3,
                version=0,
                learned=start % 2 == 0,
                created_at=1.0,
            )
            model.score_count += 1
            assert self.store.append_score(score) == model.score_count
            model.scores.append((model.score_count, score))

    @rule(key=readings, start=st.integers(0, 2))
    def truncate_scores(self, key: tuple[str, str], start: int) -> None:
        if (model := self.models.get(key[0])) is not None:
            self.store.truncate_scores(model.readings[key[1]], start=start)
            model.scores = [
                (index, score)
                for index, score in model.scores
                if score.reading != key[1] or score.start < start
            ]

    @rule(id=sessions)
    def reserve_version(self, id: str) -> None:
        model = self.models[id]
        model.version_count += 1
        assert self.store.next_version(model.session) == model.version_count

    @rule(key=readings, status=st.sampled_from([None, "done"]), tokens_read=st.integers(0, 99))
    def add_version(self, key: tuple[str, str], status: str | None, tokens_read: int) -> None:
        if (model := self.models.get(key[0])) is None:
            return
        self.reserve_version(key[0])
        number = model.version_count
        write_atomically(self.store.version_path(model.session, number), b"%d" % number)
        version = Version(
            session=key[0],
            number=number,
            parent=model.session.version,
            reading=key[1],
            tokens_learned=1,
            updates=1,
            drift=0.5,
            bytes=1,
            sha256="",
            created_at=1.0,
        )
        reading = model.readings[key[1]]
        session = self.store.add_version(
            version, reading=reading, tokens_read=tokens_read, status=status
        )
        self._touched(model)
        model.versions[number] = version
        changes = {"status": status} if status is not None else {}
        model.readings[key[1]] = replace(reading, tokens_read=tokens_read, **changes)
        model.session = replace(model.session, version=number)
        assert session == model.session

    @rule(id=sessions, number=st.integers(-1, 5))
    def delete_version(self, id: str, number: int) -> None:
        model = self.models[id]
        if number == model.session.version or number not in model.versions:
            with pytest.raises((ConflictError, NotFoundError)):
                self.store.delete_version(model.session, number)
            return
        self.store.delete_version(model.session, number)
        del model.versions[number]

    @rule(id=sessions)
    def forget(self, id: str) -> None:
        model = self.models[id]
        forgotten = self.store.forget(model.session)
        self._touched(model)
        model.versions, model.scores = {}, []
        model.session = replace(model.session, version=0)
        assert forgotten == model.session

    @rule()
    def reopen(self) -> None:
        """Half-written answers end as cancelled, readings under way are queued again."""
        self.store.close()
        self.store = Store.open(self.folder / "data")
        for model in self.models.values():
            model.messages = [
                replace(message, finish="cancelled")
                if message.role == "assistant" and message.finish is None
                else message
                for message in model.messages
            ]
            model.readings = {
                id: replace(reading, status="queued") if reading.status == "reading" else reading
                for id, reading in model.readings.items()
            }

    @rule(owner=OWNERS, limit=st.integers(1, 3))
    def page_through_sessions(self, owner: str, limit: int) -> None:
        mine = [m.session for m in self.models.values() if m.session.owner == owner]
        expected = sorted(mine, key=lambda session: -session.updated_at)
        found: list[Session] = []
        before = None
        while page := self.store.sessions(owner=owner, limit=limit, before=before):
            assert len(page) <= limit
            found += page
            before = page[-1].updated_at
        assert found == expected

    @invariant()
    def sessions_agree(self) -> None:
        for id, model in self.models.items():
            session = self.store.session(id, owner=model.session.owner)
            assert session == model.session
            assert self.store.messages(session) == model.messages
            assert self.store.readings(session) == list(model.readings.values())
            assert self.store.scores(session) == model.scores
            assert self.store.versions(session) == list(model.versions.values())

    @invariant()
    def files_agree(self) -> None:
        expected: set[Path] = set()
        root = self.folder / "data" / "sessions"
        for id, model in self.models.items():
            texts = {key: text for key, text in model.texts.items() if text is not None}
            for key, text in texts.items():
                assert self.store.reading_text(model.readings[key]) == text
            expected |= {root / id / "readings" / f"{key}.txt" for key in texts}
            expected |= {root / id / "versions" / f"{n}.safetensors" for n in model.versions}
        assert {path for path in root.rglob("*") if path.is_file()} == expected

    @invariant()
    def removed_texts_are_known(self) -> None:
        for model in self.models.values():
            for key, text in model.texts.items():
                assert self.store.has_reading_text(model.readings[key]) == (text is not None)

    @invariant()
    def queue_agrees(self) -> None:
        readings = {
            id: reading for model in self.models.values() for id, reading in model.readings.items()
        }
        waiting = [
            readings[id] for id in self.queue if readings[id].status in ("queued", "reading")
        ]
        found = self.store.unfinished_readings(model="m")
        assert [reading for _, reading in found] == waiting
        assert all(s == self.models[r.session].session for s, r in found)

    def _touched(self, model: Model) -> None:
        """Take over the new time, once it is known to be later than all others."""
        session = self.store.session(model.session.id, owner=model.session.owner)
        assert all(session.updated_at > other.session.updated_at for other in self.models.values())
        model.session = replace(model.session, updated_at=session.updated_at)


TestStore = StoreMachine.TestCase
TestStore.settings = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
