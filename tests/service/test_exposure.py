"""How a server is exposed is on record, and its key never is."""

from pathlib import Path
from typing import Any

from fluvial.config import load
from fluvial.service.exposure import record_start
from fluvial.store.audit import AuditLog
from fluvial.store.audit_check import read_entries, verify
from fluvial.store.audit_folder import AuditFolder
from fluvial.testing import MODEL

KEY, OTHER = "correct horse battery", "staple staple staple"


def start(data_dir: Path, **given: Any) -> None:
    settings = load(overrides={"data_dir": data_dir, **given})
    record_start(AuditLog.open(data_dir), settings, model=MODEL)


def test_a_key_that_was_set_changed_or_unset_is_told(tmp_path: Path) -> None:
    for given in ({}, {}, {"api_key": KEY}, {"api_key": KEY}, {"api_key": OTHER}, {}):
        start(tmp_path, **given)
    kinds = [entry.kind for entry in read_entries(tmp_path)]
    assert kinds == [
        "audit.begun",
        *("server.started", "server.started"),
        *("server.started", "key.set"),
        "server.started",
        *("server.started", "key.changed"),
        *("server.started", "key.unset"),
    ]
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY.encode() not in everything
    assert OTHER.encode() not in everything


def test_the_settings_of_exposure_are_told(tmp_path: Path) -> None:
    start(tmp_path, port=9000, guard="off", audit_texts=True)
    entry = list(read_entries(tmp_path))[-1]
    assert entry.subject == MODEL.name
    assert entry.detail == {
        "weights": MODEL.sha256,
        "host": "127.0.0.1",
        "port": 9000,
        "mode": "development",
        "guard": "off",
        "learning": True,
        "audit_texts": True,
        "key_hmac": None,
    }


def test_a_log_with_a_damaged_entry_is_gone_on_with(tmp_path: Path) -> None:
    start(tmp_path, api_key=KEY)
    AuditLog.open(tmp_path).append("test.done", actor="ann", subject="x", detail={})
    (path,) = AuditFolder(tmp_path).list_segments()
    path.write_bytes(path.read_bytes().replace(b'"key.set"', b'"key.sat"'))
    start(tmp_path, api_key=KEY)
    found = verify(tmp_path)
    assert (found.broken, found.problem is not None) == (3, True)
    assert path.read_bytes().count(b'"server.started"') == 2
