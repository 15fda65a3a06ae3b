"""Headers of safetensors files that nothing may be made of."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fluvial.errors import ModelError
from fluvial.model import safetensor

ENTRY: dict[str, Any] = {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}


def write(folder: Path, header: bytes, *, length: int | None = None) -> Path:
    size = (len(header) if length is None else length).to_bytes(8, "little")
    (folder / "a.safetensors").write_bytes(size + header + np.ones(2, np.float32).tobytes())
    return folder


def test_a_sound_file_is_read(tmp_path: Path) -> None:
    header = json.dumps({"w": ENTRY, "__metadata__": {"format": "pt"}}).encode()
    tensors = safetensor.read(write(tmp_path, header))
    assert tensors["w"].dequantize().tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype": ["F32"]}, "malformed"),
        ({"dtype": {"F32": 1}}, "malformed"),
        ({"dtype": None}, "malformed"),
        ({"dtype": "F8_E4M3"}, "'F8_E4M3'; supported are F32, F16, BF16"),
        ({"shape": [1.0, 2]}, "malformed"),
        ({"shape": [True, 2]}, "malformed"),
        ({"shape": ["1", 2]}, "malformed"),
        ({"shape": [float("inf"), 2]}, "malformed"),
        ({"shape": [float("nan")]}, "malformed"),
        ({"shape": "12"}, "malformed"),
        ({"shape": []}, r"has shape \(\)"),
        ({"shape": [1] * 5}, "has shape"),
        ({"shape": [0, 2]}, "has shape"),
        ({"shape": [-1, -2]}, "has shape"),
        ({"shape": [2**63, 2**63]}, "lies outside the file"),
        ({"data_offsets": [0, float("inf")]}, "malformed"),
        ({"data_offsets": [0]}, "malformed"),
        ({"data_offsets": [0, 8, 8]}, "malformed"),
        ({"data_offsets": [8, 0]}, "lies outside the file"),
        ({"data_offsets": [-8, 0]}, "lies outside the file"),
        ({"data_offsets": [0, 2**70]}, "lies outside the file"),
        ({"data_offsets": [4, 12]}, "lies outside the file"),
    ],
)
def test_damaged_entries_are_refused(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    header = json.dumps({"w": ENTRY | changes}).encode()
    with pytest.raises(ModelError, match=reason):
        safetensor.read(write(tmp_path, header))


@pytest.mark.parametrize("entry", [None, 7, "F32", [], {}, [1, 2]])
def test_entries_of_another_kind_are_refused(entry: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="malformed"):
        safetensor.read(write(tmp_path, json.dumps({"w": entry}).encode()))


@pytest.mark.parametrize(
    ("header", "length", "reason"),
    [
        (b"", None, "not JSON"),
        (b"[]", None, "not an object"),
        (b"[" * 100_000, None, "not JSON"),
        (b"\xff\xfe\x00", None, "not JSON"),
        (b'{"w": 1' + b"0" * 5000 + b"}", None, "not JSON"),
        (b'{"w": {}, "w": {}}', None, "a name twice"),
        (b"{}", 2**63, "its header claims"),
        (b"{}", 100, "its header claims"),
    ],
)
def test_damaged_headers_are_refused(
    header: bytes, length: int | None, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=reason):
        safetensor.read(write(tmp_path, header, length=length))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").mkdir()
    with pytest.raises(ModelError, match="can't be opened|too short"):
        safetensor.read(tmp_path)
