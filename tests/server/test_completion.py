"""Tools, formats and several answers over HTTP."""

import json
from typing import Any

import pytest

from fluvial.types import Grammar, Message, ToolCall
from tests.server.conftest import Running
from tests.server.test_chat import HI, PATH, parse_stream

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
LOOK_UP = {"type": "function", "function": {"name": "look_up", "parameters": CITY, "strict": True}}
NOW = {"type": "function", "function": {"name": "now", "description": "The time."}}
CALLS = (
    'Let me see.\n<tool_call>\n{"name": "look_up", "arguments": {"city": "New  York"}}\n'
    '</tool_call>\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
)


def test_calls_come_as_openais_objects(server: Running) -> None:
    server.rig.engine.reply = lambda _: CALLS
    answer = server.client.post(PATH, json={**HI, "tools": [LOOK_UP, NOW]}).json()
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me see."
    one, two = choice["message"]["tool_calls"]
    assert one["function"] == {"name": "look_up", "arguments": '{"city": "New  York"}'}
    assert two["function"] == {"name": "now", "arguments": "{}"}
    assert one["type"] == "function"
    assert one["id"] != two["id"]
    call = server.rig.engine.calls[-1]
    assert [tool.name for tool in call.tools] == ["look_up", "now"]
    assert json.loads(call.tools[0].parameters) == CITY
    assert call.tools[1].description == "The time."
    assert call.sampling.grammar is not None
    assert call.sampling.grammar.kind == "lark"


def test_an_answer_of_calls_alone_has_no_content(server: Running) -> None:
    server.rig.engine.reply = lambda _: CALLS.removeprefix("Let me see.\n")
    body = {**HI, "tools": [LOOK_UP, NOW], "tool_choice": "required"}
    message = server.client.post(PATH, json=body).json()["choices"][0]["message"]
    assert message["content"] is None
    assert len(message["tool_calls"]) == 2


def test_calls_stream_as_openai_streams_them(server: Running) -> None:
    server.rig.engine.reply = lambda _: CALLS
    body = {**HI, "tools": [LOOK_UP, NOW], "stream": True}
    *chunks, done = parse_stream(server.client.post(PATH, json=body).text)
    assert done == "[DONE]"
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content", "") for delta in deltas) == "Let me see."
    pieces = [call for delta in deltas for call in delta.get("tool_calls", ())]
    heads = [piece for piece in pieces if "id" in piece]
    assert [(head["index"], head["type"], head["function"]) for head in heads] == [
        (0, "function", {"name": "look_up", "arguments": ""}),
        (1, "function", {"name": "now", "arguments": ""}),
    ]
    for index, expected in enumerate(['{"city": "New  York"}', "{}"]):
        parts = [piece["function"]["arguments"] for piece in pieces if piece["index"] == index]
        assert "".join(parts) == expected
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_tools_that_may_not_be_called_are_not_told(server: Running) -> None:
    server.rig.engine.reply = lambda _: CALLS
    body = {**HI, "tools": [LOOK_UP], "tool_choice": "none"}
    answer = server.client.post(PATH, json=body).json()
    assert answer["choices"][0]["message"]["content"] == CALLS
    assert answer["choices"][0]["finish_reason"] == "stop"
    call = server.rig.engine.calls[-1]
    assert (call.tools, call.sampling.grammar) == ((), None)


def test_calls_and_results_come_back_as_messages(server: Running) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "At 5."}]},
    ]
    answer = server.client.post(PATH, json={**HI, "messages": messages})
    assert answer.status_code == 200, answer.text
    assert server.rig.engine.calls[-1].messages == (
        Message(role="user", content="When?"),
        Message(
            role="assistant",
            content="",
            tool_calls=(ToolCall(id="c1", name="now", arguments="{}"),),
        ),
        Message(role="tool", content="At 5.", tool_call_id="c1"),
    )


@pytest.mark.parametrize(
    ("given", "grammar"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, Grammar(kind="json_object")),
        (
            {"type": "json_schema", "json_schema": {"name": "c", "schema": CITY, "strict": True}},
            Grammar(kind="json_schema", text=json.dumps(CITY)),
        ),
        ({"type": "json_schema", "json_schema": {"name": "c"}}, Grammar(kind="json_object")),
        (
            {"type": "grammar", "syntax": "regex", "definition": "é+"},
            Grammar(kind="regex", text="é+"),
        ),
        (
            {"type": "grammar", "syntax": "lark", "definition": "start: /a/"},
            Grammar(kind="lark", text="start: /a/"),
        ),
    ],
)
def test_formats_reach_the_engine(
    server: Running, given: dict[str, Any], grammar: Grammar | None
) -> None:
    answer = server.client.post(PATH, json={**HI, "response_format": given})
    assert answer.status_code == 200, answer.text
    assert server.rig.engine.calls[-1].sampling.grammar == grammar
    session = server.create_session()
    assert server.say(session, "hi", response_format=given).status_code == 200
    assert server.rig.engine.calls[-1].sampling.grammar == grammar


def function(**given: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "f", **given}}]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": "json_object"}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        (
            {"response_format": {"type": "text", "json_schema": {"name": "a"}}},
            "response_format",
        ),
        ({"response_format": {"type": "grammar", "syntax": "lark"}}, "response_format"),
        (
            {"response_format": {"type": "grammar", "syntax": "gbnf", "definition": ""}},
            "response_format.syntax",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": []}}},
            "response_format.json_schema.schema",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"schema": {"a": "\ud800"}},
                }
            },
            "response_format.json_schema.schema",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].type"),
        ({"tools": function(name="a b")}, "tools[0].function.name"),
        ({"tools": function(name="a" * 65)}, "tools[0].function.name"),
        ({"tools": function(name='a"}')}, "tools[0].function.name"),
        ({"tools": function(parameters="{}")}, "tools[0].function.parameters"),
        ({"tools": function(parameters={"type": "array"})}, "tools[0].function.parameters"),
        (
            {"tools": function(parameters={"type": "object", "not": {}})},
            "tools[0].function.parameters",
        ),
        ({"tools": function(surprise=1)}, "tools[0].function.surprise"),
        ({"tools": [*function(), *function()]}, "tools"),
        ({"tools": function() * 65}, "tools"),
        ({"tools": function(), "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": function(), "tool_choice": {"type": "function"}}, "tool_choice"),
        (
            {"tools": function(), "tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice",
        ),
        ({"tool_choice": "required"}, "tools"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"top_logprobs": 2}, "top_logprobs"),
    ],
)
def test_what_can_not_be_honoured_is_refused_before_anything_is_generated(
    shared: Running, change: dict[str, Any], param: str
) -> None:
    before = len(shared.rig.engine.calls)
    answer = shared.client.post(
        PATH, content=json.dumps({**HI, **change}), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert len(shared.rig.engine.calls) == before


def test_deep_schemas_are_refused(shared: Running) -> None:
    deep = '{"a":' * 900 + "1" + "}" * 900
    tool = f'{{"type":"function","function":{{"name":"f","parameters":{deep}}}}}'
    for field in (
        f'"tools":[{tool}]',
        f'"response_format":{{"type":"json_schema","json_schema":{{"schema":{deep}}}}}',
    ):
        answer = shared.client.post(
            PATH,
            content=json.dumps(HI)[:-1] + "," + field + "}",
            headers={"content-type": "application/json"},
        )
        # What has no tools is for the engine to refuse; the double has none.
        assert answer.status_code == 400 or "tools" not in field, answer.text
        assert answer.status_code < 500


def test_several_answers_are_choices(server: Running) -> None:
    texts = iter(["one", "two and more", "three"])
    server.rig.engine.reply = lambda _: next(texts)
    answer = server.client.post(PATH, json={**HI, "n": 3}).json()
    found = [(each["index"], each["message"]["content"]) for each in answer["choices"]]
    assert found == [(0, "one"), (1, "two and more"), (2, "three")]
    usage = answer["usage"]
    assert usage["completion_tokens"] == 5
    assert usage["prompt_tokens"] == len("hi there") + 4
    assert len(server.rig.engine.calls) == 3
    assert not server.rig.engine.active


def test_several_answers_stream_side_by_side(server: Running) -> None:
    texts = iter(["a b c", "d e f g"])
    server.rig.engine.reply = lambda _: next(texts)
    server.rig.engine.delay_s = 0.01
    body = {**HI, "n": 2, "stream": True, "stream_options": {"include_usage": True}}
    *chunks, usage, done = parse_stream(server.client.post(PATH, json=body).text)
    assert done == "[DONE]"
    assert usage["usage"]["completion_tokens"] == 7
    choices = [chunk["choices"][0] for chunk in chunks]
    for index, expected in enumerate(["a b c", "d e f g"]):
        own = [choice for choice in choices if choice["index"] == index]
        assert own[0]["delta"]["role"] == "assistant"
        assert "".join(each["delta"].get("content", "") for each in own) == expected
        assert [each["finish_reason"] for each in own if each["finish_reason"]] == ["stop"]
    order = [choice["index"] for choice in choices]
    assert order != sorted(order)


def test_one_failing_answer_ends_them_all(server: Running) -> None:
    server.rig.engine.fail_after = 2
    assert server.client.post(PATH, json={**HI, "n": 3}).status_code == 500
    text = server.client.post(PATH, json={**HI, "n": 3, "stream": True}).text
    assert "event: error" in text
    assert "[DONE]" not in text
    server.wait_for("/healthz", lambda _: not server.rig.engine.active)


def test_leaving_stops_all_answers(server: Running) -> None:
    server.rig.engine.delay_s = 0.02
    server.rig.engine.reply = lambda _: "word " * 1000
    body = {**HI, "n": 3, "stream": True}
    with server.client.stream("POST", PATH, json=body) as answer:
        lines = answer.iter_lines()
        while "word" not in next(lines):
            pass
    server.wait_for("/healthz", lambda _: not server.rig.engine.active)


@pytest.mark.parametrize(("field", "value"), [("n", 2), ("tools", [NOW])])
def test_a_session_keeps_one_answer_of_text(server: Running, field: str, value: object) -> None:
    session = server.create_session()
    answer = server.say(session, "hi", **{field: value})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "unsupported"
    assert answer.json()["error"]["param"] == field
    assert server.client.get(f"/v1/sessions/{session}/messages").json()["data"] == []


def test_a_session_takes_no_results_of_tools(server: Running) -> None:
    session = server.create_session()
    body = {
        "model": "scripted",
        "messages": [{"role": "tool", "content": "x", "tool_call_id": "c"}],
        "fluvial": {"session": session},
    }
    answer = server.client.post(PATH, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages[0].role"


def test_tools_that_fill_the_context_are_refused_at_once(server: Running) -> None:
    tool = function(description="x" * 9_000_0)
    answer = server.client.post(PATH, json={**HI, "tools": tool})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_the_schema_of_the_body_is_described(server: Running) -> None:
    schema = server.client.get("/openapi.json").json()
    body = schema["paths"]["/v1/chat/completions"]["post"]["requestBody"]
    properties = body["content"]["application/json"]["schema"]["properties"]
    assert properties["logit_bias"]["type"] == "object"
    assert {"tools", "tool_choice", "response_format", "n", "top_k"} <= set(properties)
