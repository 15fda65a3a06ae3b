"""The objects of docs/api.md, made from records. Losses become bits here."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fluvial.adapt.naming import SHORT_CHARS
from fluvial.model.outline import name_runtime
from fluvial.service.comparison import Comparison
from fluvial.service.state import ReadingState, SessionState, VersionList
from fluvial.service.turn import Receipt
from fluvial.types import (
    BASE_VERSION,
    CallDelta,
    ChunkScore,
    ModelInfo,
    PassageNote,
    Publication,
    StoredMessage,
    TokenLogprob,
    Usage,
    Version,
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
    }


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
        "created_at": score.created_at,
    }


def view_version(version: Version) -> Json:
    """Make a version object."""
    return {
        "number": version.number,
        "id": version.id,
        "short": version.id[:SHORT_CHARS],
        "parent": version.parent,
        "parents": list(version.parents),
        "origin": version.origin,
        "reading": version.reading,
        "text_sha256": version.text_sha256,
        "tokens_learned": version.tokens_learned,
        "updates": version.updates,
        "skipped": version.skipped,
        "score_before_bits_per_byte": version.score_before_bpb,
        "frozen_bits_per_byte": version.frozen_bpb,
        "drift": version.drift,
        "scale": version.scale,
        "note": version.note,
        "rule": version.rule,
        "pinned": version.pinned,
        "expires_at": version.expires_at,
        "bytes": version.bytes,
        "sha256": version.sha256,
        "created_at": version.created_at,
    }


def view_versions(found: VersionList) -> Json:
    """Make the list of a session's versions."""
    return {
        "object": "list",
        "current": found.current,
        "drift_budget": found.drift_budget,
        "bytes": found.bytes,
        "limit_bytes": found.limit_bytes,
        "data": [view_version(version) for version in found.versions],
    }


def view_publication(publication: Publication, *, owner: str) -> Json:
    """Make a publication object, for `owner`. Who else published it is not told."""
    version = publication.version
    return {
        "name": publication.name,
        "object": "publication",
        "yours": publication.owner == owner,
        "model": publication.model,
        "checkpoint": publication.checkpoint,
        "id": version.id,
        "short": version.id[:SHORT_CHARS],
        "parents": list(version.parents),
        "origin": version.origin,
        "tokens_learned": version.tokens_learned,
        "drift": version.drift,
        "note": version.note,
        "bytes": version.bytes,
        "sha256": version.sha256,
        "created_at": publication.created_at,
    }


def view_comparison(found: Comparison) -> Json:
    """Make a comparison object."""
    return {
        "object": "comparison",
        "tokens": found.tokens,
        "bytes": found.bytes,
        "a": {"number": found.a, "bits_per_byte": found.a_bpb},
        "b": {"number": found.b, "bits_per_byte": found.b_bpb},
        "base": {"number": BASE_VERSION, "bits_per_byte": found.base_bpb},
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
