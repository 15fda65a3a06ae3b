"""The objects of docs/api.md that tell of versions."""

from fluvial.adapt.naming import SHORT_CHARS
from fluvial.note import tell_all, view
from fluvial.server.view import Json
from fluvial.service.comparison import Comparison
from fluvial.service.state import VersionList
from fluvial.types import BASE_VERSION, Publication, Version


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
        "note": tell_all(version.notes),
        "notes": [view(note) for note in version.notes],
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
        "note": tell_all(version.notes),
        "notes": [view(note) for note in version.notes],
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
