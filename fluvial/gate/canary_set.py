"""The canaries of one data folder: drawn from a secret seed, kept private, a share redrawn in turn.

    data_dir/canaries/set.json      the seed, and how far the rotation is; for the owner alone
    data_dir/canaries/base.json     which canaries which base passes, by their digests

`sha256` names what is drawn from, and the rules: the forms, the operator's own canaries, how many,
how they rotate, what a version may fail. A release states it, for every server that has the same.
Each folder draws for itself, from its own secret seed; `draw_sha256` names what was drawn.
"""

import hashlib
import json
import random
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluvial.errors import InputError, StorageError
from fluvial.gate.canary import (
    ALPHA,
    ANSWER_TOKENS,
    KINDS,
    TOLERATED,
    Ask,
    Canary,
    share_out,
)
from fluvial.gate.canary_pool import draw, invent_topic, load_pool
from fluvial.gate.digest import hash_json
from fluvial.gate.document import read_bytes
from fluvial.store.file import write_atomically

FOLDER = "canaries"
SHARES = 4
"""At each turn of the rotation one in so many canaries is drawn anew."""

ATTEMPTS = 6
"""Draws for one place until the base passes; after that the place stays empty."""

MAX_FILE_BYTES = 2**20
DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """A share is redrawn after so many checks, or so many days; 0 is never."""

    runs: int = 500
    days: float = 7.0


@dataclass(kw_only=True)
class _State:
    seed: str
    turn: int
    runs: int
    turned_at: float
    begun_at: float


class CanarySet:
    """One folder's canaries. Thread-safe; no method of it tells what a canary says."""

    def __init__(
        self,
        folder: Path,
        *,
        count: int,
        rotation: Rotation,
        operator: Sequence[Canary] = (),
        now: float,
    ) -> None:
        """Open the set in `folder`, begun with a new seed where there is none.

        Raises StorageError `canaries_damaged` for a file that is not what was written.
        """
        self._folder, self._count = folder, count
        self._rotation, self._operator = rotation, tuple(operator)
        self._lock = threading.Lock()
        self._path = folder / "set.json"
        self._state = self._open(now)

    @property
    def sha256(self) -> str:
        """What a release states: a digest of what is drawn from, and by which rules."""
        pool = hash_json(load_pool())
        own = [canary.sha256 for canary in self._operator]
        drawing = [self._count, self._rotation.runs, self._rotation.days]
        judging = [ANSWER_TOKENS, TOLERATED, ALPHA]
        return hash_json(["canaries", pool, own, drawing, judging])

    @property
    def draw_sha256(self) -> str:
        """What is on record of each check: it names the draw, and tells nothing of it."""
        with self._lock:
            return hash_json(["draw", self._state.seed, self._state.turn, self.sha256])

    @property
    def turn(self) -> int:
        """How often a share was redrawn so far."""
        return self._state.turn

    @property
    def begun_at(self) -> float:
        """When the set was first drawn, in seconds since the epoch."""
        return self._state.begun_at

    def choose(self, ask: Ask, *, base: str) -> list[Canary]:
        """Return the canaries that count now: those that the base passes.

        `ask` has them answered by the base, which is called `base`; only what was never asked of it
        is. Raises what `ask` does, and StorageError.
        """
        with self._lock:
            turn = self._state.turn
        results = self._load_results(base)
        chosen: dict[str, Canary] = {}
        places: list[tuple[int, int]] = [(place, 0) for place in range(self._count)]
        self._keep(self._operator, chosen, ask=ask, results=results, base=base)
        while places:
            drawn = [self._draw(place, turn=turn, attempt=attempt) for place, attempt in places]
            self._keep(drawn, chosen, ask=ask, results=results, base=base)
            places = [
                (place, attempt + 1)
                for (place, attempt), canary in zip(places, drawn, strict=True)
                if canary.sha256 not in chosen and attempt + 1 < ATTEMPTS
            ]
        return [*chosen.values()]

    def note_run(self, *, now: float) -> bool:
        """Count a check, and redraw a share if that is due; tells whether it was."""
        with self._lock:
            state = self._state
            state.runs += 1
            days = (now - state.turned_at) / DAY_S
            due = 0 < self._rotation.runs <= state.runs or 0 < self._rotation.days <= days
            if due:
                state.turn, state.runs, state.turned_at = state.turn + 1, 0, now
            self._save(state)
            return due

    def _draw(self, place: int, *, turn: int, attempt: int) -> Canary:
        """Draw what stands in a place at a turn; a place is redrawn every SHARES turns."""
        generation = (turn + SHARES - 1 - place % SHARES) // SHARES
        kind = KINDS[0] if place < share_out(self._count)[KINDS[0]] else KINDS[1]
        rng = self._seed(f"canary {place} {generation} {attempt}")
        # Places of one share have one topic: its policy is long, and read only once for all.
        topic = invent_topic(self._seed(f"topic {place % SHARES // 2} {generation}"))
        return draw(kind, rng, topic=topic)

    def _seed(self, what: str) -> random.Random:
        """Return what draws the same at each call; that the seed is secret keeps it private."""
        digest = hashlib.sha256(f"{self._state.seed} {what}".encode()).digest()
        return random.Random(digest)  # noqa: S311

    def _keep(
        self,
        canaries: Sequence[Canary],
        chosen: dict[str, Canary],
        *,
        ask: Ask,
        results: dict[str, bool],
        base: str,
    ) -> None:
        """Add those that the base passes; ask it about those that it never answered."""
        new = {each.sha256: each for each in canaries if each.sha256 not in results}
        if new:
            answers = ask([*new.values()])
            for each, answer in zip(new.values(), answers, strict=True):
                results[each.sha256] = each.accepts(answer)
            self._write("base.json", {"base": base, "passed": results})
        chosen.update({each.sha256: each for each in canaries if results[each.sha256]})

    def _load_results(self, base: str) -> dict[str, bool]:
        """Return what this base was asked before; nothing where it was another."""
        try:
            kept = json.loads((self._folder / "base.json").read_bytes())
            if kept["base"] == base:
                return {str(name): bool(passed) for name, passed in kept["passed"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # it is only a cache
        return {}

    def _open(self, now: float) -> _State:
        try:
            data = read_bytes(self._path, limit_bytes=MAX_FILE_BYTES) if self._is_there() else None
            if data is not None:
                return _read_state(data)
        except (ValueError, TypeError, KeyError, InputError):
            raise StorageError(
                f"{self._path} is damaged; remove it, and canaries are drawn anew",
                code="canaries_damaged",
            ) from None
        state = _State(seed=secrets.token_hex(32), turn=0, runs=0, turned_at=now, begun_at=now)
        self._save(state)
        return state

    def _is_there(self) -> bool:
        """Tell whether there is a set, and shut others out of it."""
        if not self._path.exists():
            return False
        try:
            self._folder.chmod(0o700)
            for path in self._folder.iterdir():
                path.chmod(0o600)
        except OSError as error:
            raise StorageError(
                f"the canaries can't be made private: {error}", code="storage_failed"
            ) from None
        return True

    def _save(self, state: _State) -> None:
        self._write("set.json", vars(state))

    def _write(self, name: str, value: object) -> None:
        write_atomically(self._folder / name, json.dumps(value).encode())


def _read_state(data: bytes) -> _State:
    fields: dict[str, Any] = json.loads(data)
    state = _State(
        seed=str(fields["seed"]),
        turn=int(fields["turn"]),
        runs=int(fields["runs"]),
        turned_at=float(fields["turned_at"]),
        begun_at=float(fields["begun_at"]),
    )
    if len(bytes.fromhex(state.seed)) != 32 or state.turn < 0:
        raise ValueError(state.turn)
    return state
