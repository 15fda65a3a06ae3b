"""The frozen vocabulary that every layer speaks. Imports no tensor library, and nothing
of ours but the notes on versions.

Times are seconds since the epoch (UTC). Losses are nats, summed over the tokens named beside them.
"""

from dataclasses import dataclass, field
from typing import Literal

from fluvial.version_note import VersionNote

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal[
    "stop", "length", "tool_calls", "content_filter", "cancelled", "deadline", "error"
]
GuardAction = Literal["redact", "refuse", "stop"]
GrammarKind = Literal["json_schema", "json_object", "regex", "lark"]
ReadingKind = Literal["document", "message"]
ReadingStatus = Literal["queued", "reading", "done", "cancelled", "failed"]
Learning = Literal["on", "frozen"]
Unlearned = Literal["", "frozen", "short", "unsurprising", "not_finite"]
VersionOrigin = Literal["read", "merge", "import", "adopt", "branch"]

BASE_VERSION = 0
"""The version number that means: exactly the base checkpoint, nothing learned."""


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A function that a model may call. `parameters` is a JSON schema as text, an object's."""

    name: str
    description: str = ""
    parameters: str = '{"type": "object", "properties": {}}'


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A call that a model made. `arguments` is the text of a JSON object."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn as the chat template sees it.

    `tool_calls` only from the assistant; `tool_call_id`, the call that is answered, only from a
    tool.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Grammar:
    """What an answer must look like: a JSON schema, any JSON object, a regex, a Lark grammar.

    `text` is empty for "json_object".
    """

    kind: GrammarKind
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn; `fluvial.engine.sampler` says in which order, and checks the ranges.

    `temperature` 0 is greedy; `top_p` in (0, 1]; `top_k` 0, `min_p` 0, `typical_p` 1 and penalties
    of 1 (repetition) or 0 (the others) are off. `logit_bias` holds (token id, bias) pairs.
    `max_tokens` None means what fits. `logprobs` None is off; else the number of alternatives told
    for each token, which may be 0. `ignore_eos` goes on past the tokens that end a turn.
    """

    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    grammar: Grammar | None = None


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens of one answer. `cached_tokens` of the prompt were not computed again."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class TokenLogprob:
    """A token's natural logarithm of probability, and the most probable ones in its place.

    `bytes` is None for a control token; its `text` is then its name. Text of a part of a character
    holds U+FFFD. `top` is sorted, the most probable first; alternatives have none of their own.
    """

    text: str
    bytes: "bytes | None"
    logprob: float
    top: "tuple[TokenLogprob, ...]" = ()


@dataclass(frozen=True, kw_only=True)
class CallDelta:
    """A piece of a tool call. The first one of a call carries its `id` and `name`."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class GuardNote:
    """What the guard did to an answer, the strictest of it, and in which category of its policy.

    `message` tells people what happened and what can be asked instead; empty where nothing was
    kept from them.
    """

    action: GuardAction
    category: str
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Delta:
    """A piece of an answer. The last one carries `finish` and `usage`; its text may be empty.

    `logprobs` are those of the tokens that the text has come to the end of, in order. `guard` is
    carried by the last one, where the guard did anything.
    """

    text: str
    finish: FinishReason | None = None
    usage: Usage | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    calls: tuple[CallDelta, ...] = ()
    guard: GuardNote | None = None


@dataclass(frozen=True, kw_only=True)
class Session:
    """A conversation: messages, readings, one adapter history, one owner.

    `version` is the adapter version in force (0: the base). `checkpoint` is the sha256 of the model
    file its versions belong to.
    """

    id: str
    owner: str
    title: str
    model: str
    checkpoint: str
    learning: Learning
    version: int
    created_at: float
    updated_at: float


@dataclass(frozen=True, kw_only=True)
class PassageNote:
    """How many tokens of a document, a reading with this id and name, stood beside a question."""

    reading: str
    name: str
    tokens: int


@dataclass(frozen=True, kw_only=True)
class StoredMessage:
    """A message of a session. `finish`: None for a user's, and while an answer is being written.

    `passages` tells what stood beside the question; empty but for answers. `guard` tells what the
    guard did to an answer.
    """

    id: str
    session: str
    position: int
    role: Role
    content: str
    created_at: float
    version: int
    finish: FinishReason | None = None
    passages: tuple[PassageNote, ...] = ()
    guard: GuardNote | None = None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A text that a session reads: scored chunk by chunk, then learned from.

    `tokens_total` is None until the text has been tokenised. `tokens_read` counts what is scored
    AND safe in a saved version (or needed none); a restart goes on from there.
    """

    id: str
    session: str
    kind: ReadingKind
    name: str
    status: ReadingStatus
    bytes: int
    tokens_total: int | None
    tokens_read: int
    created_at: float
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class ChunkScore:
    """The evidence of one chunk: its loss before it was learned from, beside the frozen base's.

    `start` is the index of its first token in the reading. `frozen_nats` and `adapted_nats` are
    summed over `tokens`, on the same window. `version` is the version in force when it was scored;
    `learned` tells whether an update followed, `reason` why none did: the session was frozen, the
    chunk too short, left out by the rule ("unsurprising": its share or its gate), or its loss or
    gradient not finite. `seconds` is the time that scoring and learning took. Older scores tell
    neither ("", None).
    """

    session: str
    reading: str
    start: int
    tokens: int
    bytes: int
    frozen_nats: float
    adapted_nats: float
    version: int
    learned: bool
    created_at: float
    reason: Unlearned = ""
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Version:
    """One immutable state of a session's adapter. Numbers start at 1 and are never used again.

    `id` names the content: the same base, rule and adapter have the same id everywhere; see
    `fluvial.adapt.naming`. `number` is its handle in the session, `parent` the number of the one
    that was in force before it (0: the base), which an undo goes back to. `parents` are the ids
    that its content was made from: none means the base, two or more a merge. A branch and an
    adopted version are copies, with the id and the parents of what they were copied from.

    `text_sha256` digests the text learned since the parent ("" if none). Both `_bpb` are bits per
    byte of that text before it was learned from: under the adapter as it was, and under the frozen
    base. `drift` is the divergence from the base on a fixed probe, nats a token; None where it was
    not measured. `scale` is less than 1 where a version was scaled back to stay in its drift
    budget; `notes` say why, or what else is not as usual. `rule` is JSON. What is `pinned` is kept
    by quota and expiry.
    """

    session: str
    number: int
    parent: int
    reading: str | None
    tokens_learned: int
    updates: int
    drift: float | None
    bytes: int
    sha256: str
    created_at: float
    id: str = ""
    parents: tuple[str, ...] = ()
    origin: VersionOrigin = "read"
    text_sha256: str = ""
    skipped: int = 0
    score_before_bpb: float | None = None
    frozen_bpb: float | None = None
    scale: float = 1.0
    notes: tuple[VersionNote, ...] = ()
    rule: str = ""
    pinned: bool = False
    expires_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class Publication:
    """A copy of a version that its owner has published to everyone on this server, under a name.

    Its `version` tells nothing of the session it comes from: neither that, nor what was read there.
    """

    id: str
    name: str
    owner: str
    model: str
    checkpoint: str
    version: Version
    created_at: float


@dataclass(frozen=True, kw_only=True)
class Holding:
    """What a version takes on the disk, and what speaks for keeping it.

    `is_parent`: an undo of the version in force would go back to it.
    """

    session: str
    owner: str
    number: int
    bytes: int
    created_at: float
    pinned: bool
    in_force: bool
    is_parent: bool


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """An installed model, as people see it. `sha256` names the checkpoint."""

    name: str
    family: str
    languages: tuple[str, ...]
    licence: str
    bytes: int
    sha256: str
    source: str
    path: str
    created_at: float = field(default=0.0)
