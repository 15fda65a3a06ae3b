"""Answers that are out of time: what was written is kept, and everyone is told why it ends."""

import json

from tests.server.conftest import Start

HI = {"model": "scripted", "messages": [{"role": "user", "content": "a b c d e f g h"}]}


def test_without_the_setting_answers_have_no_deadline(start_server: Start) -> None:
    server = start_server()
    assert server.say(None, "hi").status_code == 200
    assert server.say(server.create_session(), "hi").status_code == 200
    assert [call.deadline_s for call in server.rig.engine.calls] == [None, None]


def test_an_answer_out_of_time_ends_as_length_with_our_word_beside_it(start_server: Start) -> None:
    server = start_server(answer_deadline_s=0.2)
    server.rig.engine.delay_s = 0.09
    choice = server.client.post("/v1/chat/completions", json=HI).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["fluvial"] == {"finish": "deadline"}
    assert "You said: a b c d e f g h".startswith(choice["message"]["content"])
    assert choice["message"]["content"]


def test_a_session_keeps_what_was_written_in_time(start_server: Start) -> None:
    server = start_server(answer_deadline_s=0.2)
    server.rig.engine.delay_s = 0.09
    session = server.create_session()
    with server.stream(session, "a b c d e f g h") as stream:
        lines = [line for line in stream.iter_lines() if line.startswith("data: {")]
    last = json.loads(lines[-1].removeprefix("data: "))
    assert last["choices"][0]["finish_reason"] == "length"
    assert last["fluvial"]["finish"] == "deadline"
    kept = server.client.get(f"/v1/sessions/{session}/messages").json()["data"][1]
    assert kept["finish"] == "deadline"
    assert "You said: a b c d e f g h".startswith(kept["content"])
    server.rig.engine.delay_s = 0.0
    assert server.say(session, "go on").status_code == 200
