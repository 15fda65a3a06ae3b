"""What commands do to a data folder by themselves, on record in its audit log."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fluvial.config import Settings

ACTOR = "operator"


def record_act(settings: "Settings", kind: str, subject: str, **detail: str | int) -> None:
    """Put an act of the operator on record. Raises StorageError; the act is done then."""
    from fluvial.store.audit import AuditLog

    log = AuditLog.open(settings.data_dir, limit_bytes=settings.audit_bytes)
    log.append(kind, actor=ACTOR, subject=subject, detail=detail)
