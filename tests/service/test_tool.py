"""Which calls an answer may hold: what a grammar allows, and what is refused before."""

import json
from typing import Any

import pytest

from fluvial.engine.grammar import MAX_GRAMMAR_BYTES, GrammarCompiler
from fluvial.errors import InputError
from fluvial.service.tool import (
    MAX_TOOLS,
    NO_PARAMETERS,
    ToolUse,
    build_grammar,
    check_results,
)
from fluvial.types import Grammar, Message, Tool, ToolCall

CITY = json.dumps(
    {
        "type": "object",
        "properties": {"city": {"$ref": "#/$defs/name"}},
        "required": ["city"],
        "additionalProperties": False,
        "$defs": {"name": {"type": "string"}},
    }
)
TOOLS = (Tool(name="look_up", parameters=CITY), Tool(name="now", parameters=NO_PARAMETERS))
LOOK = '<tool_call>\n{"name": "look_up", "arguments": {"city": "K{}\\"ö"}}\n</tool_call>'
NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
WRONG = '<tool_call>\n{"name": "now", "arguments": {"a": 1}}\n</tool_call>'
OTHER = '<tool_call>\n{"name": "rm", "arguments": {}}\n</tool_call>'


class Bytes:
    """One token per byte, and an end."""

    vocab_size = 257
    eos_ids = frozenset({256})
    marks: dict[str, int] = {}

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""

    def encode(self, text: str) -> list[int]:
        return list(text.encode())


WORDS: Any = Bytes()
COMPILER = GrammarCompiler(WORDS)


def allows(grammar: Grammar | None, text: str) -> bool:
    assert grammar is not None
    state = COMPILER.open(grammar)
    for byte in text.encode():
        if not state.allow()[byte]:
            return False
        state.advance(byte)
    return state.accepting


def test_free_choice_allows_text_and_sound_calls_among_it() -> None:
    grammar = build_grammar(ToolUse(tools=TOOLS), answer=None)
    for text in ("", "Hi <tool_cal.", LOOK, NOW, f"{LOOK}\n{NOW}", f"Let me see.\n{NOW}\nSo."):
        assert allows(grammar, text), text
    for text in (WRONG, OTHER, f"{NOW}\n{OTHER}", "<tool_call>", "a<tool_call> b", NOW[:-5]):
        assert not allows(grammar, text), text


BARE = '{"name": "now", "arguments": {}}'
FENCED = '```json\n{\n  "name": "look_up",\n  "arguments": {\n    "city": "x"\n  }\n}\n```'


def test_bare_json_of_a_call_is_one_where_text_is_free() -> None:
    grammar = build_grammar(ToolUse(tools=TOOLS), answer=None)
    for text in (BARE, FENCED, '{"name": "rm"}', '{"name": "Ann"}', "```json\n[]\n```"):
        assert allows(grammar, text), text
    for text in (
        '{"name": "now", "arguments": {"a": 1}}',
        '{"name": "now", "arguments": 5}',
        BARE + " and more",
        BARE[:-1],
        FENCED.replace("city", "town"),
    ):
        assert not allows(grammar, text), text


def test_bare_json_is_no_call_where_json_may_be_the_answer() -> None:
    free = ToolUse(tools=TOOLS)
    assert free.list_bare(answer=None) == ("look_up", "now")
    assert free.list_bare(answer=Grammar(kind="json_object")) == ()
    assert ToolUse(tools=TOOLS, choice="required").list_bare(answer=None) == ()
    assert ToolUse(tools=TOOLS, choice="none").list_bare(answer=None) == ()


def test_one_call_at_most_where_calls_are_not_parallel() -> None:
    grammar = build_grammar(ToolUse(tools=TOOLS, parallel=False), answer=None)
    assert allows(grammar, f"See:\n{LOOK}")
    assert allows(grammar, "Hi")
    assert not allows(grammar, f"{NOW}\n{NOW}")


def test_required_and_named_calls_leave_no_text() -> None:
    required = build_grammar(ToolUse(tools=TOOLS, choice="required"), answer=None)
    assert allows(required, f"{LOOK}\n{NOW}")
    one = build_grammar(ToolUse(tools=TOOLS, choice="required", parallel=False), answer=None)
    assert not allows(one, f"{LOOK}\n{NOW}")
    named = build_grammar(ToolUse(tools=TOOLS, choice="named", name="now"), answer=None)
    assert allows(named, NOW)
    for grammar in (required, one, named):
        for text in ("", "Hi", f"Hi {NOW}", f"{NOW} Hi", WRONG, OTHER):
            assert not allows(grammar, text), text
    for text in (LOOK, f"{NOW}\n{NOW}"):
        assert not allows(named, text)


def test_calls_or_an_answer_of_the_format_asked_for() -> None:
    schema = Grammar(kind="json_schema", text='{"type": "array", "items": {"type": "integer"}}')
    grammar = build_grammar(ToolUse(tools=TOOLS), answer=schema)
    assert allows(grammar, "[1, 2]")
    assert allows(grammar, f"{LOOK}\n{NOW}")
    assert not allows(grammar, "text")
    assert not allows(grammar, f"[1] {NOW}")
    anything = build_grammar(ToolUse(tools=TOOLS), answer=Grammar(kind="json_object"))
    assert allows(anything, '{"a": 1}')
    with pytest.raises(InputError) as caught:
        build_grammar(ToolUse(tools=TOOLS), answer=Grammar(kind="regex", text="a"))
    assert caught.value.param == "response_format"


def test_without_offered_tools_only_the_answers_own_grammar_is_left() -> None:
    own = Grammar(kind="regex", text="a")
    assert build_grammar(ToolUse(), answer=None) is None
    assert build_grammar(ToolUse(), answer=own) is own
    none = ToolUse(tools=TOOLS, choice="none")
    assert none.offered == ()
    assert build_grammar(none, answer=own) is own


def with_parameters(schema: object) -> tuple[Tool, ...]:
    return (TOOLS[1], Tool(name="f", parameters=json.dumps(schema)))


@pytest.mark.parametrize(
    ("use", "param"),
    [
        (ToolUse(choice="required"), "tools"),
        (ToolUse(choice="named", name="f"), "tools"),
        (ToolUse(tools=TOOLS, choice="named", name="rm"), "tool_choice"),
        (ToolUse(tools=tuple(Tool(name=f"f{n}") for n in range(MAX_TOOLS + 1))), "tools"),
        (ToolUse(tools=with_parameters({"type": "string"})), "tools[1].function.parameters"),
        (ToolUse(tools=with_parameters({})), "tools[1].function.parameters"),
        (ToolUse(tools=with_parameters({"type": "wibble"})), "tools[1].function.parameters"),
        (
            ToolUse(tools=with_parameters({"type": "object", "not": {}})),
            "tools[1].function.parameters",
        ),
        (
            ToolUse(tools=with_parameters({"type": "object", "enum": ["x" * MAX_GRAMMAR_BYTES]})),
            "tools[1].function.parameters",
        ),
        (
            ToolUse(
                tools=tuple(
                    Tool(
                        name=f"f{n}",
                        parameters=json.dumps(
                            {"type": "object", "properties": {"a": {"enum": ["x" * 2000]}}}
                        ),
                    )
                    for n in range(40)
                )
            ),
            "tools",
        ),
    ],
)
def test_what_can_not_be_honoured_is_refused(use: ToolUse, param: str) -> None:
    with pytest.raises(InputError) as caught:
        build_grammar(use, answer=None)
    assert caught.value.param == param


def test_options_of_the_grammar_library_in_a_schema_do_not_reach_it() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "x-guidance": {"lenient": True, "whitespace_pattern": "[x]*"},
    }
    grammar = build_grammar(ToolUse(tools=with_parameters(schema)), answer=None)
    assert allows(grammar, '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>')
    assert not allows(grammar, '<tool_call>\n{"name": "f", "arguments": {xx"a": 1}}\n</tool_call>')


def test_many_tools_fit() -> None:
    tools = tuple(Tool(name=f"f{n}", parameters=CITY) for n in range(MAX_TOOLS))
    grammar = build_grammar(ToolUse(tools=tools), answer=None)
    assert allows(grammar, LOOK.replace("look_up", "f63"))


def test_results_answer_calls_before_them() -> None:
    call = ToolCall(id="a", name="now", arguments="{}")
    asked = Message(role="user", content="x")
    called = Message(role="assistant", content="", tool_calls=(call,))
    result = Message(role="tool", content="y", tool_call_id="a")
    check_results([asked, called, result])
    for wrong in ([asked, result], [asked, result, called]):
        with pytest.raises(InputError) as caught:
            check_results(wrong)
        assert caught.value.param == "messages[1].tool_call_id"
