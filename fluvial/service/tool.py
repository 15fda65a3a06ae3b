"""Which tool calls an answer may hold, as a grammar. `call.py` reads them out of its text.

The grammar holds for every call, also where the model is free to call or not: what comes out is
always a name that was offered and JSON that follows its schema.

Small models forget the marks around a call. So where text is free, an answer that begins as the
bare JSON of a call, perhaps in a Markdown fence, is one call, too, and held to the schema.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from fluvial.engine import grammar
from fluvial.errors import InputError
from fluvial.model.tool_format import CALL_BEGIN, CALL_END
from fluvial.types import Grammar, Message, Tool

MAX_TOOLS = 64
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
NO_PARAMETERS = '{"type": "object", "properties": {}, "additionalProperties": false}'

NAME_BEGIN, ARGUMENTS_BEGIN, OBJECT_END = '{"name": "', '", "arguments": ', "}"
TAIL = OBJECT_END + CALL_END
_TRIGGER = CALL_BEGIN.rstrip()
_ANY_TEXT = r"/(.|\n)*/"
FENCE = "```json"
BARE_HEAD = r'[ \n]{0,4}(```json\n)?\{[ \n]{0,8}"name":[ ]?"(NAME)",[ \n]{0,8}"arguments":'
_BARE_TAIL = r"[ \n]{0,8}\}(\n{0,2}```)?"


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

    def list_bare(self, *, answer: Grammar | None) -> tuple[str, ...]:
        """Return the names that make a call of bare JSON: none where JSON may be the answer."""
        free = self.choice == "auto" and answer is None
        return tuple(tool.name for tool in self.tools) if free else ()


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
    rules.append('body: "\\n" (' + " | ".join(f"tool_{n}" for n in callable_) + f") {_quote(TAIL)}")
    for n in callable_:
        head = _quote(NAME_BEGIN + use.tools[n].name + ARGUMENTS_BEGIN)
        rules += [f"tool_{n}: {head} args_{n}", f"args_{n}: %json {schemas[n]}"]
    for n, name in enumerate(use.list_bare(answer=answer)):
        rules.append(f'bare_{n}: head_{n} " "? args_{n} BARE_TAIL')
        rules.append(f"head_{n}[lazy]: /{BARE_HEAD.replace('NAME', name)}/")
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
    lazy = f"begin[lazy]: TEXT {_quote(_TRIGGER)}\nTEXT: {_ANY_TEXT}\nBARE_TAIL: /{_BARE_TAIL}/"
    free = "(begin body)* TEXT" if use.parallel else "TEXT | begin body"
    bare = " | ".join(f"bare_{n}" for n in range(len(use.tools)))
    return f"start: {free} | {bare}\n{lazy}"


def _read_schema(tool: Tool, *, place: int) -> str:
    param = f"tools[{place}].function.parameters"
    grammar.check(Grammar(kind="json_schema", text=tool.parameters), param=param)
    schema = cast("dict[str, Any]", json.loads(tool.parameters))
    if schema.get("type") != "object":
        raise InputError(f'{param} must be of the type "object"', param=param)
    return grammar.confine(tool.parameters, param=param)


def _quote(text: str) -> str:
    return json.dumps(text)
