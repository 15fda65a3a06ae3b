"""The packed transposes of a checkpoint: what they hold, and that damage is noticed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fluvial.errors import ModelError
from fluvial.model.built import ensure_transposed
from fluvial.model.checkpoint import Checkpoint, open_checkpoint
from fluvial.model.transposed import (
    DATA_FILE,
    INDEX_FILE,
    read_transposed,
    write_transposed,
)
from tests.families import save_tiny

FAMILIES = ("llama", "llama-tied", "qwen2", "lfm2", "qwen3-next", "deepseek-v3")


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp(request.param)
    save_tiny(request.param, folder)
    return open_checkpoint(folder)


def test_hold_every_group_and_the_head_to_8_bits(checkpoint: Checkpoint, tmp_path: Path) -> None:
    read = read_transposed(ensure_transposed(checkpoint, cache_dir=tmp_path))
    expected = _list_matrices(checkpoint)
    assert read.packed.keys() == expected.keys() == read.norms.keys()
    for name, matrix in expected.items():
        assert read.norms[name] == pytest.approx(np.linalg.norm(matrix), rel=1e-6)
        _assert_packed(read.packed[name].unpack(), np.ascontiguousarray(matrix.T))


def test_a_gguf_file_has_them_too(tiny_qwen: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_qwen)
    read = read_transposed(ensure_transposed(checkpoint, cache_dir=tmp_path))
    for name, matrix in _list_matrices(checkpoint).items():
        _assert_packed(read.packed[name].unpack(), np.ascontiguousarray(matrix.T))


def test_are_made_once(tiny_model: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_model)
    seen: list[float] = []
    first = ensure_transposed(checkpoint, cache_dir=tmp_path, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    again = ensure_transposed(checkpoint, cache_dir=tmp_path, progress=seen.append)
    assert again == first
    assert seen.count(1.0) == 1
    assert [path.name for path in tmp_path.iterdir()] == [first.name]


@pytest.mark.parametrize("file", [DATA_FILE, INDEX_FILE, "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_damaged_ones_are_made_again(
    file: str, damage: str, tiny_model: Path, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(tiny_model)
    path = ensure_transposed(checkpoint, cache_dir=tmp_path) / file
    sound = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        changed = bytes([sound[0] ^ 1]) + sound[1:]
        path.write_bytes(sound[: len(sound) // 2] if damage == "cut" else changed)
    assert ensure_transposed(checkpoint, cache_dir=tmp_path) == path.parent
    assert path.read_bytes() == sound


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda entry: entry.update(offset=1 << 40), id="beyond the end"),
        pytest.param(lambda entry: entry.update(offset=-64), id="before the start"),
        pytest.param(lambda entry: entry.update(offset="first"), id="offset of another type"),
        pytest.param(lambda entry: entry.update(length=entry["length"] + 64), id="too long"),
        pytest.param(lambda entry: entry.update(length=entry["length"] - 64), id="too short"),
        pytest.param(lambda entry: entry.update(outputs=entry["outputs"] + 16), id="more outputs"),
        pytest.param(lambda entry: entry.update(inputs=entry["inputs"] + 32), id="more inputs"),
        pytest.param(lambda entry: entry.update(outputs=-16), id="negative"),
        pytest.param(lambda entry: entry.update(outputs=1 << 62), id="huge"),
        pytest.param(lambda entry: entry.pop("inputs"), id="missing"),
        pytest.param(lambda entry: entry.pop("norm"), id="no norm"),
    ],
)
def test_an_index_that_disagrees_with_the_data_is_refused(
    change: Change, tiny_model: Path, tmp_path: Path
) -> None:
    _write(tiny_model, tmp_path)
    index = json.loads((tmp_path / INDEX_FILE).read_text())
    change(index["layers.0.qkv"])
    (tmp_path / INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(ModelError, match="packed transposes"):
        read_transposed(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"head": 3}'])
def test_an_index_that_is_none_is_refused(text: str, tiny_model: Path, tmp_path: Path) -> None:
    _write(tiny_model, tmp_path)
    (tmp_path / INDEX_FILE).write_text(text)
    with pytest.raises(ModelError, match="packed transposes"):
        read_transposed(tmp_path)


@pytest.mark.parametrize("size", [0, 64])
def test_data_that_ends_too_soon_is_refused(size: int, tiny_model: Path, tmp_path: Path) -> None:
    _write(tiny_model, tmp_path)
    data = (tmp_path / DATA_FILE).read_bytes()
    (tmp_path / DATA_FILE).write_bytes(data[:size])
    with pytest.raises(ModelError, match="packed transposes"):
        read_transposed(tmp_path)


@pytest.mark.parametrize("file", [INDEX_FILE, DATA_FILE])
def test_a_missing_file_is_refused(file: str, tiny_model: Path, tmp_path: Path) -> None:
    _write(tiny_model, tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(ModelError, match="packed transposes"):
        read_transposed(tmp_path)


def _write(model: Path, folder: Path) -> None:
    write_transposed(open_checkpoint(model), folder=folder)


def _list_matrices(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for index, layer in enumerate(checkpoint.declaration.layers):
        for group in layer.groups:
            parts = [checkpoint.matrix(f"layers.{index}.{part}") for part, _ in group.parts]
            found[f"layers.{index}.{group.name}"] = np.concatenate(parts)
    return found


def _assert_packed(found: np.ndarray, expected: np.ndarray) -> None:
    """Each block of 32 inputs is within 1/254 of its largest value; scales are float16."""
    assert found.shape == expected.shape
    missing = ((0, 0), (0, -expected.shape[1] % 32))
    blocks = np.pad(expected, missing).reshape(len(expected), -1, 32)
    errors = np.abs(np.pad(found, missing).reshape(blocks.shape) - blocks).max(axis=-1)
    largest = np.abs(blocks).max(axis=-1)
    assert (errors <= largest * (1 / 254 + 2**-11) + 1e-7).all()
