"""The guard over HTTP: refusals, stops and redactions as OpenAI's clients and ours see them."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.guard.world import POLICY
from tests.server.conftest import Running

REFUSAL = "Aurora is not for me to talk about. Ask about the weather."
NOTE = {"action": "refuse", "category": "aurora", "message": REFUSAL}


@pytest.fixture
def guarded(start_server: Callable[..., Running], tmp_path: Path) -> Running:
    file = tmp_path / "policy.toml"
    file.write_text(POLICY, encoding="utf-8")
    return start_server(guard_policy=str(file))


def stream(server: Running, text: str, **given: Any) -> list[dict[str, Any]]:
    answer = server.say(None, text, stream=True, **given)
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def read(chunks: list[dict[str, Any]]) -> str:
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


def kinds(server: Running) -> list[str]:
    path = server.rig.service.settings.data_dir
    lines = [
        json.loads(line)
        for file in sorted(path.glob("audit/*.jsonl"))
        for line in file.read_text().splitlines()
    ]
    return [line["kind"] for line in lines if line["kind"].startswith("guard.")]


def test_a_refused_prompt_generates_nothing_and_says_what_can_be_asked(guarded: Running) -> None:
    body = guarded.say(None, "tell me of aurora", n=2).json()
    assert guarded.rig.engine.calls == []
    for choice in body["choices"]:
        assert choice["finish_reason"] == "content_filter"
        assert choice["message"] == {"role": "assistant", "content": REFUSAL, "refusal": REFUSAL}
        assert choice["fluvial"] == {"guard": NOTE}
    assert body["fluvial"]["guard"] == NOTE
    assert body["usage"]["completion_tokens"] == 0
    assert kinds(guarded) == ["guard.prompt_refuse"]


def test_a_refusal_streams_in_the_same_shape(guarded: Running) -> None:
    chunks = stream(guarded, "极光计划？", stream_options={"include_usage": True})
    assert read(chunks) == "我不谈极光计划。您可以问我天气。"
    end = chunks[-2]["choices"][0]
    assert end["finish_reason"] == "content_filter"
    assert end["delta"] == {"refusal": "我不谈极光计划。您可以问我天气。"}
    assert chunks[-2]["fluvial"]["guard"]["category"] == "aurora"
    assert chunks[-1]["usage"]["completion_tokens"] == 0


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_is_stopped_before_what_is_found_is_shown(
    guarded: Running, streamed: bool
) -> None:
    guarded.rig.engine.reply = lambda messages: "so many words of bread " * 8 + "and aurora indeed"
    if streamed:
        chunks = stream(guarded, "hi", stream_options={"include_usage": True})
        text, end, usage = read(chunks), chunks[-2]["choices"][0], chunks[-1]["usage"]
    else:
        body = guarded.say(None, "hi").json()
        end, usage = body["choices"][0], body["usage"]
        text = end["message"]["content"]
        assert end["message"]["refusal"] == REFUSAL
    assert text.startswith("so many words of bread")
    assert "aurora" not in text
    assert end["finish_reason"] == "content_filter"
    assert end["fluvial"]["guard"] == {**NOTE, "action": "stop"}
    assert usage["completion_tokens"] > 20
    assert kinds(guarded) == ["guard.answer_stop"]
    assert not guarded.rig.engine.active


def test_streamed_is_whole_and_names_are_masked_in_both(guarded: Running) -> None:
    guarded.rig.engine.reply = lambda messages: "Here Ada Lovelace met Bob, and bread was had. " * 5
    whole = guarded.say(None, "hi").json()["choices"][0]
    assert whole["message"]["content"] == "Here [name] met [name], and bread was had. " * 5
    assert (whole["finish_reason"], whole["message"]["refusal"]) == ("stop", None)
    assert whole["fluvial"]["guard"] == {"action": "redact", "category": "name", "message": ""}
    assert read(stream(guarded, "hi")) == whole["message"]["content"]


def test_the_model_never_reads_a_name_that_is_to_be_redacted(guarded: Running) -> None:
    session = guarded.create_session()
    guarded.say(session, "I am Ada Lovelace")
    assert guarded.rig.engine.calls[0].messages[-1].content == "I am [name]"
    messages = guarded.client.get(f"/v1/sessions/{session}/messages").json()["data"]
    assert messages[0]["content"] == "I am [name]"
    assert kinds(guarded) == ["guard.prompt_redact"]


def test_each_choice_is_guarded_for_itself(guarded: Running) -> None:
    replies = iter(["aurora", "bread", "bob"])
    guarded.rig.engine.reply = lambda messages: next(replies)
    choices = guarded.say(None, "hi", n=3).json()["choices"]
    assert [each["finish_reason"] for each in choices] == ["content_filter", "stop", "stop"]
    assert [each["message"]["content"] for each in choices] == ["", "bread", "[name]"]


def test_arguments_of_calls_are_checked(guarded: Running) -> None:
    hidden = "".join(f"\\u{ord(char):04x}" for char in "aurora")
    function = {"name": "look", "parameters": {"type": "object"}}
    tools = [{"type": "function", "function": function}]
    call = '<tool_call>\n{"name": "look", "arguments": {"q":"%s"}}\n</tool_call>'
    for word in ("aurora", hidden):
        guarded.rig.engine.reply = lambda messages, word=word: call % word
        choice = guarded.say(None, "hi", tools=tools).json()["choices"][0]
        assert choice["finish_reason"] == "content_filter"
        assert "tool_calls" not in choice["message"]
    guarded.rig.engine.reply = lambda messages: call % "bread and bob"
    choice = guarded.say(None, "hi", tools=tools).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    (made,) = choice["message"]["tool_calls"]
    assert json.loads(made["function"]["arguments"]) == {"q": "bread and [name]"}


def test_descriptions_of_tools_are_checked(guarded: Running) -> None:
    function = {"name": "look", "description": "on aurora", "parameters": {"type": "object"}}
    body = guarded.say(None, "hi", tools=[{"type": "function", "function": function}]).json()
    assert body["choices"][0]["finish_reason"] == "content_filter"
    assert guarded.rig.engine.calls == []


def test_a_session_keeps_the_refusal_learns_nothing_and_goes_on(guarded: Running) -> None:
    session = guarded.create_session()
    long = "tell me of project aurora, all of it, " * 10
    body = guarded.say(session, long).json()
    assert body["fluvial"]["finish"] == "content_filter"
    assert body["fluvial"]["guard"] == NOTE
    messages = guarded.client.get(f"/v1/sessions/{session}/messages").json()["data"]
    assert [each["content"] for each in messages] == [long, REFUSAL]
    assert (messages[1]["finish"], messages[1]["guard"]) == ("content_filter", NOTE)
    assert messages[0]["guard"] is None
    assert guarded.client.get(f"/v1/sessions/{session}/readings").json()["data"] == []
    guarded.say(session, "How is the weather?")
    (asked,) = [[each.content for each in call.messages] for call in guarded.rig.engine.calls]
    assert asked == ["How is the weather?"]


def test_a_stopped_answer_is_stored_as_it_was_shown(guarded: Running) -> None:
    guarded.rig.engine.reply = lambda messages: "so many words of bread " * 8 + "and aurora indeed"
    session = guarded.create_session()
    shown = guarded.say(session, "hi").json()["choices"][0]["message"]["content"]
    messages = guarded.client.get(f"/v1/sessions/{session}/messages").json()["data"]
    assert messages[1]["content"] == shown
    assert messages[1]["guard"]["action"] == "stop"
    data = guarded.rig.service.settings.data_dir
    with sqlite3.connect(data / "fluvial.sqlite3") as database:
        kept = database.execute("SELECT content FROM message").fetchall()
    assert "aurora" not in str(kept)


def test_a_request_split_over_turns_of_a_session_is_refused(guarded: Running) -> None:
    session = guarded.create_session()
    guarded.say(session, "what about au")
    body = guarded.say(session, "rora and more").json()
    assert body["choices"][0]["finish_reason"] == "content_filter"


def test_a_client_that_sends_the_refusal_back_can_go_on(guarded: Running) -> None:
    talk = [
        {"role": "user", "content": "aurora"},
        {"role": "assistant", "content": REFUSAL, "refusal": None},
        {"role": "user", "content": "bread?"},
    ]
    body = guarded.client.post(
        "/v1/chat/completions", json={"model": "scripted", "messages": talk}
    ).json()
    assert body["choices"][0]["message"]["content"] == "You said: bread?"


def test_a_check_that_fails_refuses_by_an_error(
    guarded: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = guarded.rig.service.guarding.guard
    assert guard is not None

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("weights are gone")

    monkeypatch.setattr(guard, "find", fail)
    answer = guarded.say(None, "hi")
    assert answer.status_code == 500
    assert guarded.rig.engine.calls == []


def test_what_fails_in_the_middle_of_a_stream_ends_it(
    guarded: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = guarded.rig.service.guarding.guard
    assert guard is not None
    find = guard.find

    def fail_on_answers(text: str, **options: Any) -> Any:
        if options["place"] == "answer" and len(text) > 60:
            raise RuntimeError("weights are gone")
        return find(text, **options)

    monkeypatch.setattr(guard, "find", fail_on_answers)
    guarded.rig.engine.reply = lambda messages: "so many words of bread " * 20
    answer = guarded.say(None, "hi", stream=True)
    assert "event: error" in answer.text
    assert "[DONE]" not in answer.text
    session = guarded.create_session()
    assert guarded.say(session, "hi").status_code == 500
    messages = guarded.client.get(f"/v1/sessions/{session}/messages").json()["data"]
    assert messages[1]["finish"] == "error"
    assert len(messages[1]["content"]) <= 60


def test_what_is_flagged_in_a_document_is_on_record_and_it_is_read(
    start_server: Callable[..., Running], tmp_path: Path
) -> None:
    file = tmp_path / "policy.toml"
    answer = 'answer = ["words"]'
    file.write_text(POLICY.replace(answer, f'{answer}\ndocument = ["words"]'), encoding="utf-8")
    server = start_server(guard_policy=str(file))
    session = server.create_session()
    body = {"name": "a", "text": "an odd text on project aurora"}
    assert server.client.post(f"/v1/sessions/{session}/readings", json=body).is_success
    assert kinds(server) == ["guard.document_flag"]


def test_off_is_a_setting_and_nothing_else_streams_first(
    start_server: Callable[..., Running], tmp_path: Path
) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(POLICY, encoding="utf-8")
    server = start_server(guard_policy=str(file), guard="off")
    assert server.say(None, "aurora").json()["choices"][0]["finish_reason"] == "stop"
