"""The objects of docs/api.md, made from records. Losses become bits here.

Those of versions are in `view_version.py`.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fluvial.model.outline import name_runtime
from fluvial.service.state import ReadingState, SessionState
from fluvial.service.turn import Receipt
from fluvial.types import (
    CallDelta,
    ChunkScore,
    GuardNote,
    ModelInfo,
    PassageNote,
    StoredMessage,
    TokenLogprob,
    Usage,
)

Json = dict[str, Any]


def view_session(state: SessionState) -> Json:
    """Make a session object."""
    session = state.session
    return {
        "id": session.id,
        "object": "session",
        "title": session.title,
        "model": session.model,
        "learning": session.learning,
        "version": session.version,
        "created_at": session.created_at,
        "updated_at": session.updated_at,
        "busy": state.busy,
        "reading": state.reading,
        "available": state.available,
        "context": {"used_tokens": state.used_tokens, "limit_tokens": state.limit_tokens},
    }


def view_message(message: StoredMessage) -> Json:
    """Make a message object."""
    return {
        "id": message.id,
        "role": message.role,
        "content": message.content,
        "created_at": message.created_at,
        "version": message.version,
        "finish": message.finish,
        "passages": [_view_passage(note) for note in message.passages],
        "guard": view_guard(message.guard),
    }


def view_guard(note: GuardNote | None) -> Json | None:
    """Make a guard object: what the guard did to an answer; None where it did nothing."""
    if note is None:
        return None
    return {"action": note.action, "category": note.category, "message": note.message}


def view_reading(state: ReadingState) -> Json:
    """Make a reading object."""
    reading = state.reading
    return {
        "id": reading.id,
        "session": reading.session,
        "kind": reading.kind,
        "name": reading.name,
        "status": reading.status,
        "bytes": reading.bytes,
        "text": state.has_text,
        "tokens_total": reading.tokens_total,
        "tokens_read": reading.tokens_read,
        "tokens_per_s": state.tokens_per_s,
        "seconds_left": state.seconds_left,
        "created_at": reading.created_at,
        "error": reading.error,
    }


def view_score(index: int, score: ChunkScore) -> Json:
    """Make a score object: a chunk's bits per byte before it was learned from, and the base's."""
    bits = score.bytes * math.log(2)
    return {
        "index": index,
        "reading": score.reading,
        "start": score.start,
        "tokens": score.tokens,
        "bytes": score.bytes,
        "frozen_bits_per_byte": score.frozen_nats / bits if bits else 0.0,
        "adapted_bits_per_byte": score.adapted_nats / bits if bits else 0.0,
        "version": score.version,
        "learned": score.learned,
        "reason": score.reason,
        "seconds": score.seconds,
        "created_at": score.created_at,
    }


def view_model(model: ModelInfo, *, served: bool) -> Json:
    """Make a model object: OpenAI's four fields, and ours below `fluvial`."""
    return {
        "id": model.name,
        "object": "model",
        "created": int(model.created_at),
        "owned_by": "fluvial",
        "fluvial": {
            "served": served,
            "family": model.family,
            "languages": list(model.languages),
            "licence": model.licence,
            "bytes": model.bytes,
            "sha256": model.sha256,
            "runs_on": name_runtime(Path(model.path)),
        },
    }


def view_usage(usage: Usage) -> Json:
    """Make OpenAI's usage object."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def view_logprobs(logprobs: Sequence[TokenLogprob]) -> Json:
    """Make OpenAI's logprobs object. A control token has no bytes."""
    return {"content": [_view_logprob(each) for each in logprobs], "refusal": None}


def view_call(call: CallDelta) -> Json:
    """Make a piece of a tool call in a stream; the first one names it."""
    if call.name is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {"index": call.index, "id": call.id, "type": "function", "function": function}


def view_receipt(receipt: Receipt) -> Json:
    """Make the `fluvial` object of an answer inside a session."""
    return {
        "session": receipt.session,
        "user_message": receipt.user_message,
        "message": receipt.message,
        "version": receipt.version,
        "passages": [_view_passage(note) for note in receipt.passages],
    }


def _view_passage(note: PassageNote) -> Json:
    return {"reading": note.reading, "name": note.name, "tokens": note.tokens}


def _view_logprob(token: TokenLogprob) -> Json:
    return _view_token(token) | {"top_logprobs": [_view_token(each) for each in token.top]}


def _view_token(token: TokenLogprob) -> Json:
    data = None if token.bytes is None else list(token.bytes)
    return {"token": token.text, "logprob": token.logprob, "bytes": data}
