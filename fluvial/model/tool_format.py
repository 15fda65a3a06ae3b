"""Tools and tool calls as a chat template takes them, or as plain text where it takes none.

One form of calls is spoken, that of Hermes and Qwen: `<tool_call>`, a line of JSON with name and
arguments, `</tool_call>`. A template that writes it gets tools as values; for any other, tools
become a text of ours in the system message, calls and results plain text in the turns.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, cast

from fluvial.errors import InputError
from fluvial.types import Message, Tool, ToolCall

CALL_BEGIN = "<tool_call>\n"
CALL_END = "\n</tool_call>"
MAX_VALUE_DEPTH = 64

Turn = dict[str, Any]
Shield = Callable[[str], str]

_INTRODUCTION = (
    "You can call functions. Their signatures, as JSON, are between <tools> and </tools>:\n"
    "<tools>\n{tools}\n</tools>\n\n"
    "To call a function, write its name and its arguments as JSON, like this:\n"
    '<tool_call>\n{{"name": "NAME", "arguments": {{"ARGUMENT": "VALUE"}}}}\n</tool_call>\n'
    "The result comes between <tool_response> and </tool_response>. Call a function only where it "
    "helps; else answer in plain words."
)


def make_turns(messages: Sequence[Message], *, shield: Shield) -> list[Turn]:
    """Return the messages as values for a template that knows tools; all text is shielded.

    Raises InputError when the arguments of a call are no JSON object.
    """
    turns: list[Turn] = []
    for message in messages:
        turn: Turn = {"role": message.role, "content": shield(message.content)}
        if message.tool_calls:
            turn["tool_calls"] = [_make_call(call, shield=shield) for call in message.tool_calls]
        if message.tool_call_id is not None:
            turn["tool_call_id"] = shield(message.tool_call_id)
        turns.append(turn)
    return turns


def make_tools(tools: Sequence[Tool], *, shield: Shield) -> list[Turn]:
    """Return the tools as values, in OpenAI's form; all text is shielded."""
    return [
        {
            "type": "function",
            "function": {
                "name": shield(tool.name),
                "description": shield(tool.description),
                "parameters": _shield_all(_load(tool.parameters), shield=shield),
            },
        }
        for tool in tools
    ]


def write_plain(turns: Sequence[Turn], tools: Sequence[Turn]) -> list[Turn]:
    """Return turns of plain text with the roles that every template knows.

    Calls and results become text; results that follow each other become one turn of the user.
    """
    plain: list[Turn] = []
    for turn in turns:
        content = turn["content"]
        if turn["role"] == "tool":
            content = f"<tool_response>\n{content}\n</tool_response>"
            if plain and plain[-1].get("is_result"):
                plain[-1]["content"] += f"\n{content}"
                continue
            plain.append({"role": "user", "content": content, "is_result": True})
            continue
        calls = [_write_call(call["function"]) for call in turn.get("tool_calls", ())]
        content = "\n".join([content, *calls] if content else calls) if calls else content
        plain.append({"role": turn["role"], "content": content})
    if tools:
        plain = _introduce(plain, tools)
    return [{"role": turn["role"], "content": turn["content"]} for turn in plain]


def measure(messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
    """Return how many characters people wrote: contents, calls, tools."""
    size = sum(len(message.content) for message in messages)
    calls = (call for message in messages for call in message.tool_calls)
    size += sum(len(call.name) + len(call.arguments) for call in calls)
    return size + sum(len(t.name) + len(t.description) + len(t.parameters) for t in tools)


def _introduce(turns: list[Turn], tools: Sequence[Turn]) -> list[Turn]:
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    text = _INTRODUCTION.format(tools=lines)
    if turns[0]["role"] == "system":
        return [{"role": "system", "content": f"{turns[0]['content']}\n\n{text}"}, *turns[1:]]
    return [{"role": "system", "content": text}, *turns]


def _make_call(call: ToolCall, *, shield: Shield) -> Turn:
    function = {
        "name": shield(call.name),
        "arguments": _shield_all(_load(call.arguments), shield=shield),
    }
    return {"id": shield(call.id), "type": "function", "function": function}


def _write_call(function: Turn) -> str:
    text = json.dumps(function, ensure_ascii=False)
    return f"{CALL_BEGIN}{text}{CALL_END}"


def _load(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InputError(
            f"the arguments of a call and the parameters of a tool must be a JSON object, unlike "
            f"{text[:80]!r}",
            param="messages",
        )
    return cast("dict[str, Any]", value)


def _shield_all(value: Any, *, shield: Shield, depth: int = 0) -> Any:
    if depth > MAX_VALUE_DEPTH:
        raise InputError(
            f"the arguments of a call are nested deeper than {MAX_VALUE_DEPTH} levels",
            param="messages",
        )
    if isinstance(value, str):
        return shield(value)
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return [_shield_all(each, shield=shield, depth=depth + 1) for each in items]
    if isinstance(value, dict):
        table = cast("dict[str, Any]", value)
        return {
            shield(key): _shield_all(each, shield=shield, depth=depth + 1)
            for key, each in table.items()
        }
    return value
