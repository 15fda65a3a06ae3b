"""What must not hurt a live server: huge, broken, hostile and impatient clients, a small disk."""

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessageParam

from tests.system.live import Live, launch, run_live

JSON = {"content-type": "application/json"}
CHAT = "/v1/chat/completions"
NOWHERE = "sess_000000000000000000000000"


def test_a_message_of_50_mb_is_a_413_and_not_kept_in_memory(live: Live) -> None:
    before = peak_bytes(live)
    text = "a" * 50 * 2**20
    message: ChatCompletionMessageParam = {"role": "user", "content": text}
    with (
        openai.OpenAI(base_url=f"{live.url}/v1", api_key="any", max_retries=0) as client,
        pytest.raises(openai.APIStatusError) as refused,
    ):
        client.chat.completions.create(model="tiny", messages=[message])
    assert refused.value.status_code == 413
    assert refused.value.code == "too_large"

    parts = iter(
        [b'{"model": "tiny", "messages": [{"role": "user", "content": "'] + [b"a" * 2**20] * 50
    )
    answer = live.client.post(CHAT, content=parts, headers=JSON)
    assert answer.status_code == 413
    assert peak_bytes(live) - before < 30 * 2**20
    assert live.client.get("/healthz").status_code == 200


def peak_bytes(live: Live) -> int:
    status = Path(f"/proc/{live.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def test_a_client_that_waits_for_leave_hears_of_it_before_it_sends(live: Live) -> None:
    with connect(live) as line:
        line.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 52428800\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        assert b" 413 " in line.recv(4096).split(b"\r\n")[0]


def connect(live: Live) -> socket.socket:
    host, port = live.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def test_invalid_utf8_names_the_offset(live: Live) -> None:
    answer = live.client.post(CHAT, content=b'{"model": "\xe4"}', headers=JSON)
    assert answer.status_code == 400
    assert "offset 11" in answer.json()["error"]["message"]
    path = f"/v1/sessions/{live.create_session()}/readings"
    answer = live.client.post(path, files={"file": ("a.txt", b"caf\xe9 au lait")})
    assert answer.status_code == 400
    assert "offset 3" in answer.json()["error"]["message"]


def test_a_pdf_that_isnt_one_is_a_400(live: Live) -> None:
    path = f"/v1/sessions/{live.create_session()}/readings"
    for data in (b"PK\x03\x04 a zip", b"%PDF-1.4\n%%EOF", b"%PDF-1.7\n" + os.urandom(5000)):
        answer = live.client.post(path, files={"file": ("report.pdf", data)})
        assert answer.status_code == 400, answer.text
        assert "PDF" in answer.json()["error"]["message"]
    assert live.client.get(path).json()["data"] == []


def test_an_unknown_session_is_a_404_everywhere(live: Live) -> None:
    schema = live.client.get("/openapi.json").json()
    paths = [
        (method, path)
        for path, methods in schema["paths"].items()
        for method in methods
        if "{session_id}" in path
    ]
    assert len(paths) >= 15
    for method, path in paths:
        filled = path.format(session_id=NOWHERE, version=1, reading_id="read_1")
        answer = live.client.request(method, filled)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), path
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
    answer = live.client.post(CHAT, json={**body, "fluvial": {"session": NOWHERE}})
    assert answer.status_code == 404


def test_a_client_that_vanishes_frees_its_slot(live: Live) -> None:
    """Cut off at the socket, in mid-stream; the next answer does not wait for the lost one."""
    session = live.create_session()
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Tell me a long story"}],
        "stream": True,
        "temperature": 2,
        "fluvial": {"session": session},
    }
    with live.client.stream("POST", CHAT, json=body) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
    path = f"/v1/sessions/{session}"
    wait_until(lambda: not live.client.get(path).json()["busy"])
    assert live.client.get(f"{path}/messages").json()["data"][1]["finish"] is not None


def wait_until(met: Any) -> None:
    end_s = time.monotonic() + 20
    while not met():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_of_two_tabs_that_write_at_once_one_wins(live: Live) -> None:
    session = live.create_session()
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "x"}],
        "max_tokens": 4,
        "fluvial": {"session": session, "parent": None},
    }
    answers: list[httpx2.Response] = []
    threads = [
        threading.Thread(target=lambda: answers.append(httpx2.post(live.url + CHAT, json=body)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(a.status_code for a in answers) == [200] + [409] * 5
    codes = {a.json()["error"]["code"] for a in answers if a.status_code == 409}
    assert codes <= {"session_busy", "session_changed"}
    messages = live.client.get(f"/v1/sessions/{session}/messages").json()["data"]
    assert [m["role"] for m in messages] == ["user", "assistant"]


@pytest.mark.parametrize(
    "raw",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_broken_http_does_not_hurt(live: Live, raw: bytes) -> None:
    with connect(live) as line:
        line.settimeout(5)
        try:
            line.sendall(raw)
            line.shutdown(socket.SHUT_WR)
            said = line.recv(65536)
        except OSError:
            said = b""
    assert not said or b" 4" in said.split(b"\r\n")[0]
    assert live.client.get("/healthz").status_code == 200


def nest(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)


def make_request(role: object, content: object, rest: dict[str, object]) -> dict[str, object]:
    return {**GOOD, "messages": [{"role": role, "content": content, **rest}]}


GOOD = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    nest,
    max_leaves=8,
)
fields = st.sampled_from(
    ["model", "messages", "stream", "stream_options", "temperature", "top_p", "seed", "stop"]
    + ["max_tokens", "max_completion_tokens", "n", "user", "fluvial", "tools", "logit_bias"]
)
parts = st.lists(st.fixed_dictionaries({"type": values, "text": values}), max_size=3)
bodies = st.one_of(
    values,
    st.dictionaries(fields, values, max_size=4).map(lambda change: {**GOOD, **change}),
    st.builds(
        make_request,
        st.sampled_from(["user", "system", "assistant", "tool"]) | values,
        values | parts,
        st.dictionaries(st.sampled_from(["name", "refusal", "x"]), values, max_size=1),
    ),
)
kinds = st.sampled_from(["application/json", "text/plain", "multipart/form-data; boundary=x"])
hostile = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@hostile
@given(body=bodies)
def test_no_json_body_is_a_server_error(live: Live, body: object) -> None:
    for path in (CHAT, "/v1/sessions", f"/v1/sessions/{NOWHERE}/readings"):
        answer = live.client.post(path, content=json.dumps(body), headers=JSON)
        assert answer.status_code < 500, answer.text
        if answer.status_code >= 400:
            assert answer.json()["error"]["message"]


@hostile
@given(body=st.binary(max_size=200), kind=kinds)
def test_no_bytes_are_a_server_error(live: Live, body: bytes, kind: str) -> None:
    for path in (CHAT, f"/v1/sessions/{live.create_session()}/readings"):
        answer = live.client.post(path, content=body, headers={"content-type": kind})
        assert 400 <= answer.status_code < 500, answer.text


def test_a_second_server_on_the_same_folder_is_refused(live: Live) -> None:
    process = launch(live.data_dir)
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert str(live.process.pid) in said
    assert "Traceback" not in said


def test_a_port_in_use_is_told_before_the_model_is_loaded(live: Live, own_data: Path) -> None:
    process = launch(own_data, "--port", live.url.rsplit(":", 1)[1])
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "--port" in said
    assert "Traceback" not in said
    assert not (own_data / "graphs").exists()


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_the_server_cleanly_with_streams_open(
    own_data: Path, by: signal.Signals
) -> None:
    with run_live(own_data) as live:
        session = live.create_session()
        body = {
            "model": "tiny",
            "messages": [{"role": "user", "content": "x"}],
            "temperature": 2,
            "stream": True,
            "fluvial": {"session": session},
        }
        events = live.client.stream("GET", f"/v1/sessions/{session}/events")
        with events as stream, live.client.stream("POST", CHAT, json=body) as answer:
            lines = stream.iter_lines()
            next(lines)
            next(answer.iter_lines())
            assert live.stop(by=by) == 0
    with run_live(own_data) as live:
        messages = live.client.get(f"/v1/sessions/{session}/messages").json()["data"]
        assert messages[1]["finish"] in ("cancelled", "stop", "length")


def test_what_was_answered_survives_a_kill(own_data: Path) -> None:
    with run_live(own_data) as live:
        session = live.create_session()
        body = {
            "model": "tiny",
            "messages": [{"role": "user", "content": "remember me"}],
            "max_tokens": 3,
            "fluvial": {"session": session},
        }
        receipt = live.client.post(CHAT, json=body).json()["fluvial"]
        live.process.kill()
        live.process.wait(20)
    with run_live(own_data) as live:
        messages = live.client.get(f"/v1/sessions/{session}/messages").json()["data"]
        assert [m["id"] for m in messages] == [receipt["user_message"], receipt["message"]]
        assert messages[0]["content"] == "remember me"
        assert messages[1]["finish"] is not None


@pytest.fixture
def small_disk(tmp_path: Path, own_data: Path) -> Iterator[Path]:
    """A data folder on a disk of 24 MB, with the tiny model installed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(folder)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk needs root")
    try:
        shutil.copytree(own_data, folder, dirs_exist_ok=True)
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_a_507_and_the_server_goes_on(small_disk: Path) -> None:
    with run_live(small_disk) as live:
        session = live.create_session()
        body = {
            "model": "tiny",
            "messages": [{"role": "user", "content": "x" * 500}],
            "max_tokens": 3,
            "fluvial": {"session": session},
        }
        assert live.client.post(CHAT, json=body).status_code == 200
        filler = small_disk / "filler"
        with filler.open("wb") as file:
            try:
                while True:
                    file.write(b"\0" * 65536)
                    file.flush()
            except OSError:
                pass
        path = f"/v1/sessions/{session}"
        text = {"name": "a.txt", "text": "text " * 100_000}
        refused = live.client.post(f"{path}/readings", json=text)
        assert (refused.status_code, refused.json()["error"]["code"]) == (507, "storage_full")
        before = live.client.get(f"{path}/messages").json()["data"]
        assert len(before) == 2
        answers = [live.client.post(CHAT, json=body) for _ in range(40)]
        assert {a.status_code for a in answers} <= {200, 507}
        alone = {key: value for key, value in body.items() if key != "fluvial"}
        assert live.client.post(CHAT, json=alone).status_code == 200
        filler.unlink()
        assert live.client.post(CHAT, json=body).status_code == 200
        assert live.client.post(f"{path}/readings", json=text).status_code == 202
