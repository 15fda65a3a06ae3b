"""Tool calls: which ones an answer may hold, as a grammar, and how they are read out of its text.

The grammar holds for every call, also where the model is free to call or not: what comes out is
always a name that was offered and JSON that follows its schema.
"""

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, cast

from fluvial.engine import grammar
from fluvial.errors import InputError
from fluvial.model.tool_format import CALL_BEGIN, CALL_END
from fluvial.service.protocol import Generation
from fluvial.types import CallDelta, Delta, Grammar, Message, Tool

MAX_TOOLS = 64
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
NO_PARAMETERS = '{"type": "object", "properties": {}, "additionalProperties": false}'

_NAME_BEGIN, _ARGUMENTS_BEGIN, _OBJECT_END = '{"name": "', '", "arguments": ', "}"
_HEAD = re.compile(re.escape(_NAME_BEGIN) + r"([A-Za-z0-9_-]+)" + re.escape(_ARGUMENTS_BEGIN))
_TAIL = _OBJECT_END + CALL_END
_TRIGGER = CALL_BEGIN.rstrip()
_ANY_TEXT = r"/(.|\n)*/"


@dataclass(frozen=True, kw_only=True)
class ToolUse:
    """The tools of a request. `choice` "named" means: exactly `name`, and nothing else."""

    tools: tuple[Tool, ...] = ()
    choice: Literal["auto", "none", "required", "named"] = "auto"
    name: str | None = None
    parallel: bool = True

    @property
    def offered(self) -> tuple[Tool, ...]:
        """The tools that the model is told of: none where it may not call any."""
        return () if self.choice == "none" else self.tools


NO_TOOLS = ToolUse()


def build_grammar(use: ToolUse, *, answer: Grammar | None) -> Grammar | None:
    """Return the grammar of an answer: calls, plain text where the choice is free, or `answer`.

    `answer`, if given, is what the answer must look like where it is no call.
    Raises InputError, naming the field, when a tool or the choice can't be honoured.
    """
    if not use.offered:
        if use.choice in ("required", "named"):
            raise InputError("tool_choice asks for a call, but there are no tools", param="tools")
        return answer
    if len(use.tools) > MAX_TOOLS:
        raise InputError(f"there are {len(use.tools)} tools; at most {MAX_TOOLS}", param="tools")
    schemas = [_read_schema(tool, place=n) for n, tool in enumerate(use.tools)]
    callable_ = [n for n, tool in enumerate(use.tools) if use.name in (None, tool.name)]
    if not callable_:
        raise InputError(
            f"tool_choice names {(use.name or '')[:64]!r}, which is not among the tools",
            param="tool_choice",
        )
    rules = [_begin(use, answer=answer)]
    rules.append(
        'body: "\\n" (' + " | ".join(f"tool_{n}" for n in callable_) + f") {_quote(_TAIL)}"
    )
    for n in callable_:
        head = _quote(_NAME_BEGIN + use.tools[n].name + _ARGUMENTS_BEGIN)
        rules.append(f"tool_{n}: {head} %json {schemas[n]}")
    text = "\n".join(rules)
    if len(text.encode()) > grammar.MAX_GRAMMAR_BYTES:
        raise InputError(
            f"the tools' parameters have over {grammar.MAX_GRAMMAR_BYTES:,} bytes together",
            param="tools",
        )
    return Grammar(kind="lark", text=text)


def check_results(messages: Sequence[Message]) -> None:
    """Check that each result of a tool answers a call before it. Raises InputError."""
    asked: set[str] = set()
    for number, message in enumerate(messages):
        asked.update(call.id for call in message.tool_calls)
        if message.role == "tool" and message.tool_call_id not in asked:
            raise InputError(
                f"no call before it has the id {(message.tool_call_id or '')[:64]!r}",
                param=f"messages[{number}].tool_call_id",
            )


def _begin(use: ToolUse, *, answer: Grammar | None) -> str:
    """Return the rules of what may stand around the calls."""
    call = f"{_quote(_TRIGGER)} body"
    calls = f'{call} ("\\n" {call})*' if use.parallel and use.choice != "named" else call
    if use.choice != "auto":
        return f"start: {calls}"
    if answer is not None:
        if answer.kind not in ("json_schema", "json_object"):
            raise InputError(
                "a grammar for the answer goes with tool_choice none, or without tools",
                param="response_format",
            )
        schema = grammar.confine(answer.text or '{"type": "object"}', param="response_format")
        return f"start: {calls} | answer\nanswer: %json {schema}"
    lazy = f"begin[lazy]: TEXT {_quote(_TRIGGER)}\nTEXT: {_ANY_TEXT}"
    free = "start: (begin body)* TEXT" if use.parallel else "start: TEXT | begin body"
    return f"{free}\n{lazy}"


def _read_schema(tool: Tool, *, place: int) -> str:
    param = f"tools[{place}].function.parameters"
    grammar.check(Grammar(kind="json_schema", text=tool.parameters), param=param)
    schema = cast("dict[str, Any]", json.loads(tool.parameters))
    if schema.get("type") != "object":
        raise InputError(f'{param} must be of the type "object"', param=param)
    return grammar.confine(tool.parameters, param=param)


def _quote(text: str) -> str:
    return json.dumps(text)


class CallReader:
    """Splits an answer into text and calls, while it comes in pieces of any size.

    Invariant: under any splitting the same text, and the same calls with the same arguments. White
    space before and after calls is no text. Nothing of a call is ever shown as text.
    """

    def __init__(self) -> None:
        self._held = ""
        self._state: Literal["text", "head", "arguments", "tail"] = "text"
        self._depth = 0
        self._quoted = False
        self._escaped = False
        self._calls = 0

    @property
    def complete(self) -> bool:
        """Whether there were calls, and none is unfinished."""
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
        held, self._held = self._held, ""
        return held if self._state == "text" and not (self._calls and held.isspace()) else ""

    def _step(self, shown: list[str], calls: list[CallDelta]) -> bool:
        """Move on by one state; return whether there may be more to do."""
        if self._state == "text":
            return self._read_text(shown)
        if self._state == "head":
            return self._read_head(calls)
        if self._state == "arguments":
            return self._read_arguments(calls)
        if len(self._held) < len(_TAIL):
            return False
        self._held, self._state = self._held[len(_TAIL) :], "text"
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
        call_id = f"call_{secrets.token_hex(12)}"
        calls.append(CallDelta(index=self._calls, id=call_id, name=head[1]))
        self._held, self._state = self._held[head.end() :], "arguments"
        self._calls += 1
        return True

    def _read_arguments(self, calls: list[CallDelta]) -> bool:
        end = next((n + 1 for n, char in enumerate(self._held) if self._closes(char)), None)
        part = self._held[:end]
        if part:
            calls.append(CallDelta(index=self._calls - 1, arguments=part))
        self._held = self._held[len(part) :]
        if end is None:
            return False
        self._state = "tail"
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

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._reader = CallReader()

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
