"""The official `openai` client, unchanged, against a live server on a real (tiny) model."""

import asyncio
from collections.abc import Iterator

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.system.live import Live

HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello, who are you?"}]


@pytest.fixture
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="any", timeout=60) as made:
        yield made


def test_a_completion(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=HI, max_tokens=12, temperature=0, seed=1
    )
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 12
    assert answer.usage.prompt_tokens > 10
    assert answer._request_id is not None
    assert answer._request_id.startswith("req_")


def test_streamed_is_whole(client: openai.OpenAI) -> None:
    given = {"model": "tiny", "messages": HI, "max_tokens": 24, "temperature": 0}
    whole = client.chat.completions.create(**given)
    chunks = list(
        client.chat.completions.create(**given, stream=True, stream_options={"include_usage": True})
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_seed_repeats(client: openai.OpenAI) -> None:
    given = {"model": "tiny", "messages": HI, "max_tokens": 16, "temperature": 1.5}
    answers = [
        client.chat.completions.create(**given, seed=seed).choices[0].message.content
        for seed in (7, 7, 8)
    ]
    assert answers[0] == answers[1]
    assert answers[0] != answers[2]


def test_the_stream_helper_of_the_client(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="tiny", messages=HI, max_completion_tokens=8, temperature=0
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.current_completion_snapshot
    assert "chunk" in kinds
    assert final.choices[0].message.content is not None


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").object == "model"
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("gpt-9")
    assert missing.value.code == "model_not_found"


def test_errors_are_the_clients_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="tiny", messages=HI, reasoning_effort="high")
    assert (refused.value.code, refused.value.param) == ("unsupported", "reasoning_effort")
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model="tiny",
            messages=HI,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": {"not": {}}},
            },
        )
    assert (refused.value.code, refused.value.param) == ("grammar_refused", "response_format")
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-9", messages=HI)
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "word " * 5000}]
        )
    assert refused.value.code == "context_length_exceeded"
    assert refused.value.type == "invalid_request_error"


def test_a_session_through_extra_body(client: openai.OpenAI, live: Live) -> None:
    session = live.create_session()
    first = client.chat.completions.create(
        model="tiny",
        messages=HI,
        max_tokens=4,
        extra_body={"fluvial": {"session": session, "parent": None}},
    )
    receipt = (first.model_extra or {})["fluvial"]
    assert receipt["session"] == session
    with pytest.raises(openai.ConflictError) as changed:
        client.chat.completions.create(
            model="tiny",
            messages=HI,
            max_tokens=4,
            extra_body={"fluvial": {"session": session, "parent": None}},
        )
    assert changed.value.code == "session_changed"
    chunks = list(
        client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "And now?"}],
            max_tokens=4,
            stream=True,
            extra_body={"fluvial": {"session": session, "parent": receipt["message"]}},
        )
    )
    last = next(c for c in chunks if c.choices and c.choices[0].finish_reason)
    assert (last.model_extra or {})["fluvial"]["session"] == session
    messages = live.client.get(f"/v1/sessions/{session}/messages").json()["data"]
    assert [m["role"] for m in messages] == ["user", "assistant"] * 2
    headers = {"Fluvial-Session": session}
    third = client.chat.completions.create(
        model="tiny", messages=HI, max_tokens=4, extra_headers=headers
    )
    assert (third.model_extra or {})["fluvial"]["session"] == session


def test_the_async_client_with_many_at_once(live: Live) -> None:
    async def ask(client: openai.AsyncOpenAI, number: int) -> str:
        stream = await client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": f"Number {number}"}],
            max_tokens=8,
            stream=True,
            user=f"user {number % 3}",
        )
        return "".join([c.choices[0].delta.content or "" async for c in stream])

    async def run() -> list[str]:
        base_url = f"{live.url}/v1"
        async with openai.AsyncOpenAI(base_url=base_url, api_key="any", timeout=60) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(8)))

    assert len(asyncio.run(run())) == 8


def test_closing_a_stream_stops_the_answer(client: openai.OpenAI, live: Live) -> None:
    session = live.create_session()
    stream = client.chat.completions.create(
        model="tiny",
        messages=HI,
        temperature=2,
        stream=True,
        extra_body={"fluvial": {"session": session}},
    )
    for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    stream.close()
    path = f"/v1/sessions/{session}"
    for _ in range(2000):
        if not live.client.get(path).json()["busy"]:
            break
    answer = live.client.get(f"{path}/messages").json()["data"][1]
    # The tiny model may have come to its end by itself before the client could leave.
    assert answer["finish"] in ("cancelled", "stop", "length")


def test_the_schema_describes_the_bodies(live: Live) -> None:
    schema = httpx2.get(f"{live.url}/openapi.json").json()
    body = schema["paths"]["/v1/chat/completions"]["post"]["requestBody"]
    properties = body["content"]["application/json"]["schema"]["properties"]
    assert {"model", "messages", "stream", "fluvial"} <= set(properties)
    assert find_dangling(schema) == set()


def find_dangling(schema: dict[str, object]) -> set[str]:
    """List the references in a schema that lead nowhere."""
    found: set[str] = set()
    known = {f"#/components/schemas/{name}" for name in schema["components"]["schemas"]}  # type: ignore[index]

    def walk(node: object) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                found.add(node["$ref"])
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(schema)
    return found - known
