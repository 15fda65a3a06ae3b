"""The thread that asks canaries of every version, and goes back from one that fails.

What is in force somewhere and was not checked comes first, then what was made meanwhile; the store
knows what waits, so that a crash forgets nothing. A version in force that fails is replaced in one
transaction by the one before, and learning in its session is frozen: the same text would teach the
same again, and what it taught would answer until the next check. Reading goes on without learning.
Who owns the session can let it learn again.
"""

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from fluvial.adapt.history import History
from fluvial.config import Settings
from fluvial.errors import FluvialError, NotFoundError
from fluvial.gate.canary import Canary, Verdict, judge
from fluvial.gate.canary_file import read_canaries
from fluvial.gate.canary_set import FOLDER, CanarySet, Rotation
from fluvial.model.adapter import Adapter
from fluvial.service.canary_asking import ClosingError
from fluvial.service.hub import Hub
from fluvial.service.record import Record, Value
from fluvial.store import Store
from fluvial.types import Session, Version

LOOK_S = 10.0
"""How often the store is asked what waits when nothing was told."""

PAUSE_S = 5.0

log = logging.getLogger(__name__)


class Ask(Protocol):
    """Has canaries answered by a version, None: the base. See `canary_asking.Asker`."""

    def __call__(self, canaries: Sequence[Canary], adapter: Adapter | None) -> Sequence[str]: ...


def open_canaries(settings: Settings, *, now: float) -> CanarySet | None:
    """Open the canaries of a data folder; None where they are off.

    Raises InputError for an operator's file that is not right, StorageError.
    """
    if settings.canaries == "off":
        return None
    file = settings.canary_file
    rotation = Rotation(runs=settings.canary_rotation_checks, days=settings.canary_rotation_days)
    return CanarySet(
        Path(settings.data_dir) / FOLDER,
        count=settings.canary_count,
        rotation=rotation,
        operator=() if file is None else read_canaries(file),
        now=now,
    )


class Canaries:
    """Checks versions until it is closed; close it before the engine. Also when it never began."""

    def __init__(
        self,
        canaries: CanarySet,
        *,
        store: Store,
        history: History,
        hub: Hub,
        record: Record,
        ask: Ask,
        closing: threading.Event,
        base: str,
        checkpoint: str,
    ) -> None:
        """Check versions of `checkpoint`; `base` names it and all else that decides its answers.

        `ask` raises ClosingError once `closing` is set.
        """
        self._set = canaries
        self._store, self._history = store, history
        self._hub, self._record = hub, record
        self._ask, self._closing = ask, closing
        self._base, self._checkpoint = base, checkpoint
        self._unreadable: set[tuple[str, int]] = set()
        self._told_none = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="canaries", daemon=True)
        hub.watch(self._wake.set)

    def start(self) -> None:
        """Begin to check."""
        self._thread.start()

    def close(self) -> None:
        """Stop; a check under way is given up, and made after the next start."""
        self._closing.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def check_next(self) -> Verdict | None:
        """Check the version that is next, and do what follows; None where none can be checked.

        One that can't be checked now waits on, and holds no other up. Raises FluvialError where
        that is so of all that wait.
        """
        trouble: FluvialError | None = None
        for session, version in self._store.checks.find_waiting(
            checkpoint=self._checkpoint, since=self._set.begun_at
        ):
            if (session.id, version.number) in self._unreadable:
                continue
            try:
                verdict = self._check(session, version)
            except FluvialError as error:
                trouble = error
                continue
            if verdict is not None:
                return verdict
        if trouble is not None:
            raise trouble
        return None

    def _check(self, session: Session, version: Version) -> Verdict | None:
        begun_s = time.monotonic()
        try:
            adapter = self._history.load(session, version.number)
        except NotFoundError:
            return None  # it was deleted
        except FluvialError as error:
            self._unreadable.add((session.id, version.number))
            log.warning("version %s/%d: %s", session.id, version.number, error)
            return None
        asked = self._set.choose(lambda canaries: self._ask(canaries, None), base=self._base)
        verdict = judge(asked, self._ask(asked, adapter) if asked else [])
        if not verdict.can_fail:
            self._tell_none()
            return None  # it waits for canaries that the base passes; to pass none is no pass
        detail: dict[str, Value] = {
            "version": version.number,
            "id": version.id,
            "counted": verdict.counted,
            "failed": verdict.failed,
            "turn": self._set.turn,
            "canaries": self._set.draw_sha256,
            "seconds": round(time.monotonic() - begun_s, 2),
        }
        if verdict.passed:
            self._store.checks.note_passed(session, version, canaries=self._set.draw_sha256)
            self._record.note_own("canary.passed", session.id, **detail)
        else:
            self._go_back(session, version, verdict, detail)
        self._set.note_run(now=time.time())
        return verdict

    def _go_back(
        self,
        session: Session,
        version: Version,
        verdict: Verdict,
        detail: dict[str, Value],
    ) -> None:
        now, failed = self._store.checks.note_failed(
            session,
            version,
            counted=verdict.counted,
            failed=verdict.failed,
            canaries=self._set.draw_sha256,
        )
        self._record.note_own("canary.failed", session.id, **detail, in_force=now.version)
        log.warning(
            "version %d of %s failed %d of %d canaries; version %s is in force",
            version.number,
            session.id,
            verdict.failed,
            verdict.counted,
            now.version,
        )
        now = self._store.session(now.id, owner=now.owner)
        self._hub.publish("version", now, failed)
        self._hub.publish("session", now, now)

    def _tell_none(self) -> None:
        """Say once that nothing is checked where the base passes too few of its canaries."""
        if not self._told_none:
            self._told_none = True
            log.warning("the base passes too few of its canaries: no version can be checked")

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.clear()
            try:
                while not self._closing.is_set() and self.check_next() is not None:
                    pass
                self._wake.wait(LOOK_S)
            except ClosingError:
                return
            except FluvialError as error:
                log.warning("a version could not be checked now: %s", error)
                self._closing.wait(PAUSE_S)
            except Exception:  # a defect must not end the thread that everyone's safety needs
                log.exception("a version could not be checked")
                self._closing.wait(PAUSE_S)
