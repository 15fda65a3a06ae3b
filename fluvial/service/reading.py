"""Texts that sessions were given to read: taken in, followed, stopped, removed."""

from fluvial.config import Settings
from fluvial.errors import InputError, TooLargeError
from fluvial.service.guarding import Guarding
from fluvial.service.hub import Hub
from fluvial.service.model import Served
from fluvial.service.name import check_name
from fluvial.service.protocol import Reader
from fluvial.service.state import ReadingState, is_unfinished
from fluvial.store import Store
from fluvial.types import ChunkScore, Reading, Session


class Readings:
    """What sessions read. Methods may block on the disk; they may be called from any thread."""

    def __init__(
        self,
        *,
        settings: Settings,
        served: Served,
        store: Store,
        reader: Reader,
        hub: Hub,
        guarding: Guarding,
    ) -> None:
        self._settings = settings
        self._served = served
        self._store = store
        self._reader = reader
        self._hub = hub
        self._guarding = guarding

    def add(self, session: Session, *, name: str, text: str) -> ReadingState:
        """Give a session a text to read in the background.

        What the guard's policy flags in it is put on record; it is read all the same.
        Raises InputError when the text is blank or the name unfit, TooLargeError over the limit,
        ConflictError when the session's model is not the one served.
        """
        self._served.require(session)
        name = check_name(name, param="name")
        limit_bytes = self._settings.max_document_bytes
        if len(text) > limit_bytes or len(text.encode(errors="replace")) > limit_bytes:
            raise TooLargeError(f"the text is over the limit of {limit_bytes} bytes", param="text")
        if not text.strip():
            raise InputError(
                f"{name or 'the text'} is empty: there is nothing to read", param="text"
            )
        if not name:
            raise InputError("give the text a name", param="name")
        reading = self._store.create_reading(session, kind="document", name=name, text=text)
        self._guarding.check_document(text, owner=session.owner, session=session.id)
        self._reader.wake()
        session = self._store.session(session.id, owner=session.owner)
        if not session.title:
            session = self._store.update_session(session, title=name)
        self._hub.publish("reading", session, reading)
        self._hub.publish("session", session, session)
        return self.state(reading)

    def list_all(self, session: Session) -> list[ReadingState]:
        """List what a session was given to read, in order."""
        return [self.state(reading) for reading in self._store.readings(session)]

    def state(self, reading: Reading) -> ReadingState:
        """Tell how a reading is now."""
        if is_unfinished(reading):
            reading = self._reader.live(reading)
        speed = self._reader.speed(reading.id) if reading.status == "reading" else None
        has_text = self._store.has_reading_text(reading)
        return ReadingState(reading=reading, has_text=has_text, tokens_per_s=speed)

    def remove(self, session: Session, id: str) -> ReadingState:
        """Stop a reading if it is under way, and remove its text. What was learned stays."""
        reading = self._stop(session, self._store.reading(session, id))
        self._store.remove_reading_text(reading)
        self._hub.publish("reading", session, reading)
        self._hub.publish("session", session, session)
        return self.state(reading)

    def stop_all(self, session: Session) -> None:
        """Stop what is under way or waits in a session."""
        for reading in self._store.readings(session):
            if is_unfinished(reading):
                stopped = self._stop(session, reading)
                self._hub.publish("reading", session, stopped)

    def scores(self, session: Session, *, after: int) -> list[tuple[int, ChunkScore]]:
        """List the evidence with an index above `after`, in the order it was read."""
        return self._store.scores(session, after=after)

    def _stop(self, session: Session, reading: Reading) -> Reading:
        if not is_unfinished(reading):
            return reading
        self._reader.cancel(reading)
        reading = self._store.reading(session, reading.id)
        if is_unfinished(reading):
            reading = self._store.update_reading(reading, status="cancelled")
        return reading
