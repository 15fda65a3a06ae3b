"""Whose text is read next: up to so many sessions at once, those that have waited longest first."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence

from fluvial.types import Reading, Session

POOL_BYTES = 2048
"""Messages wait until a session has this much of them: a few words only cost a version."""

Queued = tuple[Session, Reading]


class Turns:
    """Remembers when each session that waits had its last turn."""

    def __init__(self) -> None:
        self._count = 0
        self._last: dict[str, int] = {}

    def choose(
        self,
        waiting: Sequence[Queued],
        *,
        amid: Collection[str],
        most: int,
        is_cancelled: Callable[[Reading], bool],
        has_failed: Callable[[Reading], bool],
    ) -> list[Queued]:
        """Choose the readings whose turn it is, of sessions one each.

        Sessions `amid` something count among the `most` that may be so, chosen or not. What is
        cancelled takes no room. What has failed is read alone, so that it fails nobody else.
        """
        self._count += 1
        self._last = {session.id: self._last.get(session.id, 0) for session, _ in waiting}
        room, chosen = set(amid), list[Queued]()
        for session, reading in sorted(waiting, key=lambda each: self._last[each[0].id]):
            if not is_cancelled(reading):
                full = session.id not in room and len(room) >= most
                if full or (chosen and has_failed(reading)):
                    continue
                room.add(session.id)
            chosen.append((session, reading))
            self._last[session.id] = self._count
            if has_failed(reading):
                break
        return chosen


def list_oldest(queued: Sequence[Queued], *, holding: Collection[str]) -> list[Queued]:
    """Return the oldest reading of each session that has enough to learn from (POOL_BYTES).

    Sessions in `holding` have begun on a pool of small messages, and go on to its end.
    """
    waiting: dict[str, int] = dict.fromkeys(holding, POOL_BYTES)
    oldest: OrderedDict[str, Queued] = OrderedDict()
    for session, reading in queued:
        size = reading.bytes if reading.kind == "message" else POOL_BYTES
        waiting[session.id] = waiting.get(session.id, 0) + size
        oldest.setdefault(session.id, (session, reading))
    return [each for session_id, each in oldest.items() if waiting[session_id] >= POOL_BYTES]
