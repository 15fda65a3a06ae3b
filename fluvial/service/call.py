"""Tool calls, read out of an answer while it comes; `tool.py` says what they may look like."""

import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, Self

from fluvial.model.tool_format import CALL_BEGIN
from fluvial.service.protocol import Generation
from fluvial.service.tool import ARGUMENTS_BEGIN, BARE_HEAD, FENCE, NAME_BEGIN, OBJECT_END, TAIL
from fluvial.types import CallDelta, Delta

_HEAD = re.compile(re.escape(NAME_BEGIN) + r"([A-Za-z0-9_-]+)" + re.escape(ARGUMENTS_BEGIN))


class CallReader:
    """Splits an answer into text and calls, while it comes in pieces of any size.

    Invariant: under any splitting the same text, and the same calls with the same arguments. White
    space before and after calls is no text. Nothing of a call is ever shown as text.
    """

    def __init__(self, *, bare: Sequence[str] = ()) -> None:
        """Begin; `bare` are the names that make a call of an answer that begins as bare JSON."""
        heads = [f'{{"name":"{name}","arguments":' for name in bare]
        self._bare = tuple(heads + [FENCE + head for head in heads])
        self._bare_head = re.compile(BARE_HEAD.replace("NAME", "|".join(bare)))
        self._held = ""
        self._state: Literal["begin", "text", "head", "arguments", "tail", "bare"] = "begin"
        self._is_bare = False
        self._depth = 0
        self._quoted = False
        self._escaped = False
        self._calls = 0

    @property
    def complete(self) -> bool:
        """Whether there were calls, and none is unfinished."""
        if self._state == "bare":
            return OBJECT_END in self._held
        return self._calls > 0 and self._state == "text"

    def push(self, text: str) -> tuple[str, list[CallDelta]]:
        """Take in a piece; return the text that is no call, and the pieces of calls."""
        self._held += text
        shown: list[str] = []
        calls: list[CallDelta] = []
        while self._step(shown, calls):
            pass
        return "".join(shown), calls

    def finish(self) -> str:
        """Return the text that was held back; an unfinished call is none."""
        if self._state not in ("begin", "text") or (self._calls and self._held.isspace()):
            return ""
        held, self._held = self._held, ""
        return held

    def _step(self, shown: list[str], calls: list[CallDelta]) -> bool:
        """Move on by one state; return whether there may be more to do."""
        if self._state == "begin":
            return self._read_begin(calls)
        if self._state == "text":
            return self._read_text(shown)
        if self._state == "head":
            return self._read_head(calls)
        if self._state == "arguments":
            return self._read_arguments(calls)
        if self._state == "bare" or len(self._held) < len(TAIL):
            return False
        self._held, self._state = self._held[len(TAIL) :], "text"
        return True

    def _read_begin(self, calls: list[CallDelta]) -> bool:
        """Hold back what may become the bare JSON of a call."""
        compact = "".join(self._held.split())
        if any(head.startswith(compact) and head != compact for head in self._bare):
            return False
        head = self._bare_head.match(self._held) if self._bare else None
        if head is None:
            self._state = "text"
        else:
            self._is_bare = True
            self._begin_call(head[2], end=head.end(), calls=calls)
        return True

    def _read_text(self, shown: list[str]) -> bool:
        at = self._held.find(CALL_BEGIN)
        if at >= 0:
            shown.append(self._held[:at].rstrip())
            self._held, self._state = self._held[at + len(CALL_BEGIN) :], "head"
            return True
        safe = _find_safe(self._held)
        if self._held[:safe]:
            shown.append(self._held[:safe])
        self._held = self._held[safe:]
        return False

    def _read_head(self, calls: list[CallDelta]) -> bool:
        head = _HEAD.match(self._held)
        if head is None:
            return False
        self._begin_call(head[1], end=head.end(), calls=calls)
        return True

    def _begin_call(self, name: str, *, end: int, calls: list[CallDelta]) -> None:
        call_id = f"call_{secrets.token_hex(12)}"
        calls.append(CallDelta(index=self._calls, id=call_id, name=name))
        self._held, self._state = self._held[end:], "arguments"
        self._calls += 1

    def _read_arguments(self, calls: list[CallDelta]) -> bool:
        if self._depth == 0:
            self._held = self._held.lstrip()
        end = next((n + 1 for n, char in enumerate(self._held) if self._closes(char)), None)
        part = self._held[:end]
        if part:
            calls.append(CallDelta(index=self._calls - 1, arguments=part))
        self._held = self._held[len(part) :]
        if end is None:
            return False
        self._state = "bare" if self._is_bare else "tail"
        return True

    def _closes(self, char: str) -> bool:
        """Follow the arguments; tell whether `char` is their last one."""
        if self._escaped:
            self._escaped = False
        elif self._quoted:
            self._escaped = char == "\\"
            self._quoted = char != '"'
        elif char == '"':
            self._quoted = True
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
            return self._depth == 0
        return False


def _find_safe(text: str) -> int:
    """Return up to where `text` can't belong to a call: white space and a beginning of one can."""
    for size in range(min(len(CALL_BEGIN) - 1, len(text)), 0, -1):
        if CALL_BEGIN.startswith(text[-size:]):
            text = text[:-size]
            break
    return len(text.rstrip())


class CallingGeneration:
    """A generation whose calls are read out of its text: deltas carry them as `calls`."""

    def __init__(self, generation: Generation, *, bare: Sequence[str] = ()) -> None:
        """Read the calls out of `generation`; see `CallReader` for `bare`."""
        self._generation = generation
        self._reader = CallReader(bare=bare)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        while True:
            delta = await self._generation.__anext__()
            text, calls = self._reader.push(delta.text)
            finish = delta.finish
            if finish is not None:
                text += self._reader.finish()
                if finish == "stop" and self._reader.complete:
                    finish = "tool_calls"
            delta = replace(delta, text=text, calls=tuple(calls), finish=finish)
            if text or calls or finish or delta.logprobs:
                return delta

    def cancel(self) -> None:
        """Stop the answer."""
        self._generation.cancel()
