"""How many versions are kept: quotas of bytes, and a time after which they go.

Never deleted: what is pinned, and what is in force in its session. Of the rest the oldest go first,
and last of all what an undo of a version in force would go back to.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fluvial.config import Settings
from fluvial.errors import ConflictError, FluvialError
from fluvial.store.store import Store
from fluvial.types import Holding, Session

DAY_S = 86_400.0

OnDiscard = Callable[[Holding], None]
"""Told of a version that was deleted over a quota, or because its time had passed."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bytes of versions for a session and for an owner; seconds that one is kept, 0 for ever."""

    session_bytes: int
    owner_bytes: int
    expiry_s: float = 0.0

    @staticmethod
    def from_settings(settings: Settings) -> "Limits":
        return Limits(
            session_bytes=settings.session_versions_bytes,
            owner_bytes=settings.owner_versions_bytes,
            expiry_s=settings.version_expiry_days * DAY_S,
        )

    def expires_at(self, now: float) -> float | None:
        """Return when a version made now will go, None: never by itself."""
        return now + self.expiry_s if self.expiry_s else None


def choose_expendable(held: Sequence[Holding], *, limit_bytes: int) -> list[Holding]:
    """Choose what must go so that the rest takes at most `limit_bytes`, or all that may go."""
    over_bytes = sum(each.bytes for each in held) - limit_bytes
    chosen: list[Holding] = []
    for each in sorted(held, key=lambda each: (each.is_parent, each.created_at, each.number)):
        if over_bytes > 0 and not each.pinned and not each.in_force:
            chosen.append(each)
            over_bytes -= each.bytes
    return chosen


def choose_over_quota(
    held: Sequence[Holding], *, session: Session, limits: Limits
) -> list[Holding]:
    """Choose what an owner must lose after a new version of `session`: there first, then at all."""
    inside = [each for each in held if each.session == session.id]
    chosen = choose_expendable(inside, limit_bytes=limits.session_bytes)
    gone = set(chosen)
    left = [each for each in held if each not in gone]
    return chosen + choose_expendable(left, limit_bytes=limits.owner_bytes)


def require_room(
    held: Sequence[Holding], *, session: Session | None, size_bytes: int, limits: Limits
) -> None:
    """Check that a version of this size can be kept, once all that may go is gone.

    It will be the one in force in `session` (None: in a new one). Raises ConflictError
    `quota_reached`.
    """
    own = None if session is None else session.id
    inside = [each for each in held if each.session == own]
    others = [each for each in held if each.session != own]
    _require(
        "this session",
        [each for each in inside if each.pinned],
        size_bytes=size_bytes,
        limit_bytes=limits.session_bytes,
    )
    _require(
        "your sessions",
        [each for each in inside if each.pinned]
        + [each for each in others if each.pinned or each.in_force],
        size_bytes=size_bytes,
        limit_bytes=limits.owner_bytes,
    )


def _require(what: str, staying: Sequence[Holding], *, size_bytes: int, limit_bytes: int) -> None:
    staying_bytes = sum(each.bytes for each in staying)
    if staying_bytes + size_bytes > limit_bytes:
        raise ConflictError(
            f"a version of {size_bytes:,} bytes does not fit: {what} may keep {limit_bytes:,}, and "
            f"{staying_bytes:,} are pinned or in force; unpin or delete some",
            code="quota_reached",
        )


class Keeper:
    """Holds versions to the limits. `release` is told what was deleted: a session, its numbers.

    `on_discard`, where given, is told, too, and after it; it must not raise.
    """

    def __init__(
        self,
        store: Store,
        *,
        limits: Limits,
        release: Callable[[Session, Sequence[int]], None],
        on_discard: OnDiscard | None = None,
    ) -> None:
        self.limits = limits
        self._store = store
        self._release = release
        self._on_discard = on_discard

    def require_room(self, *, owner: str, session: Session | None, size_bytes: int) -> None:
        """Raise ConflictError `quota_reached` unless a new version can be kept."""
        held = self._store.holdings.list_owned(owner=owner)
        require_room(held, session=session, size_bytes=size_bytes, limits=self.limits)

    def make_room(self, session: Session) -> None:
        """Delete what is over the quotas, now that a new version of `session` is safe."""
        held = self._store.holdings.list_owned(owner=session.owner)
        self._discard(choose_over_quota(held, session=session, limits=self.limits))

    def expire(self, *, now: float) -> list[Holding]:
        """Delete what has passed its time; returns it. Faults of the disk leave the rest."""
        return self._discard(self._store.holdings.list_expired(now=now))

    def _discard(self, chosen: Sequence[Holding]) -> list[Holding]:
        """Delete versions, but for those that were pinned or put in force meanwhile."""
        gone: list[Holding] = []
        for each in chosen:
            try:
                session = self._store.session(each.session, owner=each.owner)
                self._store.delete_version(session, each.number, spare_pinned=True)
                self._release(session, [each.number])
            except FluvialError as error:
                log.warning("version %s/%d stays: %s", each.session, each.number, error)
            else:
                gone.append(each)
                if self._on_discard is not None:
                    self._on_discard(each)
        return gone
