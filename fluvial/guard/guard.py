"""The guard: a policy and its checks, asked about prompts, answers and documents.

Everything here blocks and belongs in worker threads; nothing here changes but a small cache.
"""

import hashlib
import json
import math
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TypeVar

from fluvial.errors import FluvialError, GuardError, InputError
from fluvial.guard.check import ACTIONS, Action, Check, Finding
from fluvial.guard.policy import Place, Policy, as_kind, pick_language
from fluvial.types import GuardNote, Message, ToolCall

PART_CHARS = 6000
OVERLAP_CHARS = 1000
"""Longer texts are checked in parts, so that a little harm is not thinned out by much else."""
CONTEXT_CHARS = 4000
JOINED_TURNS = 8
"""So many turns of a user are checked as one text, too: a request may be split over them."""
CACHED_TEXTS = 2048
MOST_FINDINGS = 10_000
LONGEST_CHARS = 24_000
"""What the end of a part cuts is read again up to this length: keys can be longer than a part."""
_HEX, _HIGH, _LOW = "[0-9a-fA-F]", "[dD][89abAB]", "[dD][c-fC-F]"
_ESCAPE = re.compile(
    rf'\\u({_HIGH}{_HEX}{{2}})\\u({_LOW}{_HEX}{{2}})|\\u({_HEX}{{4}})|\\([nrtbf/"\\])'
)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}
_END_S: ContextVar[float] = ContextVar("guard_end_s", default=math.inf)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Ruling:
    """What the policy does about one finding."""

    action: Action
    finding: Finding

    @property
    def category(self) -> str:
        """The category of the finding."""
        return self.finding.category


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What is done about a prompt or a document.

    `messages` are those to go on with: what is to be redacted is, and turns that were refused
    before are left out. `category`, `score` and `check` tell of the finding that decided; `flags`
    are the categories to put on record.
    """

    action: Action
    category: str = ""
    score: float = 0.0
    check: str = ""
    message: str = ""
    messages: tuple[Message, ...] = ()
    flags: tuple[str, ...] = ()

    @property
    def note(self) -> GuardNote | None:
        """What people are told of it; None where nothing was kept from them."""
        if self.action not in ("redact", "refuse", "stop"):
            return None
        return GuardNote(action=self.action, category=self.category, message=self.message)


class Guard:
    """Asks checks what a text holds and the policy what to do. Safe to use from any thread."""

    def __init__(self, policy: Policy, checks: Sequence[Check]) -> None:
        """Join them. Raises InputError where the policy uses a check that is not there."""
        self.policy = policy
        self._checks = {check.name: check for check in checks}
        for name in policy.checks.names():
            if name not in self._checks:
                raise InputError(f"the guard's policy uses the check {name!r}, which is not there")
        self.sha256 = _digest(policy, [self._checks[name] for name in policy.checks.names()])
        self._cache: OrderedDict[str, tuple[Finding, ...]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def checks(self) -> list[Check]:
        """The checks that the policy uses."""
        return [self._checks[name] for name in self.policy.checks.names()]

    def close(self) -> None:
        """Free what its checks hold: models, connections."""
        for check in self.checks:
            close = getattr(check, "close", None)
            if close is not None:
                close()

    def find(self, text: str, *, place: Place, context: str = "") -> list[Finding]:
        """Return what all checks of this place find in a text, long ones in parts.

        A text with escapes of JSON is also read as what they stand for.
        Raises GuardError when a check fails or says what makes no sense.
        """
        found = self._find_as_is(text, place=place, context=context)
        plain, places = _unescape(text)
        if plain != text:
            found += (
                _place(each, places)
                for each in self._find_as_is(plain, place=place, context=context)
            )
        return found

    def _find_as_is(self, text: str, *, place: Place, context: str) -> list[Finding]:
        return [
            finding
            for start in _split(len(text))
            for name in self.policy.checks.at(place)
            for finding in self._find_part(name, text, start, place=place, context=context)
        ]

    def _find_part(
        self, name: str, text: str, start: int, *, place: Place, context: str
    ) -> list[Finding]:
        """Find in the part that begins at `start`, and where its end cuts something, beyond it."""
        check, end = self._checks[name], min(start + PART_CHARS, len(text))
        findings = _ask(check, text[start:end], place=place, context=context)
        found = [_move(each, by=start) for each in findings]
        for cut in {each.start for each in found if each.end == end < len(text)}:
            rest = text[cut : cut + LONGEST_CHARS]
            again = _ask(check, rest, place=place, context=context)
            found += (_move(each, by=cut) for each in again if each.start == 0)
        return found

    def rule(self, findings: Iterable[Finding], *, place: Place) -> list[Ruling]:
        """Return what the policy does about findings, the strictest first; allowed ones are out.

        A finding that has no place in the text can't be redacted: the text is then kept back.
        """
        rulings: list[Ruling] = []
        for finding in findings:
            rule = self.policy.rule(finding.category)
            action = rule.action(place) if finding.score >= rule.least(place) else "allow"
            if action == "redact" and finding.end is None:
                action = "stop" if place == "answer" else "refuse"
            if action != "allow":
                rulings.append(Ruling(action=action, finding=finding))
        return sorted(rulings, key=lambda r: (-ACTIONS.index(r.action), -r.finding.score))

    def check_prompt(
        self, messages: Sequence[Message], *, new: int | None = None, beside: str = ""
    ) -> Decision:
        """Decide about a conversation whose last `new` messages (None: all) were not checked yet.

        Each is checked with what came before as its context, the assistant's as an answer: a client
        may have made it up. Then the user's turns as one text, and `beside`, which the model is
        told too, such as its tools. Raises GuardError when a check fails.
        """
        kept = drop_refused(messages, spoken=self.policy.spoken())
        first = 0 if new is None else max(0, len(kept) - new)
        masked = list(kept)
        rulings = self._check_beside(beside) if beside else []
        for at, message in enumerate(kept):
            # A system message stays, though the turn that it came with may have been refused.
            if at >= first or message.role == "system":
                masked[at], found = self._check_message(message, context=_join(kept[:at]))
                rulings += (each for each in found if at >= first or each.action != "flag")
        rulings += self._check_joined(kept)
        return self._decide(rulings, messages=masked, text=_last_text(kept))

    def _check_message(self, message: Message, *, context: str) -> tuple[Message, list[Ruling]]:
        """Return a message with what is to be redacted masked, and what was found in it."""
        place: Place = "answer" if message.role == "assistant" else "prompt"
        rulings = self._check_text(message.content, place=place, context=context)
        content = mask(self.policy, message.content, rulings)
        calls: list[ToolCall] = []
        for call in message.tool_calls:
            found = self._check_text(call.arguments, place=place)
            calls.append(replace(call, arguments=mask(self.policy, call.arguments, found)))
            rulings += found + self._check_beside(call.name)
        return replace(message, content=content, tool_calls=tuple(calls)), rulings

    def _check_beside(self, text: str) -> list[Ruling]:
        """Check what can't be masked."""
        found = self._find_cached(text, place="prompt", context="")
        return self.rule([replace(each, start=0, end=None) for each in found], place="prompt")

    def check_document(self, text: str) -> Decision:
        """Decide about a text that is to be read: allowed, or flagged."""
        if not self.policy.checks.document:
            return Decision(action="allow")
        return self._decide(self.rule(self.find(text, place="document"), place="document"))

    def describe(self) -> list[tuple[str, str]]:
        """List the checks in use with their digests."""
        return [(check.name, check.sha256) for check in self.checks]

    def _decide(
        self, rulings: Sequence[Ruling], *, messages: Sequence[Message] = (), text: str = ""
    ) -> Decision:
        if not rulings:
            return Decision(action="allow", messages=tuple(messages))
        first = max(rulings, key=lambda r: (ACTIONS.index(r.action), r.finding.score))
        refused = first.action in ("refuse", "stop")
        language = pick_language(text)
        return Decision(
            action="refuse" if refused else first.action,
            category=first.category,
            score=first.finding.score,
            check=first.finding.check,
            message=self.policy.speak(first.category, language=language) if refused else "",
            messages=() if refused else tuple(messages),
            flags=tuple(dict.fromkeys(r.category for r in rulings if r.action == "flag")),
        )

    def _check_text(self, text: str, *, place: Place, context: str = "") -> list[Ruling]:
        return self.rule(self._find_cached(text, place=place, context=context), place=place)

    def _check_joined(self, messages: Sequence[Message]) -> list[Ruling]:
        """Check the user's last turns as one text; what has a place was found in its own turn."""
        turns = [each.content for each in messages if each.role == "user"][-JOINED_TURNS:]
        if len(turns) < 2:
            return []
        found = [
            replace(finding, start=0, end=None)
            for joint in (" ", "")
            for finding in self._find_cached(joint.join(turns), place="prompt", context="")
            if self.policy.rule(finding.category).prompt in ("flag", "refuse")
        ]
        return self.rule(found, place="prompt")

    def _find_cached(self, text: str, *, place: Place, context: str) -> tuple[Finding, ...]:
        """Find in a message. Clients send the whole conversation each time: not all is new."""
        parts = f"{place} {len(context)} {context}{text}"
        key = hashlib.sha256(parts.encode(errors="surrogatepass")).hexdigest()
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        found = tuple(self.find(text, place=place, context=context))
        with self._lock:
            self._cache[key] = found
            while len(self._cache) > CACHED_TEXTS:
                self._cache.popitem(last=False)
        return found


def mask(policy: Policy, text: str, rulings: Iterable[Ruling]) -> str:
    """Return `text` with what is to be redacted masked."""
    pieces: list[str] = []
    done = 0
    for start, end, category in merge_spans(rulings):
        pieces += (text[done:start], spell_mask(policy, category))
        done = end
    return "".join([*pieces, text[done:]])


def spell_mask(policy: Policy, category: str) -> str:
    """Return what stands in the place of redacted text."""
    return policy.mask.replace("{category}", category)


def merge_spans(rulings: Iterable[Ruling]) -> list[tuple[int, int, str]]:
    """Return what is to be redacted as (start, end, category), sorted; none overlaps another."""
    spans = sorted(
        (ruling.finding.start, ruling.finding.end, ruling.category)
        for ruling in rulings
        if ruling.action == "redact" and ruling.finding.end is not None
    )
    merged: list[tuple[int, int, str]] = []
    for start, end, category in spans:
        if merged and start < merged[-1][1]:
            before = merged[-1]
            merged[-1] = (before[0], max(before[1], end), before[2])
        elif end > start:
            merged.append((start, end, category))
    return merged


def drop_refused(messages: Sequence[Message], *, spoken: frozenset[str]) -> list[Message]:
    """Leave out turns that were refused: a user's messages answered by the guard's own words."""
    kept: list[Message] = []
    for message in messages:
        if message.role == "assistant" and message.content in spoken and not message.tool_calls:
            while kept and kept[-1].role in ("user", "tool"):
                kept.pop()
        else:
            kept.append(message)
    return kept


def run_until(check: Callable[[], T], *, end_s: float) -> T:
    """Run something of the guard's that gives up after `end_s`, on the monotonic clock.

    A thread can't be stopped from outside. Raises GuardError then.
    """
    before = _END_S.set(end_s)
    try:
        return check()
    finally:
        _END_S.reset(before)


def _unescape(text: str) -> tuple[str, Sequence[int]]:
    """Return a text with escapes of JSON read; and where each character, and the end, was."""
    pieces: list[str] = []
    places: list[int] = []
    done = 0
    for escape in _ESCAPE.finditer(text):
        pieces += (text[done : escape.start()], _read_escape(escape))
        places += range(done, escape.start() + 1)
        done = escape.end()
    places += range(done, len(text) + 1)
    return "".join([*pieces, text[done:]]), places


def _read_escape(escape: re.Match[str]) -> str:
    high, low, other, sign = escape.groups()
    if high is not None:
        return chr(0x10000 + (int(high, 16) % 0x400 << 10) + int(low, 16) % 0x400)
    if other is not None:
        char = chr(int(other, 16))
        return "\ufffd" if "\ud800" <= char <= "\udfff" else char
    return _ESCAPED.get(sign, sign)


def _place(finding: Finding, places: Sequence[int]) -> Finding:
    end = None if finding.end is None else places[finding.end]
    return replace(finding, start=places[finding.start], end=end)


def _ask(check: Check, text: str, *, place: Place, context: str) -> Sequence[Finding]:
    if time.monotonic() > _END_S.get():
        raise GuardError("the guard's checks took too long")
    try:
        found = check.find(text, kind=as_kind(place), context=context)
        if len(found) > MOST_FINDINGS:
            raise GuardError(f"it found {len(found)} things, more than {MOST_FINDINGS}")
        for each in found:
            _validate(each, size=len(text))
    except FluvialError as error:
        raise GuardError(f"the guard's check {check.name!r} failed: {error.message}") from error
    except Exception as error:
        # Whatever it is: a text that was not checked is not shown.
        kind = type(error).__name__  # its message might repeat the text
        raise GuardError(f"the guard's check {check.name!r} failed ({kind})") from error
    return found


def _validate(finding: Finding, *, size: int) -> None:
    """Refuse a finding that would compare as harmless, or point outside of the text."""
    if not (math.isfinite(finding.score) and 0 <= finding.score <= 1):
        raise GuardError(f"the score {finding.score} is not in 0 to 1")
    end = size if finding.end is None else finding.end
    if not 0 <= finding.start <= end <= size:
        raise GuardError(f"it points to {finding.start} to {end} of {size} characters")


def _move(finding: Finding, *, by: int) -> Finding:
    if by == 0:
        return finding
    end = None if finding.end is None else finding.end + by
    return replace(finding, start=finding.start + by, end=end)


def _split(size: int) -> range:
    """Return where the parts of a text begin; the last one is not shorter than the overlap."""
    if size <= PART_CHARS:
        return range(0, 1)
    return range(0, size - OVERLAP_CHARS, PART_CHARS - OVERLAP_CHARS)


def _join(messages: Sequence[Message]) -> str:
    return "\n".join(message.content for message in messages)[-CONTEXT_CHARS:]


def _last_text(messages: Sequence[Message]) -> str:
    users = [message.content for message in messages if message.role == "user"]
    return users[-1] if users else ""


def _digest(policy: Policy, checks: Sequence[Check]) -> str:
    parts = {"policy": policy.sha256, "checks": {check.name: check.sha256 for check in checks}}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
