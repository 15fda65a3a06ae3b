"""What requests may hold. Fields that are not implemented are refused by name, never ignored.

A field that is null counts as not given. A known field whose value asks for nothing but what is
done anyway (`"n": 1`, `"frequency_penalty": 0`) is accepted, because clients send such defaults.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from fluvial.types import Learning, Message, Sampling

NEUTRAL: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
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
    "tool_call_id": (),
}
"""The same for messages: an answer that is sent back as history carries such fields."""


def _unsupported(message: str) -> PydanticCustomError:
    # The braces of a template language would be filled in from a context that is not given.
    return PydanticCustomError("unsupported", "{why}", {"why": message})


def _drop_neutral(data: Any, *, neutral: dict[str, tuple[object, ...]]) -> Any:
    """Leave out nulls and known fields whose value changes nothing; the rest is refused later."""
    if not isinstance(data, dict):
        return data
    return {
        key: value
        for key, value in data.items()
        if value is not None and not _is_neutral(value, neutral.get(key, ()))
    }


def _is_neutral(value: object, allowed: tuple[object, ...]) -> bool:
    # In Python True == 1, in JSON it does not.
    return any(value == each and type(value) is type(each) for each in allowed)


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
        raise _unsupported(
            f"part {number} is of the type {part['type'][:40]!r}: only text is supported"
        )
    if not isinstance(part.get("text"), str):
        raise PydanticCustomError("part", "part {number} has no text", {"number": number})
    return part["text"]


def _check_role(role: Any) -> Any:
    if role in ("developer", "tool", "function"):
        raise _unsupported(f"the role {role!r} is not supported; use system, user or assistant")
    return role


def _check_unicode(text: str) -> str:
    # JSON can spell half of a surrogate pair; no text holds one, and nothing below could store it.
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PydanticCustomError(
            "surrogate",
            "not valid Unicode: a lone surrogate at character {start}",
            {"start": error.start},
        ) from None
    return text


Text = Annotated[str, AfterValidator(_check_unicode)]


def _list_stop(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


class Body(BaseModel):
    """Base of all bodies: JSON types are not converted, unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ChatMessage(Body):
    """One message of a chat completion request."""

    role: Annotated[Literal["system", "user", "assistant"], BeforeValidator(_check_role)]
    content: Annotated[Text, BeforeValidator(_join_parts)]

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, data: Any) -> Any:
        return _drop_neutral(data, neutral=NEUTRAL_MESSAGE)


class StreamOptions(Body):
    """How to stream."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class SessionChoice(Body):
    """Fluvial's extension: which session to answer in, and what the client has seen of it."""

    session: Text | None = None
    parent: Text | None = None


class ChatRequest(Body):
    """The body of `POST /v1/chat/completions`."""

    model: Text
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float = Field(Sampling.temperature, ge=0, le=2)
    top_p: float = Field(Sampling.top_p, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Annotated[
        list[Annotated[Text, Field(min_length=1, max_length=256)]], BeforeValidator(_list_stop)
    ] = Field(default_factory=list, max_length=4)
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    user: Text | None = Field(None, max_length=512)
    fluvial: SessionChoice | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, data: Any) -> Any:
        return _drop_neutral(data, neutral=NEUTRAL)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if None not in (self.max_tokens, self.max_completion_tokens) and (
            self.max_tokens != self.max_completion_tokens
        ):
            raise PydanticCustomError("limits", "max_tokens and max_completion_tokens differ")
        return self

    def sampling(self) -> Sampling:
        """Say how tokens are to be drawn."""
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            max_tokens=self.max_tokens or self.max_completion_tokens,
            stop=tuple(self.stop),
        )

    def turns(self) -> list[Message]:
        """Return the messages as the chat template sees them."""
        return [Message(role=each.role, content=each.content) for each in self.messages]


class NewSession(Body):
    """The body of `POST /v1/sessions`."""

    title: Text = ""


class SessionChange(Body):
    """The body of `PATCH /v1/sessions/{id}`."""

    title: Text | None = None
    learning: Learning | None = None


class NewReading(Body):
    """The JSON body of `POST /v1/sessions/{id}/readings`."""

    name: Text
    text: Text
