"""Notes keep their code and figures on the way through the store, and are told in English."""

import json
from dataclasses import asdict
from typing import get_args

import pytest

from fluvial.note import decode, encode, read, tell, tell_all, view
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

WORDS: list[tuple[VersionNote, str]] = [
    (PlainNote(text="zurück 河"), "zurück 河"),
    (
        OldDrift(change=0.001),
        "drift was measured as a change in weights then: 1.00e-03",
    ),
    (ParentDeleted(), "its parent was deleted before parents had names"),
    (Unmeasured(), "its drift was not measured"),
    (ScaledBack(drift=0.16104, budget=0.1), "scaled back: its drift was 0.161, over 0.1"),
    (ScaledBack(drift=None, budget=0.1), "scaled back: its drift was not finite"),
    (
        OverBudget(budget=0.04),
        "restored the version before: its drift was over the budget of 0.04 nats a token, and "
        "stayed so when it was scaled back",
    ),
    (NotFinite(), "restored the version before: the adapter was not finite"),
    (
        ChunkNotFinite(),
        "went back to the version before: a chunk's loss or gradient was not finite",
    ),
    (
        ReadsWorse(excess=0.124),
        "restored the version before: it read 12 % worse than the base",
    ),
    (
        ReadsWorse(excess=1.5, halved=True),
        "halved the version before: it read 150 % worse than the base, from the first chunk on",
    ),
    (Compressed(rank=8, from_rank=16, loss=0.0312), "rank 8 of 16 holds all but 3.12%"),
    (Compressed(rank=8, loss=0.0312), "rank 8 holds all but 3.12%"),
    (Imported(format="gguf"), "imported from gguf"),
    (Adopted(name="rivers"), "adopted rivers"),
    (
        CanaryFailed(failed=5, counted=20, back_to=0),
        "failed 5 of 20 hidden test questions that the base passes; the base is in force again, "
        "and learning is frozen",
    ),
    (
        CanaryFailed(failed=5, counted=20, back_to=None),
        "failed 5 of 20 hidden test questions that the base passes",
    ),
]


def test_every_kind_of_note_is_here() -> None:
    assert {type(note) for note, _ in WORDS} == {*get_args(VersionNote)}
    codes = [kind.code for kind in get_args(VersionNote)]
    assert len({*codes}) == len(codes)


@pytest.mark.parametrize(("note", "words"), WORDS)
def test_a_note_is_told_and_kept(note: VersionNote, words: str) -> None:
    assert tell(note) == words
    assert decode(encode([note, note])) == (note, note)
    assert view(note)["code"] == note.code
    assert read(json.loads(json.dumps(view(note)))) == note
    assert read(asdict(note)) == note


def test_notes_are_one_line_and_none_are_nothing() -> None:
    assert tell_all([Adopted(name="a"), Unmeasured()]) == "adopted a; its drift was not measured"
    assert (tell_all([]), encode([]), decode("")) == ("", "", ())


def test_what_a_migration_says_has_codes() -> None:
    words = "drift was measured as a change in weights then: 1.23e-04"
    assert decode(words) == (OldDrift(change=1.23e-4),)
    more = f"{words}; its parent was deleted before parents had names"
    assert decode(more) == (OldDrift(change=1.23e-4), ParentDeleted())
    assert tell_all(decode(more)) == more
    assert decode(f"{words}; or so") == (PlainNote(text=f"{words}; or so"),)


@pytest.mark.parametrize("words", ["scaled back; because", "[", "[1, ", "{}", "null", "河"])
def test_words_from_before_there_were_codes_stay_as_they_were(words: str) -> None:
    assert decode(words) == (PlainNote(text=words),)


@pytest.mark.parametrize(
    "fields",
    [
        {"code": "later", "share": 1},
        {"code": "adopted"},
        {"code": "adopted", "name": "a", "owner": "b"},
        {},
    ],
)
def test_a_note_of_a_later_fluvial_is_shown_as_it_is(fields: dict[str, object]) -> None:
    (note,) = decode(json.dumps([fields]))
    assert isinstance(note, PlainNote)
    assert json.loads(note.text) == fields


def test_a_list_that_holds_no_notes_is_words_too() -> None:
    assert decode("[1]") == (PlainNote(text="[1]"),)
