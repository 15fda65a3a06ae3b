"""How a server is exposed, on record: when it starts, on which address, with which key and release.

Keys are never in the log: it has keyed digests of them, so that a change of key shows.
"""

import logging

from fluvial.config import Settings
from fluvial.errors import StorageError
from fluvial.service.protocol import Audit
from fluvial.service.record import SYSTEM, Record
from fluvial.store.audit_check import find_last
from fluvial.types import ModelInfo

STARTED, STOPPED = "server.started", "server.stopped"

log = logging.getLogger(__name__)


def record_start(audit: Audit, settings: Settings, *, model: ModelInfo) -> None:
    """Record the start of a server, and what became of its API key since the start before.

    Raises StorageError: a server that can't keep its record does not start.
    """
    key = None if settings.api_key is None else settings.api_key.get_secret_value()
    digest = None if key is None else audit.digest(key)
    known = _find_key(settings)
    detail = {
        "weights": model.sha256,
        "host": settings.host,
        "port": settings.port,
        "mode": settings.mode,
        "guard": settings.guard,
        "learning": settings.learning,
        "audit_texts": settings.audit_texts,
        "key_hmac": digest,
    }
    audit.append(STARTED, actor=SYSTEM, subject=model.name, detail=detail)
    if digest != known:
        kind = "key.unset" if digest is None else "key.set" if known is None else "key.changed"
        audit.append(kind, actor=SYSTEM, subject="api_key", detail={})


def record_stop(record: Record, *, model: str) -> None:
    """Record that a server ended as it should; never raises."""
    record.note_own(STOPPED, model)


def _find_key(settings: Settings) -> object:
    """Return the digest of the key at the start before; None where there was none."""
    try:
        before = find_last(settings.data_dir, STARTED)
    except StorageError as error:  # `fluvial audit verify` says it for good; people need answers
        log.error("the audit log: %s", error)
        return None
    return None if before is None else before.detail.get("key_hmac")
