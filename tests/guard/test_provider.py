"""Guard models and HTTP classifiers: their verdicts read, and never a failure taken for a pass."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fluvial.errors import FluvialError, GuardError, InputError
from fluvial.guard.guard import Guard
from fluvial.guard.opening import open_guard
from fluvial.guard.policy import HttpProvider, ModelProvider
from fluvial.guard.provider_http import MAX_ANSWER_BYTES, HttpCheck
from fluvial.guard.provider_model import FORMATS, GuardModelCheck
from fluvial.types import Message
from tests.guard.world import make_policy


class ScriptedWriter:
    sha256 = "ab" * 32

    def __init__(self, said: str) -> None:
        self.said = said
        self.asked: list[Sequence[Message]] = []
        self.closed = False

    def write(self, messages: Sequence[Message]) -> str:
        self.asked.append(messages)
        return self.said

    def close(self) -> None:
        self.closed = True


VERDICTS = [
    ("llama-guard", "\n\nsafe", []),
    ("llama-guard", "\n\nunsafe\nS1,S10", [("violence", 1.0), ("hate", 1.0)]),
    ("llama-guard", "unsafe", [("default", 1.0)]),
    ("llama-guard", "unsafe\nS99", [("default", 1.0)]),
    ("qwen3-guard", "Safety: Safe\nCategories: None", []),
    ("qwen3-guard", "Safety: Unsafe\nCategories: Violent, PII", [("violence", 1), ("privacy", 1)]),
    ("qwen3-guard", "Safety: Controversial\nCategories: Unethical Acts", [("harm", 0.5)]),
    ("qwen3-guard", "Safety: Unsafe\nCategories: None\nRefusal: No", [("default", 1.0)]),
    ("granite-guardian", "No\n<confidence> High </confidence>", []),
    ("granite-guardian", "Yes", [("harm", 1.0)]),
    ("granite-guardian", "Yes\n<confidence> Low </confidence>", [("harm", 0.5)]),
    ("granite-guardian", "<think>No, wait.</think>\n<score> yes </score>", [("harm", 1.0)]),
    ("granite-guardian", "<think>Yes?</think>\n<score> no </score>", []),
]


def ask(format: str, said: str, **given) -> GuardModelCheck:
    provider = ModelProvider(model="m", format=format, **given)
    return GuardModelCheck("model.m", provider, writer=ScriptedWriter(said))


@pytest.mark.parametrize(("format", "said", "found"), VERDICTS)
def test_verdicts_are_read(format: str, said: str, found: list[tuple[str, float]]) -> None:
    findings = ask(format, said).find("x", kind="prompt")
    assert [(each.category, each.score) for each in findings] == found
    assert all(each.end is None for each in findings)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "said",
    ["", "I am safe to say that", "unsafer", "Safety: Perhaps", "maybe", "<score> 1 </score>"],
)
def test_what_is_no_verdict_is_a_failure(format: str, said: str) -> None:
    with pytest.raises(GuardError):
        ask(format, said).find("x", kind="prompt")


def test_an_answer_is_judged_with_its_question() -> None:
    check = ask("llama-guard", "safe")
    check.find("yes", kind="answer", context="may I?")
    writer = check._writer
    assert isinstance(writer, ScriptedWriter)
    told = [[(each.role, each.content) for each in messages] for messages in writer.asked]
    assert told == [[("user", "may I?"), ("assistant", "yes")]]


def test_a_policy_maps_the_names_and_runs_the_model() -> None:
    policy = make_policy(
        ('prompt = ["words"]', 'prompt = ["words", "model.m"]'),
        (
            "[category.odd]",
            '[model.m]\nmodel = "m"\nformat = "llama-guard"\n'
            'categories = { S1 = "aurora" }\n[category.odd]',
        ),
    )
    writer = ScriptedWriter("unsafe\nS1")
    guard = open_guard(policy, open_model=lambda provider: writer)
    decision = guard.check_prompt([Message(role="user", content="hello")])
    assert (decision.action, decision.category, decision.check) == ("refuse", "aurora", "model.m")
    guard.close()
    assert writer.closed
    with pytest.raises(InputError, match=r"model\.m"):
        open_guard(policy)


class Handler(BaseHTTPRequestHandler):
    said: bytes = b"{}"
    status = 200
    delay_s = 0.0
    asked: list[tuple[dict, str | None]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        type(self).asked.append((json.loads(body), self.headers["authorization"]))
        time.sleep(self.delay_s)
        self.send_response(self.status)
        if self.status == 302:
            self.send_header("location", "/elsewhere")
        self.end_headers()
        self.wfile.write(self.said)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def classifier() -> Iterator[tuple[str, type[Handler]]]:
    class Own(Handler):
        asked = []

    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/moderations", Own
    server.shutdown()
    server.server_close()


def moderation(**scores: float) -> bytes:
    flags = {name: score > 0.5 for name, score in scores.items()}
    result = {"flagged": any(flags.values()), "categories": flags, "category_scores": scores}
    return json.dumps({"id": "1", "model": "m", "results": [result]}).encode()


def test_openais_shape(classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    url, handler = classifier
    monkeypatch.setenv("OUR_KEY", "top-secret")
    handler.said = moderation(violence=0.9, hate=0.2)
    provider = HttpProvider(
        url=url, key_env="OUR_KEY", model="omni", categories={"violence": "aurora"}
    )
    check = HttpCheck("http.x", provider)
    findings = check.find("hello", kind="prompt")
    assert [(each.category, each.score) for each in findings] == [("aurora", 0.9), ("default", 0.2)]
    assert handler.asked == [({"input": "hello", "model": "omni"}, "Bearer top-secret")]
    assert "top-secret" not in repr(provider) + check.sha256
    handler.said = b'{"results": [{"flagged": true, "categories": {}}]}'
    assert [each.score for each in check.find("hello", kind="prompt")] == [1.0]
    check.close()


def test_plain_json(classifier) -> None:
    url, handler = classifier
    provider = HttpProvider(url=url, format="json", text_field="q", scores_field="out.scores")
    check = HttpCheck("http.x", provider)
    handler.said = b'{"out": {"scores": {"a": 1, "b": 0.25}}}'
    assert [each.score for each in check.find("hello", kind="answer")] == [1.0, 0.25]
    assert handler.asked == [({"q": "hello"}, None)]
    handler.said = b'{"out": {"scores": 0.75}}'
    assert [each.score for each in check.find("hello", kind="answer")] == [0.75]
    check.close()


@pytest.mark.parametrize(
    ("said", "status", "why"),
    [
        (b"{", 200, "not JSON"),
        (b"[" * 100_000, 200, "not JSON"),
        (b"{}", 200, "no moderation"),
        (b'{"results": []}', 200, "no moderation"),
        (moderation(a=float("nan")), 200, "not in 0 to 1"),
        (moderation(a=2), 200, "not in 0 to 1"),
        (b'{"results": [{"flagged": false, "categories": {"a": "no"}}]}', 200, "not in 0 to 1"),
        (moderation(a=0), 302, "status 302"),
        (moderation(a=0), 500, "status 500"),
        (b" " * (MAX_ANSWER_BYTES + 1), 200, "bytes"),
    ],
)
def test_what_is_no_sound_answer_is_a_failure(classifier, said, status, why) -> None:
    url, handler = classifier
    handler.said, handler.status = said, status
    check = HttpCheck("http.x", HttpProvider(url=url))
    with pytest.raises(FluvialError, match=why):
        check.find("hello", kind="prompt")
    assert len(handler.asked) == 1
    check.close()


def test_a_slow_or_absent_classifier_is_a_failure(classifier) -> None:
    url, handler = classifier
    handler.delay_s = 0.5
    check = HttpCheck("http.x", HttpProvider(url=url, timeout_ms=50))
    with pytest.raises(GuardError, match="Timeout"):
        check.find("hello", kind="prompt")
    check.close()
    check = HttpCheck("http.x", HttpProvider(url="http://127.0.0.1:9/"))
    with pytest.raises(GuardError, match="ConnectError"):
        check.find("hello", kind="prompt")
    check.close()


def test_a_key_that_is_not_there_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OUR_KEY", raising=False)
    with pytest.raises(InputError, match="OUR_KEY"):
        HttpCheck("http.x", HttpProvider(url="https://example.com/", key_env="OUR_KEY"))


def test_a_policy_with_a_classifier_behind_http(classifier) -> None:
    url, handler = classifier
    handler.said = moderation(a=0.9)
    policy = make_policy(
        ('answer = ["words"]', 'answer = ["http.x"]'),
        ("[category.odd]", f'[http.x]\nurl = "{url}"\n[category.odd]'),
    )
    guard: Guard = open_guard(policy)
    (ruling,) = guard.rule(guard.find("hello", place="answer"), place="answer")
    assert ruling.action == "stop"
    guard.close()
