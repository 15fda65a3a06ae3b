"""The thread that deletes versions whose time has passed."""

import logging
import threading
import time
from collections.abc import Sequence

from fluvial.adapt.history import History
from fluvial.errors import FluvialError
from fluvial.service.hub import Hub
from fluvial.store import Store
from fluvial.types import Holding

INTERVAL_S = 600.0

log = logging.getLogger(__name__)


class Expiry:
    """Looks every INTERVAL_S, and once at the start. Close it once; also when it never began."""

    def __init__(self, *, store: Store, history: History, hub: Hub) -> None:
        self._store = store
        self._history = history
        self._hub = hub
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="expiry", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Stop, within one deletion."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self, *, now: float) -> Sequence[Holding]:
        """Delete what has passed its time, and tell those who watch; returns it."""
        gone = self._history.expire(now=now)
        for id, owner in sorted({(each.session, each.owner) for each in gone}):
            session = self._store.session(id, owner=owner)
            self._hub.publish("session", session, session)
        return gone

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self.look(now=time.time())
            except FluvialError:
                log.exception("versions whose time has passed could not be deleted")
            self._closing.wait(INTERVAL_S)
