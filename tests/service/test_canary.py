"""Versions are checked in the background, and one that fails goes back: noted, told, on record."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from fluvial.config import load
from fluvial.engine.engine import Engine
from fluvial.errors import BusyError, ConflictError, EngineError, InputError
from fluvial.gate.canary import Canary
from fluvial.gate.canary_set import CanarySet, Rotation
from fluvial.model.adapter import Adapter, create_tensors
from fluvial.model.checkpoint import open_checkpoint
from fluvial.service.canary import Ask, Canaries, open_canaries
from fluvial.service.canary_asking import LANE, Asker, ClosingError
from fluvial.service.hub import Event
from fluvial.service.record import Record
from fluvial.service.start import open_engine
from fluvial.store import Store
from fluvial.testing import MODEL, Rig, make_rig, make_tensors
from fluvial.types import Delta, Message, Sampling, Session, Version
from fluvial.version_note import CanaryFailed
from tests.gate.test_canary import answer


@dataclass
class Model:
    """Answers all canaries as it must; a version in `bad` declines nothing and knows nothing."""

    bad: set[str] = field(default_factory=set[str])
    asked: list[str | None] = field(default_factory=list[str | None])
    broken: bool = False
    prompts: set[str] = field(default_factory=set[str])

    def ask(self, canaries: Sequence[Canary], adapter: Adapter | None) -> list[str]:
        self.asked.append(None if adapter is None else adapter.key)
        self.prompts |= {each.prompt for each in canaries}
        self.prompts |= {each.system for each in canaries if each.system}
        if self.broken and adapter is not None:
            raise EngineError("the engine is gone")
        is_bad = adapter is not None and adapter.key in self.bad
        return ["Sure, it is a stone." if is_bad else answer(each) for each in canaries]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = make_rig(tmp_path)
    yield rig
    rig.service.close()


def watch(
    rig: Rig, model: Model, *, ask: Ask | None = None, closing: threading.Event | None = None
) -> Canaries:
    settings = load(overrides={"data_dir": rig.service.settings.data_dir, "canary_count": 10})
    canaries = open_canaries(settings, now=time.time() - 60)
    assert canaries is not None
    return Canaries(
        canaries,
        store=rig.store,
        history=rig.history,
        hub=rig.hub,
        record=Record(rig.service.audit),
        ask=ask or model.ask,
        closing=closing or threading.Event(),
        base="base",
        checkpoint=MODEL.sha256,
    )


def learn(rig: Rig, session: Session, seed: int) -> tuple[Session, Version]:
    """Add a version of any adapter, as an import does."""
    return rig.history.add(
        session, make_tensors(seed), origin="import", parents=(), rule="", drift=0.0
    )


def key(session: Session, number: int) -> str:
    return f"{session.id}/{number}"


def list_kinds(rig: Rig) -> list[str]:
    lines = [p.read_text() for p in (rig.service.settings.data_dir / "audit").glob("*.jsonl")]
    return [kind for kind in ("canary.passed", "canary.failed") if any(kind in t for t in lines)]


def test_a_version_that_passes_stays_and_is_on_record(rig: Rig) -> None:
    model = Model()
    session, version = learn(rig, rig.service.create_session(owner="ann"), 1)
    canaries = watch(rig, model)
    verdict = canaries.check_next()
    assert verdict is not None
    assert verdict.passed
    assert verdict.counted >= 8
    assert canaries.check_next() is None
    assert rig.store.session(session.id, owner="ann") == session
    assert rig.store.version(session, 1) == version
    assert rig.store.checks.outcome(session, 1) == "passed"
    assert list_kinds(rig) == ["canary.passed"]


def test_a_version_that_fails_goes_back_to_the_last_good_one(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    model = Model()
    canaries = watch(rig, model)
    session, _ = learn(rig, rig.service.create_session(owner="ann"), 1)
    assert canaries.check_next() is not None
    session, _ = learn(rig, session, 2)
    model.bad.add(key(session, 2))
    with caplog.at_level(logging.WARNING):
        verdict = canaries.check_next()
    assert verdict is not None
    assert not verdict.passed
    now = rig.store.session(session.id, owner="ann")
    assert (now.version, now.learning) == (1, "frozen")
    (note,) = rig.store.version(session, 2).notes
    assert note == CanaryFailed(failed=verdict.failed, counted=verdict.counted, back_to=1)
    assert list_kinds(rig) == ["canary.passed", "canary.failed"]
    assert f"version 2 of {session.id} failed" in caplog.text
    with pytest.raises(ConflictError) as caught:
        rig.service.versions.restore(now, "2")
    assert caught.value.code == "canary_failed"
    with pytest.raises(ConflictError, match="failed hidden test questions"):
        rig.service.publications.publish(now, "2", name="ill")
    assert rig.service.versions.restore(now, "1").version == 1
    assert canaries.check_next() is None


def test_who_watches_the_session_is_told(rig: Rig) -> None:
    model = Model()
    canaries = watch(rig, model)
    session, _ = learn(rig, rig.service.create_session(owner="ann"), 1)
    model.bad.add(key(session, 1))

    async def listen() -> list[Event]:
        listener = rig.hub.listen(session.id)
        await asyncio.to_thread(canaries.check_next)
        return [await anext(listener), await anext(listener)]

    version, told = asyncio.run(listen())
    assert isinstance(version.record, Version)
    assert version.record.notes[0].code == "canary_failed"
    assert isinstance(told.record, Session)
    assert (told.record.version, told.record.learning) == (0, "frozen")


def test_versions_that_failed_are_passed_over_on_the_way_back(rig: Rig) -> None:
    model = Model()
    canaries = watch(rig, model)
    session = rig.service.create_session(owner="ann")
    for seed in (1, 2, 3):
        session, _ = learn(rig, session, seed)
    model.bad |= {key(session, 2), key(session, 3)}
    while canaries.check_next() is not None:
        pass
    now = rig.store.session(session.id, owner="ann")
    assert now.version == 1
    assert [rig.store.checks.outcome(session, n) for n in (1, 2, 3)] == [
        "passed",
        "failed",
        "failed",
    ]
    # 3 was in force and first; 2 took its place, and failed too.
    assert model.asked == [None, key(session, 3), key(session, 2), key(session, 1)]
    # One that is not in force when it fails is marked, and nothing else changes.
    session, _ = learn(rig, rig.store.update_session(now, learning="on"), 4)
    session, _ = learn(rig, session, 5)
    model.bad.add(key(session, 4))
    while canaries.check_next() is not None:
        pass
    now = rig.store.session(session.id, owner="ann")
    assert (now.version, now.learning) == (5, "on")
    (note,) = rig.store.version(now, 4).notes
    assert isinstance(note, CanaryFailed)
    assert note.back_to is None


def test_what_was_not_checked_when_the_server_died_is_checked_after(tmp_path: Path) -> None:
    rig = make_rig(tmp_path)
    model = Model(broken=True)
    session, _ = learn(rig, rig.service.create_session(owner="ann"), 1)
    with pytest.raises(EngineError):
        watch(rig, model).check_next()
    assert rig.store.checks.outcome(session, 1) is None
    rig.service.close()
    rig = make_rig(tmp_path)
    model = Model(bad={key(session, 1)})
    canaries = watch(rig, model)
    canaries.start()
    end_s = time.monotonic() + 20
    while rig.store.session(session.id, owner="ann").version == 1:
        assert time.monotonic() < end_s
        time.sleep(0.01)
    canaries.close()
    assert model.asked == [key(session, 1)], "the base's own answers were kept"
    rig.service.close()


def test_imports_merges_adoptions_and_branches_are_checked(rig: Rig) -> None:
    from fluvial.service.merging import Part

    model = Model()
    canaries = watch(rig, model)
    session, _ = learn(rig, rig.service.create_session(owner="ann"), 1)
    rig.service.publications.publish(session, "1", name="rivers")
    merged = rig.service.merging.merge(
        session, [Part(version="1"), Part(published="rivers", weight=0.5)]
    )
    adopted = rig.service.publications.adopt(session, "rivers")
    branch = rig.service.versions.branch(session, "1")
    while canaries.check_next() is not None:
        pass
    assert merged.version.number == 2
    assert adopted.number == 3
    assert set(model.asked) == {
        None,
        *(key(session, n) for n in (1, 2, 3)),
        key(branch, branch.version),
    }


def test_two_sessions_at_once_each_have_their_own_verdict(rig: Rig) -> None:
    model = Model()
    canaries = watch(rig, model)
    canaries.start()
    sessions = [rig.service.create_session(owner=owner) for owner in ("ann", "bob")]
    model.bad.add(key(sessions[1], 1))
    for number, session in enumerate(sessions):
        rig.service.versions.put(session, lambda now, seed=number: learn(rig, now, seed))
    end_s = time.monotonic() + 20
    while any(rig.store.checks.outcome(session, 1) is None for session in sessions):
        assert time.monotonic() < end_s
        time.sleep(0.01)
    canaries.close()
    ann, bob = (
        rig.store.session(s.id, owner=o) for s, o in zip(sessions, ("ann", "bob"), strict=True)
    )
    assert (ann.version, ann.learning) == (1, "on")
    assert (bob.version, bob.learning) == (0, "frozen")


def test_a_version_deleted_meanwhile_and_a_damaged_one_stop_nothing(rig: Rig) -> None:
    model = Model()
    canaries = watch(rig, model)
    damaged, _ = learn(rig, rig.service.create_session(owner="ann"), 1)
    rig.store.version_path(damaged, 1).write_bytes(b"no tensors")
    rig.history.release(damaged, [1])
    good, _ = learn(rig, rig.service.create_session(owner="ann"), 2)
    assert canaries.check_next() is not None
    assert rig.store.checks.outcome(good, 1) == "passed"
    assert rig.store.checks.outcome(damaged, 1) is None
    deleted, version = learn(rig, rig.service.create_session(owner="ann"), 3)
    rig.store.delete_session(deleted)
    rig.store.checks.note_passed(deleted, version, canaries="c")
    assert rig.store.checks.outcome(deleted, 1) is None


def test_a_version_whose_answers_fail_holds_no_other_up(rig: Rig) -> None:
    model = Model()

    def ask(canaries: Sequence[Canary], adapter: Adapter | None) -> list[str]:
        if adapter is not None and adapter.key in model.bad:
            raise EngineError("an answer to a canary failed")
        return [answer(each) for each in canaries]

    canaries = watch(rig, model, ask=ask)
    ill, _ = learn(rig, rig.service.create_session(owner="eve"), 1)
    well, _ = learn(rig, rig.service.create_session(owner="ann"), 2)
    model.bad.add(key(ill, 1))
    verdict = canaries.check_next()
    assert verdict is not None
    assert verdict.passed
    assert rig.store.checks.outcome(well, 1) == "passed"
    with pytest.raises(EngineError):
        canaries.check_next()
    assert rig.store.checks.outcome(ill, 1) is None


def test_where_the_base_passes_none_no_version_has_passed(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    canaries = watch(rig, Model(), ask=lambda canaries, adapter: ["" for _ in canaries])
    session, _ = learn(rig, rig.service.create_session(owner="ann"), 1)
    for _ in range(2):
        assert canaries.check_next() is None
    assert rig.store.checks.outcome(session, 1) is None
    assert list_kinds(rig) == []
    assert caplog.text.count("no version can be checked") == 1


def test_canaries_are_in_no_answer_log_event_or_export(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    from fluvial.server.view import view_session
    from fluvial.server.view_version import view_version

    caplog.set_level(logging.DEBUG)
    model = Model()
    canaries = watch(rig, model)
    session, _ = learn(rig, rig.service.create_session(owner="ann"), 1)
    model.bad.add(key(session, 1))
    canaries.check_next()
    now = rig.store.session(session.id, owner="ann")
    audit = "".join(
        path.read_text() for path in (rig.service.settings.data_dir / "audit").glob("*.jsonl")
    )
    told = [
        caplog.text,
        audit,
        str(view_session(rig.service.session_state(now))),
        str([view_version(each) for each in rig.store.versions(now)]),
        rig.history.read(now, rig.store.version(now, 1)).decode("latin-1"),
        str(rig.service.messages(now)),
    ]
    assert len(model.prompts) > 5
    assert not [prompt for prompt in model.prompts for text in told if prompt in text]


def test_off_means_no_folder_and_nothing_barred(tmp_path: Path) -> None:
    settings = load(overrides={"data_dir": tmp_path, "canaries": "off"})
    assert open_canaries(settings, now=0.0) is None
    assert not list(tmp_path.iterdir())


def test_an_operators_file_that_is_wrong_stops_the_start(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text("[[canary]]\nprompt = 'a'\n")
    settings = load(overrides={"data_dir": tmp_path, "canary_file": file})
    with pytest.raises(InputError, match="canary 1"):
        open_canaries(settings, now=0.0)


# Asking


class Answered:
    """An answer of the engine below."""

    def __init__(self, engine: "Busy", text: str) -> None:
        self.engine, self.text = engine, text
        self.looks = 0
        self.finish = ""

    @property
    def ended(self) -> bool:
        self.looks += 1
        if not self.finish and self.looks > self.engine.looks_needed:
            self.finish = "stop"
        return bool(self.finish)

    def cancel(self) -> None:
        self.finish = self.finish or "cancelled"
        self.engine.cancelled += self.finish == "cancelled"

    def __iter__(self) -> Iterator[Delta]:
        text = self.text if self.finish == "stop" else ""
        yield Delta(text=text, finish=self.finish)  # type: ignore[arg-type]


class Busy:
    """An engine that counts: `others` is how many answers run that are not ours."""

    def __init__(self) -> None:
        self.others: Callable[[], int] = lambda: 0
        self.answers: list[Answered] = []
        self.looks_needed = 1
        self.cancelled = 0
        self.refuse = 0
        self.most = 0
        self.lanes: set[tuple[str, str | None]] = set()
        self.forgotten: list[str] = []

    @property
    def running(self) -> int:
        return self.others() + sum(not each.finish for each in self.answers)

    @property
    def waiting(self) -> int:
        return 0

    def generate(
        self,
        messages: Sequence[Message],
        *,
        sampling: Sampling,
        lane: str,
        adapter: Callable[[], Adapter | None],
        owner: str | None,
    ) -> Answered:
        if self.refuse:
            self.refuse -= 1
            raise BusyError("full")
        assert sampling.temperature == 0
        assert sampling.max_tokens is not None
        self.lanes.add((lane, owner))
        self.answers.append(Answered(self, f"re: {messages[-1].content}"))
        self.most = max(self.most, self.running - self.others())
        return self.answers[-1]

    def forget(self, lane: str) -> None:
        self.forgotten.append(lane)


CANARIES = [
    Canary(kind="policy", prompt=str(n), criteria={"has": ["re"]}, system="s" * (n % 2))
    for n in range(9)
]
EXPECTED = [f"re: {n}" for n in range(9)]


def test_all_are_asked_one_by_one_and_in_their_own_lane() -> None:
    engine = Busy()
    asker = Asker(engine, closing=threading.Event())
    assert asker.ask(CANARIES, None) == EXPECTED
    assert engine.most == 1
    assert engine.lanes == {(LANE, LANE)}
    assert engine.forgotten == [LANE]
    assert engine.cancelled == 0


def test_they_give_way_and_come_back() -> None:
    engine = Busy()
    engine.looks_needed = 3
    looks = iter([0] * 6 + [1] * 10 + [0] * 10 + [1] * 3)
    engine.others = lambda: next(looks, 0)
    assert Asker(engine, closing=threading.Event()).ask(CANARIES, None) == EXPECTED
    assert engine.cancelled > 0


def test_a_full_queue_is_waited_for() -> None:
    engine = Busy()
    engine.refuse = 3
    assert Asker(engine, closing=threading.Event()).ask(CANARIES, None) == EXPECTED


def test_after_a_while_they_go_on_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fluvial.service.canary_asking.PATIENCE_S", 0.1)
    engine = Busy()
    engine.others = lambda: 1
    assert Asker(engine, closing=threading.Event()).ask(CANARIES, None) == EXPECTED
    assert engine.most == 1


def test_a_server_that_ends_is_not_held_up() -> None:
    engine, closing = Busy(), threading.Event()
    engine.others = lambda: 1
    closing.set()
    with pytest.raises(ClosingError):
        Asker(engine, closing=closing).ask(CANARIES, None)
    assert engine.forgotten == [LANE]


def test_a_real_engine_answers_as_the_base_until_weights_differ(
    tiny_model: Path, tmp_path: Path
) -> None:
    settings = load(overrides={"data_dir": tmp_path, "threads": 1, "context_tokens": 512})
    checkpoint = open_checkpoint(tiny_model)
    engine: Engine
    with open_engine(checkpoint, name="tiny", settings=settings) as engine:
        ask = Asker(engine, closing=threading.Event()).ask
        prompts = [f"{letter} " * 8 for letter in "abcdefgh"]
        asked = [Canary(kind="policy", prompt=p, criteria={"has": ["a"]}) for p in prompts]
        said = ask(asked, None)
        own = [
            Canary(kind="policy", prompt=p, criteria={"matches": f".{{{len(s.strip())}}}"})
            for p, s in zip(prompts, said, strict=True)
            if s.strip()
        ]
        assert own, "a tiny model says something"
        tensors = create_tensors(checkpoint.declaration, rank=2, seed=1)
        assert ask(asked, Adapter("zero", tensors)) == said
        rng = np.random.default_rng(1)
        changed = {
            name: rng.normal(size=array.shape).astype(np.float32) if name.endswith(".b") else array
            for name, array in tensors.items()
        }
        assert ask(asked, Adapter("other", changed)) != said
        long = Canary(kind="policy", prompt="a long one " * 600, criteria={"has": ["a"]})
        assert ask([long], None) == [""]
        engine.check()


def test_a_rotated_set_is_asked_of_what_comes_after(rig: Rig, tmp_path: Path) -> None:
    model = Model()
    canaries = CanarySet(
        tmp_path / "own", count=8, rotation=Rotation(runs=1, days=0), now=time.time() - 1
    )
    watcher = Canaries(
        canaries,
        store=rig.store,
        history=rig.history,
        hub=rig.hub,
        record=Record(rig.service.audit),
        ask=model.ask,
        closing=threading.Event(),
        base="base",
        checkpoint=MODEL.sha256,
    )
    session = rig.service.create_session(owner="ann")
    seen: list[set[str]] = []
    for seed in (1, 2, 3):
        session, _ = learn(rig, session, seed)
        model.prompts.clear()
        assert watcher.check_next() is not None
        seen.append(set(model.prompts))
    assert canaries.turn == 3
    assert seen[0] != seen[1] != seen[2]


def test_the_way_back_survives_other_owners_and_a_store_without_learning(tmp_path: Path) -> None:
    store = Store.open(tmp_path, learning=False)
    try:
        session = store.create_session(
            owner="ann", title="", model="m", checkpoint="c", learning="on"
        )
        assert store.checks.find_waiting(checkpoint="c", since=0.0) == []
        assert store.checks.outcome(session, 1) is None
    finally:
        store.close()
