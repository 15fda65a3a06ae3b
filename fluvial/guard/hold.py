"""Text held back until it is checked: what of an answer may be shown, and when.

An answer is checked at fixed places of its text, `every_tokens` apart, and as a whole at its end.
So what is shown depends on the text alone, however it comes in pieces; only a check that comes
early because the text is slow (`rush`) depends on time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from fluvial.guard.check import Finding
from fluvial.guard.guard import Guard, Ruling, merge_spans, spell_mask

RUN_CHARS = 256
"""A word, a key or an address that may go on is held back as a whole, up to this length."""
GROUP_ENDS = "0123456789)-"
"""What a group of figures ends with, before a space."""
WIDE = "\u2e80"
"""From here on characters are Chinese, Japanese, Korean or rarer, and about a token each."""
QUARTERS = 4


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What is to be checked now: these characters of the answer.

    `final`: it is all of it. `rushed`: the text is slow, and what passes is shown without a window.
    """

    start: int
    end: int
    final: bool = False
    rushed: bool = False


@final
class Holder:
    """Holds one answer back. For one thread at a time.

    Invariants: no character is released that no check has seen, nor one that is to be redacted;
    after `ruling` is set nothing is released. Texts released, joined, are the same under any
    splitting into pieces, as long as nothing is rushed.
    """

    def __init__(self, guard: Guard) -> None:
        """Hold an answer back as the policy of `guard` says."""
        self._guard = guard
        self._hold = guard.policy.hold
        self._text = ""
        self._scanned = 0
        self._quarters = 0
        self._seen = 0
        self._closed = False
        self._done = False
        self._streaks: dict[str, int] = {}
        self.released = 0
        self.masked: list[tuple[int, int, str]] = []
        self.flags: set[str] = set()
        self.ruling: Ruling | None = None

    @property
    def text(self) -> str:
        """All that came so far, shown or not."""
        return self._text

    @property
    def holds(self) -> bool:
        """Whether there is text that a check has not been rushed to see."""
        return max(self.released, self._seen) < len(self._text)

    def push(self, text: str) -> None:
        """Take in a piece."""
        self._text += text

    def close(self) -> None:
        """Say that nothing more comes."""
        self._closed = True

    def ask(self, *, rush: bool = False) -> Ask | None:
        """Return what is to be checked now, in order; None when more text is needed.

        After the final one `take` was called for, there is nothing more to ask.
        """
        if self.ruling is not None or self._done:
            return None
        end = self._scan()
        if end is not None:
            return Ask(start=self._reach_back(end), end=end)
        if self._closed:
            return Ask(start=0, end=len(self._text), final=True)
        if rush and self.holds:
            end = self._seen = len(self._text)
            return Ask(start=self._reach_back(end), end=end, rushed=True)
        return None

    def take(self, ask: Ask, findings: Sequence[Finding]) -> str:
        """Take in what checks found in the text of `ask`; return what may be shown now."""
        rulings = self._guard.rule(findings, place="answer")
        self._done = ask.final
        self.flags |= {each.category for each in rulings if each.action == "flag"}
        stops = [each for each in rulings if each.action == "stop"]
        self._count_streaks([each for each in stops if ask.final or not _may_go_on(each, ask)], ask)
        if stops:
            return ""
        spans = [
            (ask.start + s, ask.start + e, category) for s, e, category in merge_spans(rulings)
        ]
        return self._release(self._limit(ask, spans), spans)

    def _scan(self) -> int | None:
        """Go on to the next place of a check; None where the text does not reach it."""
        due = self._hold.every_tokens * QUARTERS
        for at in range(self._scanned, len(self._text)):
            self._quarters += _weigh(self._text[at])
            if self._quarters >= due:
                self._quarters, self._scanned = 0, at + 1
                return at + 1
        self._scanned = len(self._text)
        return None

    def _reach_back(self, end: int) -> int:
        return min(self.released, self._go_back(end, tokens=self._hold.reach_tokens))

    def _go_back(self, end: int, *, tokens: int) -> int:
        """Return where the last `tokens` before `end` begin."""
        left = tokens * QUARTERS
        if self._text[max(0, end - left) : end].isascii():
            return max(0, end - left)
        while end > 0 and left > 0:
            end -= 1
            left -= _weigh(self._text[end])
        return end

    def _count_streaks(self, rulings: Sequence[Ruling], ask: Ask) -> None:
        """Count checks in a row for each category, and rule where there were enough."""
        categories = {ruling.category for ruling in rulings}
        self._streaks = {name: self._streaks.get(name, 0) + 1 for name in categories}
        for ruling in rulings:
            needed = self._guard.policy.rule(ruling.category).debounce
            if ask.final or self._streaks[ruling.category] >= needed:
                self.ruling = ruling
                break

    def _limit(self, ask: Ask, spans: Sequence[tuple[int, int, str]]) -> int:
        """Return up to where the text may be shown."""
        if ask.final:
            return ask.end
        limit = self._run_start(ask.end)
        if not ask.rushed:
            limit = min(limit, self._go_back(ask.end, tokens=self._hold.window_tokens))
        for start, end, _ in reversed(spans):
            # What touches the end may go on; what the limit would cut goes out as a whole.
            if end >= ask.end or start < limit < end:
                limit = min(limit, start)
        return limit

    def _run_start(self, end: int) -> int:
        """Return where the word that reaches `end` begins; `end` where it is too long for one.

        Figures in groups, such as the number of a card, are one word.
        """
        for at in range(end, max(0, end - RUN_CHARS), -1):
            char = self._text[at - 1]
            is_gap = char == " " and at > 1 and self._text[at - 2] in GROUP_ENDS
            if (char.isspace() and not is_gap) or char >= WIDE:
                return at
        return 0 if end <= RUN_CHARS else end

    def _release(self, limit: int, spans: Sequence[tuple[int, int, str]]) -> str:
        pieces: list[str] = []
        at = self.released
        for start, end, category in spans:
            if end <= at or start >= limit:
                continue
            start = max(start, at)
            pieces += (self._text[at:start], spell_mask(self._guard.policy, category))
            self.masked.append((start, end, category))
            at = end
        if at < limit:
            pieces.append(self._text[at:limit])
            at = limit
        self.released = at
        return "".join(pieces)


def _may_go_on(ruling: Ruling, ask: Ask) -> bool:
    """Tell whether more text may make something else of a finding, such as a longer word."""
    end = ruling.finding.end
    return end is not None and ask.start + end >= ask.end


def _weigh(char: str) -> int:
    """Return the quarters of a token that a character counts for."""
    return QUARTERS if char >= WIDE else 1
