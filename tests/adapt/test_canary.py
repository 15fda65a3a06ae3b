"""What a real reader does when a version it made is taken back under it."""

from tests.adapt.conftest import Desk
from tests.adapt.test_reader import LONG


def test_reading_goes_on_without_learning_from_the_version_before(desk: Desk) -> None:
    session = desk.begin()
    reading = desk.queue(session, LONG)
    desk.wait(lambda: desk.count("version") >= 2)
    version = desk.store.versions(session)[1]
    in_force = desk.store.session(session.id, owner="me").version
    now, _ = desk.store.checks.note_failed(
        session, version, counted=20, failed=9, canaries="canaries"
    )
    if in_force == version.number:  # else it has learned on meanwhile, and that is checked next
        assert (now.version, now.learning) == (1, "frozen")
    while (now := desk.store.session(session.id, owner="me")).learning == "on":
        waiting = desk.store.checks.find_waiting(checkpoint=desk.checkpoint, since=0.0)
        newest = next(each for _, each in waiting if each.number == now.version)
        desk.store.checks.note_failed(session, newest, counted=20, failed=9, canaries="canaries")
    reading = desk.wait_ended(session, reading)
    assert (reading.status, reading.tokens_read) == ("done", reading.tokens_total)
    # A version may have been on its way while the session went back: it is checked as any other.
    while desk.store.session(session.id, owner="me").version > 1:
        now = desk.store.session(session.id, owner="me")
        newest = desk.store.version(now, now.version)
        desk.store.checks.note_failed(session, newest, counted=20, failed=9, canaries="canaries")
    scores = [score for _, score in desk.store.scores(session)]
    assert sum(score.bytes for score in scores) == len(LONG.encode())
    assert scores[-1].reason == "frozen"
    assert scores[-1].version in (0, 1)
