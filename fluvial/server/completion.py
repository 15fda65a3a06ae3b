"""The body of a chat completion. Fields that are not implemented are refused by name."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from fluvial.engine.limit import MAX_LOGIT_BIASES, MAX_LOGPROBS, MAX_STOP_TOKENS
from fluvial.server.schema import Body, Text, drop_neutral, unsupported
from fluvial.server.shape import ChatTool, Name, ResponseFormat, ToolChoice
from fluvial.service.tool import MAX_TOOLS, ToolUse
from fluvial.types import Message, Sampling, ToolCall

MAX_CHOICES = 8
MAX_CALLS = 128
"""Calls that one message of the history may hold."""

NEUTRAL: dict[str, tuple[object, ...]] = {
    "modalities": (["text"],),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "audio": (),
    "metadata": ({},),
    "moderation": (),
    "prediction": (),
    "prompt_cache_key": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
    "reasoning_effort": (),
    "safety_identifier": (),
    "verbosity": (),
    "web_search_options": (),
}
"""OpenAI's fields that are not implemented, each with the values that change nothing."""

NEUTRAL_MESSAGE: dict[str, tuple[object, ...]] = {
    "name": (),
    "refusal": (),
    "audio": (),
    "annotations": ([],),
    "tool_calls": ([],),
    "function_call": (),
}
"""The same for messages: an answer that is sent back as history carries such fields."""


def _join_parts(content: Any) -> Any:
    """Make one string of a list of text parts."""
    if not isinstance(content, list):
        return content
    return "".join(_part_text(part, number) for number, part in enumerate(content))


def _part_text(part: Any, number: int) -> str:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise PydanticCustomError(
            "part", "part {number} must be an object with a type", {"number": number}
        )
    if part["type"] != "text" or set(part) - {"type", "text"}:
        raise unsupported(
            f"part {number} is of the type {part['type'][:40]!r}: only text is supported"
        )
    if not isinstance(part.get("text"), str):
        raise PydanticCustomError("part", "part {number} has no text", {"number": number})
    return part["text"]


def _check_role(role: Any) -> Any:
    if role in ("developer", "function"):
        raise unsupported(
            f"the role {role!r} is not supported; use system, user, assistant or tool"
        )
    return role


def _list_stop(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


class CalledFunction(Body):
    """Name and arguments of a call; the arguments are JSON as text."""

    name: Name
    arguments: Text


class ChatToolCall(Body):
    """A call that the assistant made."""

    id: Text = Field(min_length=1, max_length=256)
    type: Literal["function"]
    function: CalledFunction


class ChatMessage(Body):
    """One message of a chat completion request."""

    role: Annotated[Literal["system", "user", "assistant", "tool"], BeforeValidator(_check_role)]
    content: Annotated[Text, BeforeValidator(_join_parts)]
    tool_calls: list[ChatToolCall] = Field(default_factory=list, max_length=MAX_CALLS)
    tool_call_id: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, data: Any) -> Any:
        data = drop_neutral(data, neutral=NEUTRAL_MESSAGE)
        # An answer that is nothing but calls has no content.
        if isinstance(data, dict) and data.get("tool_calls"):
            data.setdefault("content", "")
        return data

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.tool_calls and self.role != "assistant":
            raise PydanticCustomError(
                "calls", "only the assistant has any", {"param": "tool_calls"}
            )
        if (self.role == "tool") != (self.tool_call_id is not None):
            raise PydanticCustomError(
                "tool",
                "a message of the role tool, and no other, has one",
                {"param": "tool_call_id"},
            )
        return self

    def turn(self) -> Message:
        """Return the message as the chat template sees it."""
        calls = (
            ToolCall(id=each.id, name=each.function.name, arguments=each.function.arguments)
            for each in self.tool_calls
        )
        return Message(
            role=self.role,
            content=self.content,
            tool_calls=tuple(calls),
            tool_call_id=self.tool_call_id,
        )


class StreamOptions(Body):
    """How to stream."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class SessionChoice(Body):
    """Fluvial's extension: which session to answer in, and what the client has seen of it."""

    session: Text | None = None
    parent: Text | None = None


def _read_biases(given: Any) -> Any:
    """Make (token id, bias) pairs of an object whose names are token ids."""
    if not isinstance(given, dict):
        return given
    return [(_read_token(name), bias) for name, bias in given.items()]


def _read_token(name: Any) -> Any:
    if isinstance(name, str) and name.isdecimal() and name.isascii() and len(name) < 10:
        return int(name)
    raise PydanticCustomError("token", "the names must be token ids, as decimal numbers")


Bias = tuple[int, Annotated[float, Field(ge=-100, le=100)]]
Biases = Annotated[
    list[Bias],
    BeforeValidator(_read_biases),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": "number"}}),
]


def _read_top_k(top_k: Any) -> Any:
    # Elsewhere -1 is a usual way to say: all of them.
    return 0 if top_k == -1 else top_k


class ChatRequest(Body):
    """The body of `POST /v1/chat/completions`."""

    model: Text
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    temperature: float = Field(Sampling.temperature, ge=0, le=2)
    top_p: float = Field(Sampling.top_p, gt=0, le=1)
    top_k: Annotated[int, BeforeValidator(_read_top_k)] = Field(0, ge=0, lt=2**31)
    min_p: float = Field(0.0, ge=0, le=1)
    typical_p: float = Field(1.0, gt=0, le=1)
    repetition_penalty: float = Field(1.0, ge=0.01, le=10)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    logit_bias: Biases = Field(default_factory=list[Bias], max_length=MAX_LOGIT_BIASES)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Annotated[
        list[Annotated[Text, Field(min_length=1, max_length=256)]], BeforeValidator(_list_stop)
    ] = Field(default_factory=list, max_length=4)
    stop_token_ids: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(
        default_factory=list[int], max_length=MAX_STOP_TOKENS
    )
    ignore_eos: bool = False
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=MAX_LOGPROBS)
    response_format: ResponseFormat | None = None
    tools: list[ChatTool] = Field(default_factory=list[ChatTool], max_length=MAX_TOOLS)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool = True
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    user: Text | None = Field(None, max_length=512)
    fluvial: SessionChoice | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, data: Any) -> Any:
        return drop_neutral(data, neutral=NEUTRAL)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if None not in (self.max_tokens, self.max_completion_tokens) and (
            self.max_tokens != self.max_completion_tokens
        ):
            raise PydanticCustomError(
                "limits", "it differs from max_tokens", {"param": "max_completion_tokens"}
            )
        if self.top_logprobs and not self.logprobs:
            raise PydanticCustomError(
                "logprobs", "it needs logprobs to be true", {"param": "top_logprobs"}
            )
        names = [each.function.name for each in self.tools]
        if len(set(names)) != len(names):
            raise PydanticCustomError("tools", "two have the same name", {"param": "tools"})
        return self

    def sampling(self) -> Sampling:
        """Say how tokens are to be drawn."""
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            typical_p=self.typical_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=tuple(self.logit_bias),
            seed=self.seed,
            max_tokens=self.max_tokens or self.max_completion_tokens,
            stop=tuple(self.stop),
            stop_token_ids=tuple(self.stop_token_ids),
            ignore_eos=self.ignore_eos,
            logprobs=self.top_logprobs if self.logprobs else None,
            grammar=self.response_format.grammar() if self.response_format else None,
        )

    def tool_use(self) -> ToolUse:
        """Say which tools may be called."""
        tools = tuple(each.tool() for each in self.tools)
        choice = self.tool_choice
        if choice is None or choice.type == "function":
            named = choice.function if choice is not None else None
            if named is not None:
                return ToolUse(tools=tools, choice="named", name=named.name)
            return ToolUse(tools=tools, parallel=self.parallel_tool_calls)
        return ToolUse(tools=tools, choice=choice.type, parallel=self.parallel_tool_calls)

    def turns(self) -> list[Message]:
        """Return the messages as the chat template sees them."""
        return [each.turn() for each in self.messages]
