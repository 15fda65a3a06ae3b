"""Structured output, tool calls, choices and logprobs through the official `openai` client.

The tiny model writes noise. So whatever is well formed here, the grammar made so.
"""

import json
import math
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel, Field

from tests.system.live import Live

HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello, who are you?"}]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"enum": ["Rome", "Köln", "上海"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
NOW: ChatCompletionToolParam = {"type": "function", "function": {"name": "now"}}


class Step(BaseModel):
    kind: Literal["add", "sub"]
    amount: int = Field(ge=0, le=99)


class Plan(BaseModel):
    title: str = Field(max_length=6)
    steps: list[Step] = Field(min_length=1, max_length=2)
    done: bool


@pytest.fixture
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="any", timeout=60) as made:
        yield made


def create(client: openai.OpenAI, **given: Any) -> Any:
    defaults: dict[str, Any] = {"model": "tiny", "messages": HI, "max_tokens": 400, "seed": 1}
    return client.chat.completions.create(**{**defaults, **given})


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_parse_gives_the_model_of_pydantic(client: openai.OpenAI, seed: int) -> None:
    answer = client.chat.completions.parse(
        model="tiny", messages=HI, response_format=Plan, seed=seed, temperature=1.5, max_tokens=400
    )
    plan = answer.choices[0].message.parsed
    assert isinstance(plan, Plan)
    assert answer.choices[0].finish_reason == "stop"
    assert 1 <= len(plan.steps) <= 2


def test_a_stream_is_parsed_as_it_comes(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="tiny", messages=HI, response_format=Plan, seed=4, max_tokens=400
    ) as stream:
        final = [event for event in stream if event.type == "content.done"][0]
    assert isinstance(final.parsed, Plan)


def test_an_answer_cut_by_its_limit_says_length(client: openai.OpenAI) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model="tiny", messages=HI, response_format=Plan, max_tokens=3)


def test_a_regex_and_a_lark_grammar(client: openai.OpenAI) -> None:
    for syntax, definition in (
        ("regex", "(yes|no), (and|but) [0-9]{3}"),
        ("lark", 'start: /yes|no/ ", " /and|but/ " " /[0-9]{3}/'),
    ):
        form = {"type": "grammar", "syntax": syntax, "definition": definition}
        answer = create(client, extra_body={"response_format": form}, temperature=2)
        word, rest = answer.choices[0].message.content.split(", ")
        assert word in ("yes", "no")
        assert rest[:4] in ("and ", "but ")
        assert len(rest) == 7
        assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}]
)
def test_a_call_that_must_be_made_is_made(client: openai.OpenAI, choice: Any) -> None:
    answer = create(
        client, tools=[WEATHER, NOW], tool_choice=choice, parallel_tool_calls=False, temperature=1.5
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls
    if call.function.name == "get_weather":
        found = json.loads(call.function.arguments)
        assert found["city"] in ("Rome", "Köln", "上海")
        assert 1 <= found["days"] <= 9
    else:
        assert choice == "required"
        assert json.loads(call.function.arguments) == {}


def test_a_streamed_call_is_the_whole_one(client: openai.OpenAI) -> None:
    given: dict[str, Any] = {
        "tools": [WEATHER],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "seed": 9,
    }
    whole = create(client, **given).choices[0].message.tool_calls[0]
    chunks = list(create(client, **given, stream=True))
    pieces = [c for chunk in chunks for c in chunk.choices[0].delta.tool_calls or ()]
    assert pieces[0].id.startswith("call_")
    assert pieces[0].function.name == "get_weather"
    assert len(pieces) > 1  # the guard lets text out in checked stretches
    assert "".join(piece.function.arguments for piece in pieces) == whole.function.arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    with client.chat.completions.stream(
        model="tiny", messages=HI, tools=[WEATHER], tool_choice="required", seed=9, max_tokens=400
    ) as stream:
        done = [e for e in stream if e.type == "tool_calls.function.arguments.done"]
    assert done
    assert all(event.parsed_arguments["city"] for event in done if event.name == "get_weather")


def test_tools_that_no_text_can_satisfy_are_named(client: openai.OpenAI) -> None:
    endless: Any = {
        "type": "function",
        "function": {
            "name": "f",
            "parameters": {
                "type": "object",
                "properties": {"again": {"$ref": "#"}},
                "required": ["again"],
            },
        },
    }
    with pytest.raises(openai.BadRequestError) as refused:
        create(client, tools=[endless], tool_choice="required")
    place = "tools[0].function.parameters"
    assert (refused.value.code, refused.value.param) == ("grammar_refused", place)


def test_calls_and_results_go_back_and_the_answer_is_text(client: openai.OpenAI) -> None:
    given: dict[str, Any] = {"tools": [WEATHER], "tool_choice": "required"}
    asked = create(client, **given, parallel_tool_calls=False).choices[0].message
    messages = [
        *HI,
        asked.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": asked.tool_calls[0].id, "content": "Sunny."},
    ]
    answer = create(client, messages=messages, tools=[WEATHER], tool_choice="none", max_tokens=5)
    assert answer.choices[0].message.tool_calls is None
    assert answer.usage.prompt_tokens > create(client, max_tokens=1).usage.prompt_tokens


def test_choices_have_a_randomness_of_their_own_and_repeat(client: openai.OpenAI) -> None:
    given: dict[str, Any] = {"temperature": 1.5, "max_tokens": 12}
    first, second = (create(client, **given, n=4) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2, 3]
    assert len(set(texts)) > 1
    assert texts == [choice.message.content for choice in second.choices]
    assert texts[0] == create(client, **given).choices[0].message.content
    assert first.usage.prompt_tokens == create(client, max_tokens=1).usage.prompt_tokens
    streamed = dict.fromkeys(range(4), "")
    for chunk in create(client, **given, n=4, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert list(streamed.values()) == texts


def test_each_choice_follows_the_grammar_by_itself(client: openai.OpenAI) -> None:
    form = {"type": "grammar", "syntax": "regex", "definition": "[0-9]{4}"}
    answer = create(client, n=3, temperature=2, extra_body={"response_format": form})
    texts = [choice.message.content for choice in answer.choices]
    assert all(len(text) == 4 and text.isdecimal() for text in texts)
    assert len(set(texts)) > 1


def test_logprobs_stand_beside_the_text(client: openai.OpenAI) -> None:
    given: dict[str, Any] = {"max_tokens": 10, "logprobs": True, "top_logprobs": 3}
    answer = create(client, **given, temperature=0)
    told = answer.choices[0].logprobs.content
    assert len(told) == answer.usage.completion_tokens
    spelled = b"".join(bytes(each.bytes or []) for each in told).decode("utf-8", "replace")
    assert spelled == answer.choices[0].message.content
    for each in told:
        assert len(each.top_logprobs) == 3
        assert each.logprob == each.top_logprobs[0].logprob
        assert sum(math.exp(other.logprob) for other in each.top_logprobs) <= 1.0001
    chunks = list(create(client, **given, temperature=0, stream=True))
    streamed = [t for c in chunks if c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    assert streamed == told


def test_a_bias_forces_and_a_stop_token_ends(client: openai.OpenAI) -> None:
    # Three special tokens come first in the vocabulary, then the bytes.
    letter = 3 + ord("a")
    forced = create(client, max_tokens=6, logit_bias={str(letter): 100})
    assert forced.choices[0].message.content == "aaaaaa"
    ended = create(
        client,
        max_tokens=6,
        logit_bias={str(letter): 100},
        extra_body={"stop_token_ids": [letter]},
    )
    assert ended.choices[0].message.content == ""
    assert ended.choices[0].finish_reason == "stop"
    assert ended.usage.completion_tokens == 0
    with pytest.raises(openai.BadRequestError) as refused:
        create(client, logit_bias={"999999": 1})
    assert refused.value.param == "logit_bias"


def test_the_end_can_be_ignored(client: openai.OpenAI) -> None:
    answer = create(client, max_tokens=5, logit_bias={"2": 100}, extra_body={"ignore_eos": True})
    assert answer.usage.completion_tokens == 5
    assert answer.choices[0].finish_reason == "length"
    ended = create(client, max_tokens=5, logit_bias={"2": 100})
    assert ended.usage.completion_tokens == 0
