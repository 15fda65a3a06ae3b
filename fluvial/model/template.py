"""Messages to token ids through the chat template of the model file.

The template writes the special tokens; nothing inside a message can. Contents are shielded before
rendering (`Tokenizer.shield`), and turned back after the special tokens have been found.

The environment is that of `apply_chat_template` in `transformers`, which templates are written for.
One difference: a template that looks for markup inside a content (say `</think>`) finds none.
"""

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

from fluvial.errors import InputError, ModelError, TooLargeError
from fluvial.model import tokenizer_folder, tool_format, vocabulary
from fluvial.model.renderer import Renderer
from fluvial.model.tokenizer import Tokenizer
from fluvial.model.vocabulary import Kind
from fluvial.types import Message, Role, Tool, ToolCall

MAX_SOURCE_CHARS = 128 * 1024
MAX_CONTENT_CHARS = 8 * 2**20
MAX_WRITTEN_CHARS = 2**20
RENDER_LIMIT_S = 10.0

CHATML = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
"""What a model without a template gets when its vocabulary has these two special tokens."""
GEMMA = (
    "{{- '<bos>' -}}{%- set ns = namespace(before='') -%}"
    "{%- for message in messages -%}"
    "{%- if message.role == 'system' -%}"
    "{%- set ns.before = ns.before + message.content + '\n\n' -%}"
    "{%- else -%}"
    "{{- '<start_of_turn>' + ('model' if message.role == 'assistant' else 'user') + '\n' -}}"
    "{%- if message.role == 'user' -%}{{- ns.before -}}{%- set ns.before = '' -%}{%- endif -%}"
    "{{- message.content + '<end_of_turn>\n' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<start_of_turn>model\n' -}}{%- endif -%}"
)
"""The same for Gemma's turns; instructions go to the front of the next question."""
_FALLBACKS = (
    (("<|im_start|>", "<|im_end|>"), CHATML),
    (("<bos>", "<start_of_turn>", "<end_of_turn>"), GEMMA),
)
_ROLES = get_args(Role)
_PROBE_TOOL = Tool(name="probe_tool")
_PROBE = (
    Message(role="user", content="q"),
    Message(
        role="assistant",
        content="",
        tool_calls=(ToolCall(id="0", name="probe_call", arguments='{"x": 1}'),),
    ),
    Message(role="tool", content="probe_result", tool_call_id="0"),
)
_PROBE_CALL = '<tool_call>\n{"name": "probe_call", "arguments": {"x": 1}}\n</tool_call>'


class Template:
    """The chat format of one model. Safe to share between threads; `close` frees its process."""

    def __init__(
        self, source: str, *, names: Mapping[str, str], render_limit_s: float = RENDER_LIMIT_S
    ) -> None:
        """Compile `source`.

        Args: `names` are special tokens by role (`bos_token`, ...), as the template sees them;
        `render_limit_s` bounds each rendering, in seconds.
        Raises ModelError when the source is too long or no template.
        """
        if len(source) > MAX_SOURCE_CHARS:
            raise ModelError(
                f"the chat template is {len(source):,} characters long; "
                f"at most {MAX_SOURCE_CHARS:,} are supported"
            )
        self.source = source
        self._names = dict(names)
        self._renderer = Renderer(source, limit_s=render_limit_s)
        self._probing = threading.Lock()
        self._knows_tools: bool | None = None

    @property
    def sha256(self) -> str:
        """The digest of its source, and of the special tokens that it is given."""
        parts = json.dumps([self.source, self._names], sort_keys=True)
        return hashlib.sha256(parts.encode()).hexdigest()

    @staticmethod
    def from_gguf(metadata: Mapping[str, object]) -> "Template":
        """Return the template of a GGUF file, or ChatML or Gemma's when it knows their tokens.

        Raises ModelError when there is none of them, or the template is not a sound one.
        """
        tokens = vocabulary.read_tokens(metadata)
        named = vocabulary.read_named(metadata, tokens)
        source = metadata.get("tokenizer.chat_template")
        if source is None:
            kinds = vocabulary.read_kinds(metadata, tokens, controls=set(named.values()))
            controls = {t for t, k in zip(tokens, kinds, strict=True) if k == Kind.CONTROL}
            source = _choose_fallback(controls)
        return Template(_check(source), names={role: tokens[i] for role, i in named.items()})

    @staticmethod
    def from_folder(path: Path) -> "Template":
        """Return the template of a safetensors checkpoint; see `from_gguf` for the fallback."""
        config = tokenizer_folder.read_config(path)
        source = _read_file(path / "chat_template.jinja") or _find_default(config)
        if source is None:
            source = _choose_fallback(tokenizer_folder.read_controls(path))
        return Template(_check(source), names=tokenizer_folder.read_names(config))

    def encode(
        self, messages: Sequence[Message], *, tokenizer: Tokenizer, tools: Sequence[Tool] = ()
    ) -> list[int]:
        """Return the ids of a conversation, up to where the assistant is to write.

        `tools` are those that it may call (see tool_format.py). No content, argument or
        description, whatever it holds, becomes a special token.
        Raises InputError for an empty list, a role or messages the template refuses, TooLargeError
        for over 8 Mi characters, ModelError when the template fails or does not end in time.
        """
        size = _check_messages(messages, tools)
        turns = tool_format.make_turns(messages, shield=tokenizer.shield)
        values = tool_format.make_tools(tools, shield=tokenizer.shield)
        has_tools = bool(tools) or any(m.tool_calls or m.role == "tool" for m in messages)
        if has_tools and not self.knows_tools:
            turns, values = tool_format.write_plain(turns, values), []
        text = self._render(turns, values, size=size)
        try:
            return tokenizer.encode_marked(text)
        except InputError as error:
            raise ModelError(f"the model's chat template wrote wrong text: {error}") from None

    @property
    def knows_tools(self) -> bool:
        """Whether the template itself writes tools, calls and results, in the form we speak."""
        with self._probing:
            if self._knows_tools is None:
                self._knows_tools = "<tool_call>" in self.source and self._probe()
            return self._knows_tools

    def close(self) -> None:
        """End the rendering process; a later `encode` starts it again."""
        self._renderer.close()

    def _probe(self) -> bool:
        turns = tool_format.make_turns(_PROBE, shield=str)
        tools = tool_format.make_tools([_PROBE_TOOL], shield=str)
        try:
            text = self._render(turns, tools, size=0)
        except (InputError, ModelError):
            return False
        return all(part in text for part in (_PROBE_TOOL.name, _PROBE_CALL, "probe_result"))

    def _render(
        self, turns: list[dict[str, Any]], tools: list[dict[str, Any]], *, size: int
    ) -> str:
        variables: dict[str, Any] = {
            **self._names,
            "messages": turns,
            "tools": tools or None,
            "documents": None,
            "add_generation_prompt": True,
        }
        return self._renderer.render(variables, limit_chars=MAX_WRITTEN_CHARS + 4 * size)


def _check_messages(messages: Sequence[Message], tools: Sequence[Tool]) -> int:
    """Return the number of characters that were written."""
    if not messages:
        raise InputError("there are no messages; send at least one", param="messages")
    for message in messages:
        if message.role not in _ROLES:
            raise InputError(
                f"unknown role {message.role[:40]!r}; the roles are {', '.join(_ROLES)}",
                param="messages",
            )
    size = tool_format.measure(messages, tools)
    if size > MAX_CONTENT_CHARS:
        raise TooLargeError(
            f"the messages hold {size:,} characters; at most {MAX_CONTENT_CHARS:,} are taken",
            param="messages",
        )
    return size


def _check(source: object) -> str:
    if not isinstance(source, str):
        raise ModelError("the chat template is not a string")
    return source


def _choose_fallback(controls: set[str]) -> str:
    for needed, source in _FALLBACKS:
        if controls.issuperset(needed):
            return source
    known = " nor ".join(" ".join(needed) for needed, _ in _FALLBACKS)
    raise ModelError(
        f"the model has no chat template, and its vocabulary has neither {known}; "
        "it can't be used for conversations"
    )


def _read_file(file: Path) -> str | None:
    try:
        if file.stat().st_size > 4 * MAX_SOURCE_CHARS:
            raise ModelError(f"{file.name} is over {4 * MAX_SOURCE_CHARS:,} bytes")
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModelError(f"{file} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ModelError(f"{file.name} is not UTF-8") from None


def _find_default(config: Mapping[str, Any]) -> object:
    value: object = config.get("chat_template")
    if isinstance(value, list):
        named = [v for v in cast("list[object]", value) if isinstance(v, dict)]
        tables = cast("list[dict[str, object]]", named)
        return next((t.get("template") for t in tables if t.get("name") == "default"), None)
    return value
