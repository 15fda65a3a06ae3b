"""Stop strings in text that comes in pieces."""

from collections.abc import Sequence


class StopFilter:
    """Lets text through up to the first stop string, and nothing of the string itself.

    Invariant: under any splitting, all text returned, joined, equals the whole text cut at the
    earliest position where a stop string begins. Only text that may still become a stop is held
    back: fewer characters than the longest stop string has.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Watch for `stops`, none of which is empty."""
        self._stops = tuple(stops)
        self._held = ""
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found: nothing more will come out."""
        return self._stopped

    def push(self, text: str) -> str:
        """Return the text that is now safe to show."""
        if self._stopped or not self._stops:
            return "" if self._stopped else text
        self._held += text
        match = self._first_match()
        maybe = self._first_maybe()
        if match <= maybe and match < len(self._held):
            return self._stop_at(match)
        shown, self._held = self._held[:maybe], self._held[maybe:]
        return shown

    def finish(self) -> str:
        """Return what was held back; the text has ended, so it can't become a longer stop."""
        match = self._first_match()
        if match < len(self._held):
            return self._stop_at(match)
        shown, self._held = self._held, ""
        return shown

    def _stop_at(self, position: int) -> str:
        shown, self._held, self._stopped = self._held[:position], "", True
        return shown

    def _first_match(self) -> int:
        """Return where the earliest complete stop begins; past the end when there is none."""
        found = (self._held.find(stop) for stop in self._stops)
        return min((at for at in found if at >= 0), default=len(self._held))

    def _first_maybe(self) -> int:
        """Return where the earliest unfinished stop begins; past the end when there is none.

        It may lie before a complete one ("ab" in "abc" with stops "abcd" and "b"): then it decides.
        """
        end = len(self._held)
        longest = max(map(len, self._stops))
        for start in range(max(0, end - longest + 1), end):
            rest = self._held[start:]
            if any(stop.startswith(rest) and len(stop) > len(rest) for stop in self._stops):
                return start
        return end
