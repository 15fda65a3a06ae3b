"""An adapter serves its owner's sessions only, unless it was published and adopted or merged.

Hypothesis does things with versions in any order, for two owners. A model in plain Python knows
which tensors each version must have, and whose reading is in them.
"""

import atexit
import shutil
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)

from fluvial.errors import ConflictError, FluvialError, NotFoundError
from fluvial.model.adapter import Tensors
from fluvial.model.merge import compress
from fluvial.service.merging import Part, add_up
from fluvial.store import Store
from fluvial.testing import make_rig, make_tensors

OWNERS = ("ann", "bob")
NAMES = st.sampled_from(["a", "b"])
NUMBERS = st.integers(0, 4)


@cache
def _make_empty() -> Path:
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    Store.open(folder / "data").close()
    return folder / "data"


@dataclass(frozen=True)
class Content:
    """What a version must hold, and the owners whose reading is in it."""

    tensors: Tensors
    owners: frozenset[str]


@dataclass
class Model:
    """What one session should have."""

    owner: str
    versions: dict[int, Content] = field(default_factory=dict)
    current: int = 0
    count: int = 0

    def put(self, content: Content) -> int:
        self.count += 1
        self.versions[self.count] = content
        self.current = self.count
        return self.count


class OwnerMachine(RuleBasedStateMachine):
    """Each rule does the same to the service and to the model."""

    sessions = Bundle("sessions")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        shutil.copytree(_make_empty(), self.folder / "data")
        self.rig = make_rig(self.folder / "data")
        self.models: dict[str, Model] = {}
        self.published: dict[str, tuple[str, Content]] = {}
        self.seed = 0
        # What an owner may see: its own reading, and what others have published to it.
        self.open_to: dict[str, set[str]] = {owner: {owner} for owner in OWNERS}

    @initialize(target=sessions)
    def begin(self) -> MultipleResults[str]:
        return multiple(*(self._create(owner) for owner in ("ann", "bob", "bob")))

    def teardown(self) -> None:
        self.rig.service.close()
        shutil.rmtree(self.folder)

    @rule(id=sessions)
    def learn(self, id: str) -> None:
        """Save what only this session's owner has read."""
        self.seed += 1
        tensors = make_tensors(self.seed)
        model, store = self.models[id], self.rig.store
        session = self._session(id)
        reading = store.create_reading(session, kind="document", name="n", text="t")
        _, version = self.rig.history.save(
            session,
            tensors,
            reading=reading,
            tokens_read=1,
            status="done",
            tokens_learned=1,
            updates=1,
            drift=0.0,
        )
        before = model.versions.get(model.current)
        owners = {model.owner} | (before.owners if before else set())
        assert version.number == model.put(Content(tensors, frozenset(owners)))

    @rule(id=sessions, number=NUMBERS)
    def restore(self, id: str, number: int) -> None:
        model = self.models[id]
        if number and number not in model.versions:
            with pytest.raises(NotFoundError):
                self.rig.service.versions.restore(self._session(id), str(number))
            return
        self.rig.service.versions.restore(self._session(id), str(number))
        model.current = number

    @rule(id=sessions, number=NUMBERS)
    def delete(self, id: str, number: int) -> None:
        model = self.models[id]
        if number not in model.versions or number == model.current:
            with pytest.raises((NotFoundError, ConflictError)):
                self.rig.service.versions.delete(self._session(id), str(number))
            return
        self.rig.service.versions.delete(self._session(id), str(number))
        del model.versions[number]

    @rule(target=sessions, id=sessions, number=NUMBERS)
    def branch(self, id: str, number: int) -> str | MultipleResults[str]:
        model = self.models[id]
        if number and number not in model.versions:
            with pytest.raises(NotFoundError):
                self.rig.service.versions.branch(self._session(id), str(number))
            return multiple()
        made = self.rig.service.versions.branch(self._session(id), str(number))
        self.models[made.id] = Model(model.owner)
        if number:
            self.models[made.id].put(model.versions[number])
        return made.id

    @rule(id=sessions, number=NUMBERS, name=NAMES)
    def publish(self, id: str, number: int, name: str) -> None:
        model = self.models[id]
        if number not in model.versions or name in self.published:
            with pytest.raises((NotFoundError, ConflictError)):
                self.rig.service.publications.publish(self._session(id), str(number), name=name)
            return
        self.rig.service.publications.publish(self._session(id), str(number), name=name)
        self.published[name] = (model.owner, model.versions[number])

    @rule(owner=st.sampled_from(OWNERS), name=NAMES)
    def withdraw(self, owner: str, name: str) -> None:
        if self.published.get(name, ("",))[0] != owner:
            with pytest.raises(FluvialError):
                self.rig.service.publications.withdraw(name, owner=owner)
            return
        self.rig.service.publications.withdraw(name, owner=owner)
        del self.published[name]

    @rule(id=sessions, name=NAMES)
    def adopt(self, id: str, name: str) -> None:
        if name not in self.published:
            with pytest.raises(NotFoundError):
                self.rig.service.publications.adopt(self._session(id), name)
            return
        version = self.rig.service.publications.adopt(self._session(id), name)
        model, content = self.models[id], self.published[name][1]
        self.open_to[model.owner] |= content.owners
        assert version.number == model.put(content)

    @rule(id=sessions, other=sessions, numbers=st.tuples(NUMBERS, NUMBERS))
    def merge(self, id: str, other: str, numbers: tuple[int, int]) -> None:
        """Merge a version of this session with one of another, which may be another owner's."""
        model, source = self.models[id], self.models[other]
        first, second = model.versions.get(numbers[0]), source.versions.get(numbers[1])
        parts = [Part(version=str(numbers[0])), Part(version=str(numbers[1]), session=other)]
        if first is None or second is None or source.owner != model.owner:
            with pytest.raises(FluvialError):
                self.rig.service.merging.merge(self._session(id), parts)
            return
        version = self.rig.service.merging.merge(self._session(id), parts).version
        whole = add_up([(first.tensors, 1.0), (second.tensors, 1.0)])
        ranks = [each.tensors["layers.0.o.a"].shape[1] for each in (first, second)]
        expected = compress(whole, max(ranks)).tensors
        content = Content(expected, first.owners | second.owners)
        assert version.number == model.put(content)

    @rule(id=sessions, name=NAMES, number=NUMBERS)
    def merge_published(self, id: str, name: str, number: int) -> None:
        model, mine = self.models[id], self.models[id].versions.get(number)
        parts = [Part(version=str(number)), Part(published=name, weight=0.5)]
        if mine is None or name not in self.published:
            with pytest.raises(FluvialError):
                self.rig.service.merging.merge(self._session(id), parts, rank=2)
            return
        version = self.rig.service.merging.merge(self._session(id), parts, rank=2).version
        given = self.published[name][1]
        whole = add_up([(mine.tensors, 1.0), (given.tensors, 0.5)])
        self.open_to[model.owner] |= given.owners
        content = Content(compress(whole, 2).tensors, mine.owners | given.owners)
        assert version.number == model.put(content)

    @rule(id=sessions, other=sessions)
    def name_by_id(self, id: str, other: str) -> None:
        """An id of another session's version names nothing here, unless this one has it too."""
        theirs = self.rig.store.versions(self._session(other))
        mine = [version.id for version in self.rig.store.versions(self._session(id))]
        for version in theirs:
            if version.id not in mine:
                with pytest.raises(NotFoundError):
                    self.rig.service.versions.resolve(self._session(id), version.id)

    @rule(id=sessions)
    def ask_for_a_session_of_another_owner(self, id: str) -> None:
        other = OWNERS[OWNERS.index(self.models[id].owner) - 1]
        with pytest.raises(NotFoundError):
            self.rig.service.session(id, owner=other)

    @invariant()
    def each_session_has_exactly_its_own(self) -> None:
        for id, model in self.models.items():
            session = self._session(id)
            assert session.version == model.current
            assert [v.number for v in self.rig.store.versions(session)] == [*model.versions]
            adapter = self.rig.history.adapter(session)
            assert (adapter is None) == (model.current == 0)
            if adapter is not None:
                assert adapter.key == f"{id}/{model.current}"
                np.testing.assert_equal(
                    dict(adapter.tensors), dict(model.versions[model.current].tensors)
                )

    @invariant()
    def nothing_of_another_owner_that_was_not_published(self) -> None:
        for model in self.models.values():
            for content in model.versions.values():
                assert content.owners <= self.open_to[model.owner]

    def _create(self, owner: str) -> str:
        session = self.rig.service.create_session(owner=owner)
        self.models[session.id] = Model(owner)
        return session.id

    def _session(self, id: str):
        return self.rig.service.session(id, owner=self.models[id].owner)


TestOwner = OwnerMachine.TestCase
TestOwner.settings = settings(
    max_examples=20,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
