"""The attempts of every lineage, on record: one line of JSON each, only ever added to.

    {"event": "planned", "at", "lineage", "attempt", "plan_sha256", "previous"}
    {"event": "started", ... the same ..., "subjects_sha256"}
    {"event": "ended", ... the same ..., "results_sha256"}

`previous` is the sha256 of the line before, 64 zeros at first: a line that was changed or taken out
in the middle is noticed, lines cut off at the end are not. A plan is on record from when it was
written, so one that changed since can't be run. Its attempt must be the next of its lineage; plans
that were never run do not count. A plan may be run again, after a crash or to check it, and that is
the same attempt; but only on what it was first run on, or a model could be changed until it passes,
with trials that never end. Once it has ended, other results are refused.
"""

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from filelock import FileLock

from fluvial.errors import ConflictError, InputError
from fluvial.gate import plan as plans
from fluvial.gate import result
from fluvial.gate.digest import hash_json, make_canonical
from fluvial.gate.document import STRICT, Label, Moment, Positive, Sha256, build, dump, read_bytes
from fluvial.gate.plan import Plan
from fluvial.gate.result import Results
from fluvial.store.fault import translate_os

if TYPE_CHECKING:
    from fluvial.config import Settings

MAX_LEDGER_BYTES = 2**24
_FIRST = "0" * 64

Event = Literal["planned", "started", "ended"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line. `subjects_sha256` stands where the attempt started: what was then served.

    `results_sha256` (`result.digest`) stands where it ended.
    """

    __pydantic_config__ = STRICT

    event: Event
    at: Moment
    lineage: Label
    attempt: Positive
    plan_sha256: Sha256
    previous: Sha256
    results_sha256: Sha256 | None = None
    subjects_sha256: Sha256 | None = None


def find_ledger(data_dir: Path) -> Path:
    """Return where the ledger of a data folder is."""
    return data_dir / "gate" / "attempts.jsonl"


def open_ledger(settings: "Settings") -> "Ledger":
    """Return the ledger of the settings' data folder, which its audit log is told of."""
    from fluvial.store.audit import AuditLog

    audit = AuditLog.open(settings.data_dir, limit_bytes=settings.audit_bytes)
    return Ledger(find_ledger(settings.data_dir), audit=audit)


class Audit(Protocol):
    """Where attempts are put on record beside the ledger, such as `fluvial.store.audit`."""

    def append(
        self,
        kind: str,
        *,
        actor: str,
        subject: str,
        detail: Mapping[str, str | int | float | bool | None],
    ) -> None:
        """Put an entry on record. Raises StorageError."""
        ...


class Ledger:
    """The ledger in a file, which need not exist yet. Safe to use from several processes.

    With an `audit`, every line is told there too.
    """

    def __init__(self, path: Path, *, audit: Audit | None = None) -> None:
        self.path = path
        self._audit = audit

    def list_entries(self) -> list[Entry]:
        """Return all lines. Raises InputError where the chain is broken, TooLargeError."""
        return [entry for entry, _ in self._read()]

    def next_attempt(self, lineage: str) -> int:
        """Return the number that the next plan of a lineage must have."""
        ours = [each for each in self.list_entries() if each.lineage == lineage]
        return 1 + max((each.attempt for each in ours if each.event != "planned"), default=0)

    def enter(self, plan: Plan) -> None:
        """Put a plan on record, as it was written. Raises ConflictError as `start` does."""
        with self._lock():
            self._check_attempt(plan)
            self._append(plan, event="planned")

    def require(self, plan: Plan) -> None:
        """Check that a plan may be run.

        Raises ConflictError when it is not on record as it is, or its attempt is not the next of
        its lineage.
        """
        digest = plans.digest(plan)
        if self._find("started", digest):
            return
        if not self._find("planned", digest):
            raise ConflictError(_tell_unknown(plan, self.list_entries()), code="plan_changed")
        self._check_attempt(plan)

    def start(self, plan: Plan, *, subjects: Mapping[str, str]) -> None:
        """Put on record that a plan is run on these. Call it before the first sample.

        Raises ConflictError as `require` does, and `other_subjects` when it was run on others.
        """
        with self._lock():
            self.require(plan)
            started = self._find("started", plans.digest(plan))
            if started:
                _check_subjects(started[0], subjects)
            else:
                digest = hash_json(dict(subjects))
                self._append(plan, event="started", subjects_sha256=digest)

    def end(self, results: Results) -> None:
        """Put the digest of a run's results on record.

        Raises ConflictError when they are not of the plan they hold, when it was never started, or
        on other subjects, or ended before with other results.
        """
        result.check_plan(results)
        with self._lock():
            started = self._find("started", results.plan_sha256)
            if not started:
                raise ConflictError("no run of this plan is on record", code="not_on_record")
            _check_subjects(started[0], results.subjects)
            if not self._find("ended", results.plan_sha256):
                seen = result.digest(results)
                verdicts = Counter(risk.verdict for risk in results.risks)
                self._append(results.plan, event="ended", results_sha256=seen, verdicts=verdicts)
            self.check(results)

    def check(self, results: Results) -> None:
        """Raise ConflictError unless these are the results that are on record for their plan."""
        result.check_plan(results)
        ended = self._find("ended", results.plan_sha256)
        if not ended:
            raise ConflictError(
                f"no finished run of this plan is on record in {self.path}", code="not_on_record"
            )
        if ended[0].results_sha256 != result.digest(results):
            raise ConflictError(
                f"attempt {ended[0].attempt} of {ended[0].lineage!r} ended with other results; "
                "what comes of testing again counts only as a new attempt, with a new plan",
                code="other_results",
            )

    def _check_attempt(self, plan: Plan) -> None:
        due = self.next_attempt(plan.lineage)
        if plan.attempt != due:
            raise ConflictError(
                f"the plan is attempt {plan.attempt} of {plan.lineage!r}, and {due} is next; write "
                "a new plan",
                code="wrong_attempt",
                param="attempt",
            )

    def _find(self, event: Event, plan_sha256: str) -> list[Entry]:
        return [
            each
            for each in self.list_entries()
            if each.event == event and each.plan_sha256 == plan_sha256
        ]

    def _read(self) -> list[tuple[Entry, str]]:
        """Return each entry with the sha256 of its line."""
        if not self.path.exists():
            return []
        data = read_bytes(self.path, limit_bytes=MAX_LEDGER_BYTES)
        if data and not data.endswith(b"\n"):
            raise InputError(f"{self.path.name}: its last line is cut off")
        found: list[tuple[Entry, str]] = []
        before = _FIRST
        for number, line in enumerate(data.splitlines(), start=1):
            entry = build(Entry, _parse(line), name=f"{self.path.name}: line {number}")
            if entry.previous != before:
                raise InputError(f"{self.path.name}: line {number} does not follow the one before")
            before = hashlib.sha256(line).hexdigest()
            found.append((entry, before))
        return found

    def _append(
        self,
        plan: Plan,
        *,
        event: Event,
        results_sha256: str | None = None,
        subjects_sha256: str | None = None,
        verdicts: Mapping[str, int] | None = None,
    ) -> None:
        lines = self._read()
        entry = Entry(
            event=event,
            at=time.time(),
            lineage=plan.lineage,
            attempt=plan.attempt,
            plan_sha256=plans.digest(plan),
            previous=lines[-1][1] if lines else _FIRST,
            results_sha256=results_sha256,
            subjects_sha256=subjects_sha256,
        )
        with translate_os(f"writing {self.path}"), self.path.open("ab") as file:
            file.write(make_canonical(dump(Entry, entry)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if self._audit is not None:
            detail = {"lineage": entry.lineage, "attempt": entry.attempt, **(verdicts or {})}
            if results_sha256 is not None:
                detail["results_sha256"] = results_sha256
            self._audit.append(
                f"gate.{event}", actor="local", subject=entry.plan_sha256, detail=detail
            )

    @contextmanager
    def _lock(self) -> Generator[None]:
        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))
        with translate_os(f"locking {self.path}"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def _check_subjects(started: Entry, subjects: Mapping[str, str]) -> None:
    """Raise ConflictError unless an attempt was begun on these."""
    if started.subjects_sha256 != hash_json(dict(subjects)):
        raise ConflictError(
            f"attempt {started.attempt} of {started.lineage!r} was begun on something else than is "
            "served now; what was changed since is a new attempt: write a new plan",
            code="other_subjects",
        )


def _tell_unknown(plan: Plan, entries: Sequence[Entry]) -> str:
    """Say why a plan that is not on record can't be run."""
    alike = [e for e in entries if (e.lineage, e.attempt) == (plan.lineage, plan.attempt)]
    if not alike:
        return "the plan is not on record; `fluvial gate plan` writes plans and records them"
    return (
        f"the plan changed after it was written: it was {alike[-1].plan_sha256[:12]} and is "
        f"{plans.digest(plan)[:12]}. Write a new plan"
    )


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
