"""Notes on versions as words and as JSON: a stable `code`, and the figures that belong to it."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeGuard, assert_never, cast

from fluvial.version_note import (
    Adopted,
    CanaryFailed,
    ChunkNotFinite,
    Compressed,
    Imported,
    NotFinite,
    OldDrift,
    OverBudget,
    ParentDeleted,
    PlainNote,
    ReadsWorse,
    ScaledBack,
    Unmeasured,
    VersionNote,
)

Json = dict[str, Any]

_KINDS: dict[str, type[VersionNote]] = {
    kind.code: kind
    for kind in (
        PlainNote,
        OldDrift,
        ParentDeleted,
        Unmeasured,
        ScaledBack,
        OverBudget,
        NotFinite,
        ChunkNotFinite,
        ReadsWorse,
        Compressed,
        Imported,
        Adopted,
        CanaryFailed,
    )
}

_MIGRATED = re.compile(
    r"drift was measured as a change in weights then: (?P<change>\d\.\d\de[+-]\d\d)"
    r"(?P<deleted>; its parent was deleted before parents had names)?"
)


def tell(note: VersionNote) -> str:
    """Return a note in English."""
    match note:
        case OverBudget() | NotFinite() | ChunkNotFinite() | ReadsWorse():
            return _tell_return(note)
        case Compressed():
            of = "" if note.from_rank is None else f" of {note.from_rank}"
            return f"rank {note.rank}{of} holds all but {note.loss:.2%}"
        case ScaledBack():
            if note.drift is None:
                return "scaled back: its drift was not finite"
            return f"scaled back: its drift was {note.drift:.3g}, over {note.budget:g}"
        case Unmeasured():
            return "its drift was not measured"
        case Imported():
            return f"imported from {note.format}"
        case Adopted():
            return f"adopted {note.name}"
        case CanaryFailed():
            return _tell_canary(note)
        case OldDrift() | ParentDeleted() | PlainNote():
            return _tell_old(note)
        case _:
            assert_never(note)


def _tell_canary(note: CanaryFailed) -> str:
    failed = f"failed {note.failed} of {note.counted} hidden test questions that the base passes"
    if note.back_to is None:
        return failed
    before = "the base" if note.back_to == 0 else f"version {note.back_to}"
    return f"{failed}; {before} is in force again, and learning is frozen"


def _tell_old(note: OldDrift | ParentDeleted | PlainNote) -> str:
    match note:
        case OldDrift():
            return f"drift was measured as a change in weights then: {note.change:.2e}"
        case ParentDeleted():
            return "its parent was deleted before parents had names"
        case PlainNote():
            return note.text


def _tell_return(note: OverBudget | NotFinite | ChunkNotFinite | ReadsWorse) -> str:
    match note:
        case OverBudget():
            return (
                "restored the version before: its drift was over the budget of "
                f"{note.budget:g} nats a token, and stayed so when it was scaled back"
            )
        case NotFinite():
            return "restored the version before: the adapter was not finite"
        case ChunkNotFinite():
            return "went back to the version before: a chunk's loss or gradient was not finite"
        case ReadsWorse():
            worse = f"it read {100 * note.excess:.0f} % worse than the base"
            if note.halved:
                return f"halved the version before: {worse}, from the first chunk on"
            return f"restored the version before: {worse}"


def tell_all(notes: Sequence[VersionNote]) -> str:
    """Return notes in English, in one line; "" where there are none."""
    return "; ".join(map(tell, notes))


def view(note: VersionNote) -> Json:
    """Return a note as a JSON object: its `code`, and its figures."""
    figures = asdict(note)
    return {"code": figures.pop("code"), **figures}


def read(fields: Mapping[str, Any]) -> VersionNote:
    """Return the note of a JSON object; one that is not known is kept as plain text."""
    figures = {**fields}
    kind = _KINDS.get(figures.pop("code", ""))
    try:
        return PlainNote(text=json.dumps(fields)) if kind is None else kind(**figures)
    except TypeError:
        return PlainNote(text=json.dumps(fields))


def encode(notes: Sequence[VersionNote]) -> str:
    """Return notes as the store keeps them: a JSON list, or "" for none."""
    return json.dumps([view(note) for note in notes], ensure_ascii=False) if notes else ""


def decode(text: str) -> tuple[VersionNote, ...]:
    """Return the notes that the store kept; before they had codes, they were one English text."""
    if not text:
        return ()
    try:
        found = json.loads(text) if text.startswith("[") else None
    except ValueError:
        found = None
    if not _is_list_of_objects(found):
        return _decode_words(text)
    return tuple(map(read, found))


def _decode_words(text: str) -> tuple[VersionNote, ...]:
    """Return what migration 0003 says as notes, and other words as they are."""
    found = _MIGRATED.fullmatch(text)
    if found is None:
        return (PlainNote(text=text),)
    old = OldDrift(change=float(found["change"]))
    return (old, ParentDeleted()) if found["deleted"] else (old,)


def _is_list_of_objects(found: Any) -> TypeGuard[list[Json]]:
    return isinstance(found, list) and all(
        isinstance(each, dict) for each in cast(list[object], found)
    )
