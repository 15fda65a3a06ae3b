"""Chat completions over HTTP: OpenAI's shape, refusals by name, and sessions beside it."""

import json
from typing import Any

import httpx2
import pytest

from fluvial.errors import StorageError
from fluvial.testing import Rig
from fluvial.types import Sampling
from tests.server.conftest import Running

PATH = "/v1/chat/completions"
HI = {"model": "scripted", "messages": [{"role": "user", "content": "hi there"}]}


def parse_stream(text: str) -> list[Any]:
    """Take the data of each event, `[DONE]` as it is."""
    datas = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [data if data == "[DONE]" else json.loads(data) for data in datas]


def test_a_completion_has_openais_shape(server: Running) -> None:
    answer = server.client.post(PATH, json=HI).json()
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "scripted"
    choice = answer["choices"][0]
    assert choice["message"]["content"] == "You said: hi there"
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")
    assert answer["usage"]["total_tokens"] == (
        answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"]
    )
    assert "fluvial" not in answer


def test_a_stream_says_role_text_end_usage_and_done(server: Running) -> None:
    body = {**HI, "stream": True, "stream_options": {"include_usage": True}}
    answer = server.client.post(PATH, json=body)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    *chunks, done = parse_stream(answer.text)
    assert done == "[DONE]"
    assert {chunk["id"] for chunk in chunks} == {chunks[0]["id"]}
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-2]["choices"][0] == {
        "index": 0,
        "delta": {},
        "logprobs": None,
        "finish_reason": "stop",
    }
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 4
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks[:-1])
    assert text == server.client.post(PATH, json=HI).json()["choices"][0]["message"]["content"]


def test_the_answer_is_stopped_at_max_tokens(server: Running) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        answer = server.client.post(PATH, json={**HI, name: 2}).json()
        assert answer["choices"][0]["message"]["content"] == "You said:"
        assert answer["choices"][0]["finish_reason"] == "length"


def test_sampling_reaches_the_engine(server: Running) -> None:
    given = {"temperature": 0, "top_p": 0.5, "seed": -3, "stop": "END", "max_tokens": 9}
    assert server.client.post(PATH, json={**HI, **given, "user": "ann"}).status_code == 200
    call = server.rig.engine.calls[-1]
    assert call.sampling == Sampling(**{**given, "stop": ("END",)})
    assert call.lane == "local/ann"


def test_every_sampling_field_reaches_the_engine(server: Running) -> None:
    given = {
        "top_k": 40,
        "min_p": 0.05,
        "typical_p": 0.9,
        "repetition_penalty": 1.1,
        "presence_penalty": -1,
        "frequency_penalty": 0.5,
        "stop_token_ids": [7, 8],
        "ignore_eos": True,
    }
    body = {**HI, **given, "logit_bias": {"50": -100, "7": 2.5}, "logprobs": True}
    assert server.client.post(PATH, json={**body, "top_logprobs": 3}).status_code == 200
    sampling = server.rig.engine.calls[-1].sampling
    expected = {**given, "stop_token_ids": (7, 8), "logit_bias": ((50, -100), (7, 2.5))}
    assert sampling == Sampling(**expected, logprobs=3)
    assert server.client.post(PATH, json={**HI, "top_k": -1}).status_code == 200
    assert server.rig.engine.calls[-1].sampling == Sampling()
    assert server.client.post(PATH, json={**HI, "logprobs": True}).status_code == 200
    assert server.rig.engine.calls[-1].sampling.logprobs == 0


def test_text_parts_and_neutral_defaults_are_understood(server: Running) -> None:
    body = {
        "model": "scripted",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "assistant", "content": "ok", "refusal": None, "annotations": []},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
        ],
        "n": 1,
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "response_format": {"type": "text"},
        "tools": None,
        "logprobs": False,
    }
    answer = server.client.post(PATH, json=body)
    assert answer.json()["choices"][0]["message"]["content"] == "You said: ab"
    assert [m.role for m in server.rig.engine.calls[-1].messages] == [
        "system",
        "assistant",
        "user",
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("functions", [{"name": "f"}]),
        ("tool_choice", {"type": "allowed_tools", "allowed_tools": {}}),
        ("tool_choice", "whatever"),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("prediction", {"type": "content", "content": "x"}),
        ("reasoning_effort", "high"),
        ("store", True),
        ("metadata", {"a": "b"}),
        ("service_tier", "flex"),
        ("web_search_options", {}),
        ("verbosity", "low"),
        ("best_of", 3),
        ("flavour", "sweet"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    shared: Running, field: str, value: object
) -> None:
    before = len(shared.rig.engine.calls)
    answer = shared.client.post(PATH, json={**HI, field: value})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("unsupported", field)
    assert error["type"] == "invalid_request_error"
    assert field in error["message"]
    assert len(shared.rig.engine.calls) == before


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": [""]}, "stop[0]"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "developer", "content": "x"}]}, "messages[0].role"),
        (
            {"messages": [{"role": "user", "content": "x", "tool_call_id": "a"}]},
            "messages[0].tool_call_id",
        ),
        (
            {"messages": [{"role": "tool", "content": "x", "tool_call_id": "nobody"}]},
            "messages[0].tool_call_id",
        ),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"n": True}, "n"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 1.5}, "min_p"),
        ({"typical_p": 0}, "typical_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"frequency_penalty": "1"}, "frequency_penalty"),
        ({"logit_bias": {"50256": -101}}, "logit_bias[0][1]"),
        ({"logit_bias": {"word": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"٣": 1}}, "logit_bias"),
        ({"logit_bias": [1]}, "logit_bias[0]"),
        ({"logit_bias": {str(n): 1 for n in range(1025)}}, "logit_bias"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"ignore_eos": 1}, "ignore_eos"),
        ({"logprobs": 1}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"messages": [{"role": "user", "content": "x", "name": "ann"}]}, "messages[0].name"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content",
        ),
        ({"model": None}, "model"),
        ({"model": 7}, "model"),
        ({"fluvial": {}}, "fluvial.session"),
        ({"fluvial": {"session": "s", "budget": 3}}, "fluvial.budget"),
    ],
)
def test_a_wrong_value_is_named(shared: Running, change: dict[str, Any], param: str) -> None:
    before = len(shared.rig.engine.calls)
    answer = shared.client.post(
        PATH, content=json.dumps({**HI, **change}), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert len(shared.rig.engine.calls) == before


def test_limits_that_differ_are_refused(shared: Running) -> None:
    body = {**HI, "max_tokens": 3, "max_completion_tokens": 4}
    assert shared.client.post(PATH, json=body).status_code == 400


def test_a_model_that_is_not_served_is_a_404(shared: Running) -> None:
    answer = shared.client.post(PATH, json={**HI, "model": "gpt-9"})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    assert "scripted" in answer.json()["error"]["message"]


def test_a_conversation_that_is_too_long_says_the_numbers(server: Running) -> None:
    session = server.create_session()
    for target in (None, session):
        answer = server.say(target, "x" * 3000)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
        assert "3004" in error["message"]
        assert "2048" in error["message"]
    assert server.client.get(f"/v1/sessions/{session}/messages").json()["data"] == []
    assert server.say(session, "short").status_code == 200


def test_a_full_queue_is_a_429_that_stores_nothing(server: Running) -> None:
    server.rig.engine.limit_waiting = 0
    session = server.create_session()
    answer = server.say(session, "hi")
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "busy"
    assert answer.headers["retry-after"] == "3"
    assert server.client.get(f"/v1/sessions/{session}/messages").json()["data"] == []


def test_a_failing_engine_is_an_error_and_not_an_answer(server: Running) -> None:
    server.rig.engine.fail_after = 2
    session = server.create_session()
    answer = server.say(session, "hi")
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "broke" not in answer.text
    messages = server.client.get(f"/v1/sessions/{session}/messages").json()["data"]
    assert (messages[1]["content"], messages[1]["finish"]) == ("You said:", "error")
    server.rig.engine.fail_after = None
    assert server.say(session, "again").status_code == 200


def test_a_failure_in_mid_stream_is_an_error_event_without_done(server: Running) -> None:
    server.rig.engine.fail_after = 2
    with server.stream(None) as answer:
        text = "\n".join(answer.iter_lines())
    assert "event: error" in text
    assert parse_stream(text)[-1]["error"]["type"] == "server_error"
    assert "[DONE]" not in text


def test_a_disk_that_fills_up_in_mid_answer_ends_it(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = server.create_session()

    def refuse(*_: object, **__: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(server.rig.store, "update_message", refuse)
    with server.stream(session) as answer:
        text = "\n".join(answer.iter_lines())
    assert parse_stream(text)[-1]["error"]["code"] == "storage_full"
    assert not server.client.get(f"/v1/sessions/{session}").json()["busy"]


def test_only_what_is_new_is_sent_and_the_server_puts_the_rest_before_it(server: Running) -> None:
    session = server.create_session()
    first = server.say(session, "one", fluvial={"parent": None}).json()
    receipt = first["fluvial"]
    assert (receipt["session"], receipt["version"], receipt["passages"]) == (session, 0, [])
    second = server.say(session, "two", fluvial={"parent": receipt["message"]})
    assert second.status_code == 200
    assert [(m.role, m.content) for m in server.rig.engine.calls[-1].messages] == [
        ("user", "one"),
        ("assistant", "You said: one"),
        ("user", "two"),
    ]
    stored = server.client.get(f"/v1/sessions/{session}/messages").json()["data"]
    assert [m["id"] for m in stored[:2]] == [receipt["user_message"], receipt["message"]]
    assert server.rig.engine.calls[-1].lane == session


def test_the_session_may_be_named_in_a_header(server: Running) -> None:
    session = server.create_session()
    headers = {"Fluvial-Session": session}
    answer = server.client.post(PATH, json=HI, headers=headers)
    assert answer.json()["fluvial"]["session"] == session
    wrong = {**HI, "fluvial": {"session": "sess_other"}}
    assert server.client.post(PATH, json=wrong, headers=headers).status_code == 400


@pytest.mark.parametrize(
    "roles",
    [
        ["assistant"],
        ["user", "assistant"],
        ["user", "system"],
        ["system"],
        ["user", "system", "user"],
    ],
)
def test_a_session_takes_new_messages_of_the_user_only(shared: Running, roles: list[str]) -> None:
    session = shared.create_session()
    body = {
        "model": "scripted",
        "messages": [{"role": role, "content": "x"} for role in roles],
        "fluvial": {"session": session},
    }
    answer = shared.client.post(PATH, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("messages")
    assert shared.client.get(f"/v1/sessions/{session}/messages").json()["data"] == []


def test_a_system_message_may_begin_an_empty_session_only(server: Running) -> None:
    session = server.create_session()
    body = {
        "model": "scripted",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "x"}],
        "fluvial": {"session": session},
    }
    assert server.client.post(PATH, json=body).status_code == 200
    stored = server.client.get(f"/v1/sessions/{session}/messages").json()["data"]
    assert [m["role"] for m in stored] == ["system", "user", "assistant"]
    assert server.client.post(PATH, json=body).status_code == 400


def test_two_tabs_can_not_write_over_each_other(server: Running) -> None:
    session = server.create_session()
    seen = server.say(session, "from both").json()["fluvial"]["message"]
    assert server.say(session, "tab one", fluvial={"parent": seen}).status_code == 200
    late = server.say(session, "tab two", fluvial={"parent": seen})
    assert late.status_code == 409
    assert late.json()["error"]["code"] == "session_changed"
    assert late.headers["x-should-retry"] == "false"
    assert server.say(session, "tab two", fluvial={"parent": None}).status_code == 409
    stored = server.client.get(f"/v1/sessions/{session}/messages").json()["data"]
    assert "tab two" not in [m["content"] for m in stored]


def test_one_answer_at_a_time(server: Running) -> None:
    server.rig.engine.delay_s = 0.02
    server.rig.engine.reply = lambda _: "word " * 1000
    session = server.create_session()
    with server.stream(session) as answer:
        lines = answer.iter_lines()
        assert next(lines)
        busy = server.say(session, "me too")
        assert busy.status_code == 409
        assert busy.json()["error"]["code"] == "session_busy"
        assert server.client.get(f"/v1/sessions/{session}").json()["busy"]
    assert len(server.client.get(f"/v1/sessions/{session}/messages").json()["data"]) == 2


def test_a_client_that_leaves_a_stream_frees_the_slot(server: Running) -> None:
    server.rig.engine.delay_s = 0.02
    server.rig.engine.reply = lambda _: "word " * 1000
    session = server.create_session()
    with server.stream(session) as answer:
        lines = answer.iter_lines()
        while "word" not in next(lines):
            pass
    path = f"/v1/sessions/{session}"
    server.wait_for(path, lambda found: not found["busy"])
    assert not server.rig.engine.active
    answer = server.client.get(f"{path}/messages").json()["data"][1]
    assert answer["finish"] == "cancelled"
    assert answer["content"].startswith("word")


def test_a_client_that_gives_up_waiting_frees_the_slot(server: Running) -> None:
    server.rig.engine.delay_s = 0.02
    server.rig.engine.reply = lambda _: "word " * 1000
    session = server.create_session()
    body = {**HI, "fluvial": {"session": session}}
    with (
        httpx2.Client(base_url=server.url, timeout=0.3) as client,
        pytest.raises(httpx2.ReadTimeout),
    ):
        client.post(PATH, json=body)
    server.wait_for(f"/v1/sessions/{session}", lambda found: not found["busy"])
    assert not server.rig.engine.active


def test_passages_of_a_document_stand_before_the_question_in_the_prompt_only(
    server: Running,
) -> None:
    session = server.create_session()
    path = f"/v1/sessions/{session}"
    text = "The zebra lives on the savanna and eats grass.\n\n" + "Nothing to see here. " * 200
    reading = server.client.post(f"{path}/readings", json={"name": "z.txt", "text": text}).json()
    answer = server.say(session, "What does the zebra eat?").json()
    passages = answer["fluvial"]["passages"]
    assert [(p["reading"], p["name"]) for p in passages] == [(reading["id"], "z.txt")]
    assert 0 < passages[0]["tokens"] <= 512
    prompt = server.rig.engine.calls[-1].messages
    assert "eats grass" in prompt[-1].content
    assert prompt[-1].content.endswith("What does the zebra eat?")
    stored = server.client.get(f"{path}/messages").json()["data"]
    assert stored[0]["content"] == "What does the zebra eat?"
    assert [message["passages"] for message in stored] == [[], passages]
    server.say(session, "Completely unrelated: hello")
    assert server.rig.engine.calls[-1].messages[0].content == "What does the zebra eat?"


def test_passages_shrink_before_the_conversation_is_refused(server: Running) -> None:
    session = server.create_session()
    path = f"/v1/sessions/{session}"
    text = "The zebra lives on the savanna and eats grass every single day.\n\n" * 100
    server.client.post(f"{path}/readings", json={"name": "z.txt", "text": text})
    question = "What does the zebra eat? " + "please " * 240
    answer = server.say(session, question)
    assert answer.status_code == 200
    assert answer.json()["fluvial"]["passages"] == []


def test_a_removed_document_is_not_quoted(server: Running) -> None:
    session = server.create_session()
    path = f"/v1/sessions/{session}"
    body = {"name": "z.txt", "text": "The zebra eats grass. " * 20}
    reading = server.client.post(f"{path}/readings", json=body).json()
    server.wait_for(f"{path}/readings", lambda found: found["data"][0]["status"] == "done")
    quoted = server.say(session, "zebra?").json()["fluvial"]["passages"]
    server.client.delete(f"{path}/readings/{reading['id']}")
    assert server.say(session, "zebra?").json()["fluvial"]["passages"] == []
    # What stood beside an earlier question is still told.
    stored = server.client.get(f"{path}/messages").json()["data"]
    assert [message["passages"] for message in stored] == [[], quoted, [], []]
    assert [note["name"] for note in quoted] == ["z.txt"]


def test_long_messages_are_learned_from_and_short_ones_are_not(server: Running) -> None:
    session = server.create_session()
    path = f"/v1/sessions/{session}/readings"
    server.say(session, "thanks")
    assert server.client.get(path).json()["data"] == []
    long = "I always write about qdiscs, and how packets leave the queue."
    server.say(session, long)
    readings = server.wait_for(path, lambda found: found["data"][0]["status"] == "done")["data"]
    assert [(r["kind"], r["bytes"]) for r in readings] == [("message", len(long))]
    assert server.client.get(f"/v1/sessions/{session}").json()["version"] == 1


def test_a_frozen_session_does_not_learn_from_messages(server: Running) -> None:
    session = server.create_session()
    server.client.patch(f"/v1/sessions/{session}", json={"learning": "frozen"})
    server.say(session, "I always write about qdiscs, and how packets leave the queue.")
    assert server.client.get(f"/v1/sessions/{session}/readings").json()["data"] == []


def test_a_new_version_takes_over_between_tokens(server: Running) -> None:
    rig: Rig = server.rig
    rig.engine.delay_s = 0.02
    rig.engine.reply = lambda _: "word " * 1000
    session = server.create_session()
    path = f"/v1/sessions/{session}"
    with server.stream(session) as answer:
        lines = answer.iter_lines()
        while "word" not in next(lines):
            pass
        server.client.post(f"{path}/readings", json={"name": "a.txt", "text": "new " * 50})
        server.wait_for(path, lambda found: found["version"] == 1)
        seen = len(rig.engine.calls[-1].adapters)
        while f"{session}/1" not in rig.engine.calls[-1].adapters:
            assert len(rig.engine.calls[-1].adapters) < seen + 100
            next(lines)
        server.client.post(f"{path}/stop")
        end = next(line for line in lines if '"finish":"cancelled"' in line)
    assert json.loads(end.removeprefix("data: "))["fluvial"]["version"] == 1
    assert rig.engine.calls[-1].adapters[0] is None
