"""Data folders that earlier tables made still open, with everything in them."""

import importlib.util
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from fluvial.adapt.naming import name_version
from fluvial.note import decode
from fluvial.store import Store
from fluvial.store.migration import HEAD

GOLDEN = Path(__file__).parent.parent / "golden"
FOLDERS = sorted(GOLDEN.glob("store-*"))

NEW_FIELDS: dict[str, dict[str, object]] = {
    "messages": {"passages": [], "guard": None},
    "versions": {
        "origin": "read",
        "text_sha256": "",
        "skipped": 0,
        "score_before_bpb": None,
        "frozen_bpb": None,
        "scale": 1.0,
        "rule": "",
        "pinned": False,
        "expires_at": None,
    },
}
"""What older folders tell of fields that came later."""
NEW_IN_SCORES: dict[str, object] = {"reason": "", "seconds": None}

spec = importlib.util.spec_from_file_location("make_store", GOLDEN / "make_store.py")
assert spec is not None
assert spec.loader is not None
make_store = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_store)


def test_there_is_one_for_the_newest_tables() -> None:
    assert f"store-{HEAD}" in [folder.name for folder in FOLDERS]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_old_data_folder_opens_with_everything_in_it(tmp_path: Path, folder: Path) -> None:
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    data_dir = tmp_path / "data"
    shutil.copytree(folder, data_dir)
    store = Store.open(data_dir)
    found = {owner: make_store.describe(store, owner=owner) for owner in expected}
    assert json.loads(json.dumps(found)) == {
        owner: [_add_new_fields(session) for session in sessions]
        for owner, sessions in expected.items()
    }
    session = store.sessions(owner="ann")[0]
    assert store.next_version(session) == 3
    parent = store.messages(session)[-1].id
    turn = [make_store.Message(role="user", content="more")]
    store.append_turn(session, messages=turn, parent=parent, version=1)
    assert len(store.messages(session)) == 5
    store.close()


def _add_new_fields(session: dict[str, Any]) -> dict[str, Any]:
    changed = {
        kind: [{**new, **record} for record in session[kind]] for kind, new in NEW_FIELDS.items()
    }
    versions = [_name_old(each, session=session) for each in changed["versions"]]
    versions = [_name_note(each) for each in versions]
    published = [
        [name, {**copy, "version": _name_note(copy["version"])}, data]
        for name, copy, data in session.get("published", [])
    ]
    scores = [[index, {**NEW_IN_SCORES, **score}] for index, score in session["scores"]]
    whole = {**session, **changed, "scores": scores, "versions": versions}
    return {**whole, "published": published}


def _name_note(version: dict[str, Any]) -> dict[str, Any]:
    """Before notes had codes, a version had one, in words."""
    if "notes" in version:
        return version
    rest = {key: value for key, value in version.items() if key != "note"}
    notes = [asdict(note) for note in decode(version["note"])]
    return {**rest, "notes": notes}


def _name_old(version: dict[str, Any], *, session: dict[str, Any]) -> dict[str, Any]:
    """Before versions had ids, all were read, by a rule that was not noted."""
    if "id" in version:
        return version
    checkpoint = session["session"]["checkpoint"]
    ids = {
        each["number"]: name_version(checkpoint=checkpoint, rule="", sha256=each["sha256"])
        for each in session["versions"]
    }
    parents = [ids[version["parent"]]] if version["parent"] else []
    note = f"drift was measured as a change in weights then: {version['drift']:.2e}"
    new = {"id": ids[version["number"]], "parents": parents, "note": note, "drift": None}
    return {**version, **new}
