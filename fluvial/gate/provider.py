"""Fluvial as a model of Inspect: `fluvial/NAME`, asked over HTTP like by any other client.

So a test sees what people see: model, adapter, template, sampling and guard together. What a task
does not set (temperature, top_p, length) is left to the server. A seed is mixed with each prompt.
Imports inspect_ai: only code that
runs a gate imports this.

Also for Inspect's own commands: `inspect eval TASK --model fluvial/NAME -M url=http://…`.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, cast

import httpx2
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageTool,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    StopReason,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from fluvial.errors import BusyError, ConflictError, EngineError, FluvialError, InputError

PROVIDER = "fluvial"
DEFAULT_URL = "http://127.0.0.1:8420"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
TIMEOUT_S = 900.0
"""A prompt may wait for others; an answer that takes longer than this counts as an error."""

MAX_CONNECTIONS = 8

_FIELDS = {
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "seed": "seed",
    "stop_seqs": "stop",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
}
_STOPS: dict[str, StopReason] = {
    "stop": "stop",
    "length": "max_tokens",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
}


class FluvialAPI(ModelAPI):
    """One server and the model it serves. Tools are not supported."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008  Inspect's own signature
        **model_args: Any,
    ) -> None:
        url = str(model_args.pop("url", None) or base_url or DEFAULT_URL).rstrip("/")
        if model_args:
            raise InputError(f"unknown arguments of the model: {', '.join(sorted(model_args))}")
        super().__init__(model_name, url, api_key, ["FLUVIAL_API_KEY"], config)
        self._http: httpx2.AsyncClient | None = None

    @property
    def http(self) -> httpx2.AsyncClient:
        """The connection, made in the event loop that uses it."""
        if self._http is None:
            url = httpx2.URL(str(self.base_url))
            headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
            self._http = httpx2.AsyncClient(
                base_url=url,
                headers=headers,
                timeout=httpx2.Timeout(TIMEOUT_S, connect=5.0),
                # Nobody closes a model when its event loop ends: no connection is kept.
                limits=httpx2.Limits(max_connections=64, max_keepalive_connections=0),
                # A proxy set for the outside world must not see requests to this machine.
                trust_env=url.host not in LOOPBACK,
            )
        return self._http

    async def call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Send a request of the server's API and return its JSON object, {} where it has none.

        Raises BusyError for 429, EngineError for every other failure, in one line.
        """
        try:
            response = await self.http.request(method, path, json=body)
        except httpx2.HTTPError as error:
            why = str(error) or type(error).__name__
            raise EngineError(f"the server did not answer: {why}", code="no_server") from error
        if response.is_error:
            raise _read_error(response)
        if not response.content:
            return {}
        answer: object = response.json()
        if not isinstance(answer, dict):
            raise EngineError(f"{path} did not answer with an object")
        return cast(dict[str, Any], answer)

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """Ask for one answer. What the guard refused comes back as text, marked as filtered."""
        if tools:
            raise InputError("the model fluvial/… takes no tools yet; test the task without them")
        messages = [_view(each) for each in input]
        body: dict[str, Any] = {"model": self.model_name, "messages": messages}
        body |= _view_config(config)
        if config.seed is not None:
            body["seed"] = _mix(config.seed, messages)
        return _read_answer(await self.call("POST", "/v1/chat/completions", body))

    def should_retry(self, ex: BaseException) -> bool:
        """Retry what was refused because the server is busy, or a session is for a moment."""
        return isinstance(ex, BusyError | ConflictError)

    def connection_key(self) -> str:
        """Count connections for each server."""
        return str(self.base_url)

    def max_connections(self) -> int:
        """Return how many answers are asked for at once: as many as the server writes at once."""
        return MAX_CONNECTIONS

    async def aclose(self) -> None:
        """Close the connection."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None


@modelapi(name=PROVIDER)
def fluvial() -> type[ModelAPI]:
    """Register the provider."""
    return FluvialAPI


def _mix(seed: int, messages: object) -> int:
    """Return a seed for one prompt: were it the same for all, all answers would share one luck."""
    text = json.dumps([seed, messages])
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)


def _view(message: ChatMessage) -> dict[str, str]:
    if isinstance(message, ChatMessageTool) or (
        isinstance(message, ChatMessageAssistant) and message.tool_calls
    ):
        raise InputError("the model fluvial/… takes no tools yet; test the task without them")
    return {"role": message.role, "content": message.text}


def _view_config(config: GenerateConfig) -> dict[str, Any]:
    given = config.model_dump(exclude_none=True)
    body = {name: given[field] for field, name in _FIELDS.items() if field in given}
    return body | dict(config.extra_body or {})


def _read_answer(answer: Mapping[str, Any]) -> ModelOutput:
    try:
        choice = answer["choices"][0]
        message = choice["message"]
        # Where the guard kept everything back, what it says instead is all that people see.
        text = str(message["content"] or message.get("refusal") or "")
        reason = str(choice.get("finish_reason"))
    except (LookupError, TypeError, AttributeError):
        raise EngineError("the server's answer has no message") from None
    output = ModelOutput.from_content(
        model=str(answer.get("model")), content=text, stop_reason=_STOPS.get(reason, "unknown")
    )
    usage = cast(dict[str, int], answer.get("usage") or {})
    output.usage = ModelUsage(
        input_tokens=usage.get("prompt_tokens", 0),
        output_tokens=usage.get("completion_tokens", 0),
        total_tokens=usage.get("total_tokens", 0),
    )
    output.metadata = {"fluvial": choice.get("fluvial") or answer.get("fluvial")}
    return output


def _read_error(response: httpx2.Response) -> FluvialError:
    try:
        error = cast(dict[str, Any], response.json()["error"])
        message, code = str(error["message"]), str(error.get("code"))
    except (ValueError, LookupError, TypeError):
        message, code = f"the server answered HTTP {response.status_code}", "engine_failed"
    if response.status_code == 429:
        return BusyError(message)
    if code == "session_busy":
        return ConflictError(message, code=code)
    return EngineError(message, code=code)
