"""Tools in prompts: by the template where it knows them, as plain text where it does not."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluvial.errors import InputError, TooLargeError
from fluvial.model import gguf
from fluvial.model.template import CHATML, MAX_CONTENT_CHARS, Template
from fluvial.model.tokenizer import Tokenizer
from fluvial.types import Message, Tool, ToolCall
from tests.model.sample import CONTROLS, TOKENS, USERS, make_metadata

WORDS = Tokenizer.from_gguf(make_metadata())
SPECIALS = {TOKENS.index(token) for token in {*CONTROLS, *USERS}}
CITY = '{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}'
TOOL = Tool(name="look_up", description="Say é.", parameters=CITY)
CALL = ToolCall(id="call_1", name="look_up", arguments='{"city": "Köln", "n": [1, null]}')
ASKED = Message(role="user", content="Where?")
CALLED = Message(role="assistant", content="", tool_calls=(CALL,))
RESULT = Message(role="tool", content="There.", tool_call_id="call_1")

KNOWING = (
    "{% if tools %}TOOLS {% for tool in tools %}{{ tool | tojson }}{% endfor %}"
    "{{ '\n' }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for call in m.tool_calls %}"
    '<tool_call>\n{"name": "{{ call.function.name }}", '
    '"arguments": {{ call.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}<|im_end|>\n{% endfor %}"
)


@pytest.fixture(scope="module")
def knowing() -> Iterator[Template]:
    template = Template(KNOWING, names={})
    yield template
    template.close()


@pytest.fixture(scope="module")
def plain() -> Iterator[Template]:
    template = Template(CHATML, names={})
    yield template
    template.close()


def write(template: Template, messages: list[Message], *tools: Tool) -> str:
    ids = template.encode(messages, tokenizer=WORDS, tools=tools)
    return b"".join(
        TOKENS[i].encode() if i in SPECIALS else WORDS.token_bytes(i) for i in ids
    ).decode()


def test_a_template_that_knows_tools_gets_them_in_openais_form(knowing: Template) -> None:
    assert knowing.knows_tools
    text = write(knowing, [ASKED, CALLED, RESULT], TOOL)
    first, rest = text.split("\n", 1)
    assert json.loads(first.removeprefix("TOOLS ")) == {
        "type": "function",
        "function": {"name": "look_up", "description": "Say é.", "parameters": json.loads(CITY)},
    }
    assert rest == (
        "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n<tool_call>\n"
        '{"name": "look_up", "arguments": {"city": "Köln", "n": [1, null]}}\n</tool_call><|im_end|>'
        "\n<|im_start|>tool\nThere.<|im_end|>\n"
    )
    assert "TOOLS" not in write(knowing, [ASKED])


def test_any_other_template_gets_a_text_of_ours(plain: Template) -> None:
    assert not plain.knows_tools
    again = Message(role="tool", content="And there.", tool_call_id="call_1")
    text = write(plain, [ASKED, CALLED, RESULT, again], TOOL)
    system, *turns = text.split("<|im_start|>")[1:]
    assert system.startswith("system\nYou can call functions.")
    assert '"name": "look_up", "description": "Say é."' in system
    assert '<tool_call>\n{"name": "NAME", "arguments"' in system
    assert turns == [
        "user\nWhere?<|im_end|>\n",
        'assistant\n<tool_call>\n{"name": "look_up", "arguments": {"city": "Köln", "n": [1, null]}}'
        "\n</tool_call><|im_end|>\n",
        "user\n<tool_response>\nThere.\n</tool_response>\n"
        "<tool_response>\nAnd there.\n</tool_response><|im_end|>\n",
        "assistant\n",
    ]


def test_the_text_of_ours_goes_behind_the_systems_own(plain: Template) -> None:
    own = Message(role="system", content="Be brief.")
    text = write(plain, [own, ASKED], TOOL)
    assert text.startswith("<|im_start|>system\nBe brief.\n\nYou can call functions.")
    assert text.count("system\n") == 1
    said = Message(role="assistant", content="Let me see.", tool_calls=(CALL, CALL))
    assert "Let me see.\n<tool_call>" in write(plain, [ASKED, said])


def test_without_tools_a_prompt_is_what_it_was(plain: Template) -> None:
    assert write(plain, [ASKED]) == "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    "source",
    [
        "{# <tool_call> #}{% for m in messages %}{{ m.content }}{% endfor %}",
        "<tool_call>{% if tools %}{{ raise_exception('no tools') }}{% endif %}",
        "{{ tools | tojson }}{% for m in messages %}<tool_call><function={{ m.tool_calls }}>"
        "{% endfor %}",
    ],
)
def test_a_template_that_writes_calls_in_another_form_does_not_know_ours(source: str) -> None:
    template = Template(source, names={})
    assert not template.knows_tools
    template.close()


fragments = st.sampled_from(
    [*sorted({*CONTROLS, *USERS}), "<|", "|>", "im_end", '"', "\\", "}", "<tool_call>", "\n", "字"]
)
hostile = st.lists(fragments, max_size=6).map("".join) | st.text(max_size=10)
values = st.recursive(
    hostile | st.integers(-9, 9) | st.none(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(hostile, inner, max_size=2),
    max_leaves=5,
)


@given(table=st.dictionaries(hostile, values, max_size=3), text=hostile)
@settings(max_examples=150, deadline=None)
def test_nothing_in_tools_calls_or_results_becomes_a_special_token(
    knowing: Template, plain: Template, table: dict[str, Any], text: str
) -> None:
    arguments = json.dumps(table)
    tool = Tool(name="f", description=text, parameters=arguments)
    call = ToolCall(id=text, name="f", arguments=arguments)
    messages = [
        ASKED,
        Message(role="assistant", content=text, tool_calls=(call,)),
        Message(role="tool", content=text, tool_call_id=text),
    ]
    start, end, mark = "<|im_start|>", "<|im_end|>", "<tool_call>"
    expected = {
        knowing: [start, end, start, mark, end, start, end],
        # The text of ours shows one call, too; at the end the answer begins.
        plain: [start, mark, end, start, end, start, mark, end, start, end, start],
    }
    for template, marks in expected.items():
        ids = template.encode(messages, tokenizer=WORDS, tools=[tool])
        assert [TOKENS[token] for token in ids if token in SPECIALS] == marks


@pytest.mark.parametrize("arguments", ["", "[]", "1", "{", '"text"', "{'a': 1}"])
def test_arguments_that_are_no_object_are_refused(plain: Template, arguments: str) -> None:
    call = ToolCall(id="a", name="f", arguments=arguments)
    with pytest.raises(InputError, match="JSON object"):
        write(plain, [ASKED, Message(role="assistant", content="", tool_calls=(call,))])


def test_arguments_are_bounded_in_depth_and_size(plain: Template) -> None:
    for depth in (70, 5_000):
        deep = '{"a":' * depth + "1" + "}" * depth
        call = ToolCall(id="a", name="f", arguments=deep)
        with pytest.raises(InputError, match="deeper|JSON object"):
            write(plain, [ASKED, Message(role="assistant", content="", tool_calls=(call,))])
    with pytest.raises(TooLargeError):
        write(plain, [ASKED], Tool(name="f", description="a" * (MAX_CONTENT_CHARS + 1)))


@pytest.mark.slow
def test_prompts_with_tools_equal_transformers_for_the_default_model(
    default_model_path: Any,
) -> None:
    from tests.model.oracle import build_qwen2

    metadata = gguf.read(default_model_path).metadata
    words, template = Tokenizer.from_gguf(metadata), Template.from_gguf(metadata)
    assert template.knows_tools
    function = {"name": "look_up", "arguments": json.loads(CALL.arguments)}
    turns = [
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": function}]},
        {"role": "tool", "content": "There."},
    ]
    tool = {"name": "look_up", "description": "Say é.", "parameters": json.loads(CITY)}
    expected = build_qwen2(metadata).apply_chat_template(
        turns,
        tools=[{"type": "function", "function": tool}],
        add_generation_prompt=True,
        return_dict=False,
    )
    messages = [ASKED, CALLED, RESULT]
    assert template.encode(messages, tokenizer=words, tools=[TOOL]) == expected
    template.close()
