"""What the documents say exists: commands, options, settings, routes, links."""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import click
import pytest

from fluvial.cli.main import cli
from fluvial.config import Settings

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
_SPAN = re.compile(r"(`+)(.+?)\1")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")


def names(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def snippets(text: str) -> Iterator[str]:
    """Yield what stands as code: the lines of shell blocks, and spans."""
    for language, block in _FENCE.findall(text):
        if language in ("sh", "bash", "console", ""):
            yield from block.replace("\\\n", " ").splitlines()
    for match in _SPAN.finditer(_FENCE.sub("", text)):
        yield match[2]


def commands(text: str, program: str) -> Iterator[list[str]]:
    """Yield the arguments of every call of `program` in the code of a document."""
    for snippet in snippets(text):
        words = snippet.partition(" #")[0].removeprefix("$ ").split()
        while words and _ASSIGNMENT.fullmatch(words[0]):
            words.pop(0)
        if words and words[0] == program and not {"...", "…"} & set(words[1:2]):
            yield split(" ".join(words[1:]))


def split(arguments: str) -> list[str]:
    try:
        return shlex.split(arguments)
    except ValueError:
        return arguments.split()


def goals() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.M))


def resolve(arguments: list[str]) -> str | None:
    """Follow a command line into the program; tell what of it does not exist."""
    command: click.Command = cli
    for word in arguments:
        if word.startswith("--"):
            known = {name for parameter in command.params for name in parameter.opts}
            if word.partition("=")[0] not in known | {"--help", "--version"}:
                return f"option {word}"
        elif isinstance(command, click.Group):
            missing = [name for name in word.split("|") if name not in command.commands]
            if missing:
                return f"command {missing[0]}"
            command = command.commands[word.split("|")[0]]
    return None


OTHER_VARIABLES = {
    "FLUVIAL_TEST_MODELS": "tests/conftest.py",
    "FLUVIAL_JUDGE_KEY": "fluvial/gate/judge.py",
}
"""Variables that are no settings, and who reads them."""


@pytest.mark.parametrize("path", DOCUMENTS, ids=names)
def test_make_goals_exist(path: Path) -> None:
    for arguments in commands(path.read_text(), "make"):
        named = {word for word in arguments if "=" not in word and not word.startswith("-")}
        assert named <= goals(), f"make {' '.join(arguments)}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=names)
def test_fluvial_commands_and_options_exist(path: Path) -> None:
    for arguments in commands(path.read_text(), "fluvial"):
        missing = resolve(arguments)
        assert missing is None, f"fluvial {' '.join(arguments)}: no {missing}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=names)
def test_settings_exist(path: Path) -> None:
    for name in re.findall(r"\bFLUVIAL_[A-Z_]+\b", path.read_text()):
        known = name.removeprefix("FLUVIAL_").lower() in Settings.model_fields
        assert known or name in OTHER_VARIABLES, name


def test_other_variables_are_read_where_they_are_said_to_be() -> None:
    for name, file in OTHER_VARIABLES.items():
        assert f'"{name}"' in (ROOT / file).read_text()


@pytest.mark.parametrize("path", DOCUMENTS, ids=names)
def test_relative_links_resolve(path: Path) -> None:
    for target in _LINK.findall(_FENCE.sub("", path.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = path.parent / file if file else path
        assert linked.exists(), f"{names(path)} links to {target}"
        if anchor:
            assert anchor in anchors(linked.read_text()), f"{names(path)} links to {target}"


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_goal_is_told_in_some_document() -> None:
    told = {
        word for path in DOCUMENTS for line in commands(path.read_text(), "make") for word in line
    }
    assert goals() - {"help", "clean"} <= told


def test_every_command_is_told_in_some_document() -> None:
    told = {line[0] for path in DOCUMENTS for line in commands(path.read_text(), "fluvial") if line}
    assert set(cli.commands) <= told


def test_both_readmes_have_the_same_commands() -> None:
    english, chinese = (
        [code.partition(" #")[0].strip() for code in snippets((ROOT / name).read_text())]
        for name in ("README.md", "README.zh-CN.md")
    )
    for program in ("make", "fluvial", "export"):
        chosen = [
            sorted(code for code in side if code.startswith(f"{program} "))
            for side in (english, chinese)
        ]
        assert chosen[0] == chosen[1]
        assert chosen[0], program


def documented_routes() -> set[tuple[str, str]]:
    text = (ROOT / "docs" / "api.md").read_text()
    found = re.findall(r"\b(GET|POST|PATCH|PUT|DELETE) (/[\w./{}]+)", text)
    return {(method, normal(path)) for method, path in found}


def served_routes() -> set[tuple[str, str]]:
    from fluvial.server.app import create_app

    app = create_app(cast(Any, SimpleNamespace(settings=Settings())))
    return {
        (method.upper(), normal(path))
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    }


def normal(path: str) -> str:
    return re.sub(r"\{\w+(:\w+)?\}", "{}", path)


def test_documented_routes_are_the_served_ones() -> None:
    assert documented_routes() == served_routes()


@pytest.mark.parametrize("path", DOCUMENTS, ids=names)
def test_paths_of_ours_in_code_spans_exist(path: Path) -> None:
    if path.name in ("LOG.md", "CHANGELOG.md"):
        pytest.skip("history names what is gone")
    for match in _SPAN.finditer(_FENCE.sub("", path.read_text())):
        if re.fullmatch(r"(fluvial|tests|web|docs|\.ci)/[\w./-]+", match[2]):
            assert (ROOT / match[2]).exists() or match[2].startswith("fluvial/server/page"), match[
                2
            ]


def test_every_module_is_in_the_architecture() -> None:
    told = (ROOT / "docs" / "architecture.md").read_text()
    missing: list[str] = []
    for path in (ROOT / "fluvial").rglob("*.py"):
        name = names(path)
        folders = [f"`{names(parent)}/`" for parent in path.parents if ROOT in parent.parents]
        in_told_folder = any(folder in told for folder in folders)
        if path.stem.startswith("__") or name.startswith("fluvial/cli/") or in_told_folder:
            continue
        if f"`{name}`" not in told:
            missing.append(name)
    assert missing == []


def test_the_ci_script_can_be_run() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/usr/bin/env bash\n")
