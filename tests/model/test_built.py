"""Built graphs are kept, and built again when anything about them is wrong."""

from pathlib import Path

import pytest

from fluvial.errors import StorageError
from fluvial.model.built import ensure_graph
from fluvial.model.checkpoint import open_checkpoint


def test_a_graph_is_built_once(tiny_model: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_model)
    seen: list[float] = []
    first = ensure_graph(checkpoint, cache_dir=tmp_path, positions=64, progress=seen.append)
    assert seen[-1] == 1.0
    assert ensure_graph(checkpoint, cache_dir=tmp_path, positions=64, progress=seen.append) == first
    assert seen.count(1.0) == 1
    assert [path.name for path in tmp_path.iterdir()] == [first.name]


@pytest.mark.parametrize("file", ["graph.onnx", "weights.bin", "manifest.json"])
def test_a_damaged_graph_is_built_again(file: str, tiny_model: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_model)
    folder = ensure_graph(checkpoint, cache_dir=tmp_path, positions=64)
    sound = (folder / file).read_bytes()
    (folder / file).write_bytes(sound[: len(sound) // 2])
    assert ensure_graph(checkpoint, cache_dir=tmp_path, positions=64) == folder
    assert (folder / file).read_bytes() == sound


def test_no_room_is_a_typed_error(tiny_model: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises((StorageError, FileExistsError)):
        ensure_graph(open_checkpoint(tiny_model), cache_dir=blocked, positions=64)
