"""The transposes of a checkpoint's linears, packed: what carries gradients back through them.

A gradient goes through `y = W x` as `W' g`. The engine's packed W is laid out for W x, so W' is
packed once more, to 8 bits, kept in a file beside an index, and mapped.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fluvial.errors import ModelError
from fluvial.model.checkpoint import Checkpoint
from fluvial.model.packing import BLOCK, TILE, Packed, pack_nearest

INDEX_FILE, DATA_FILE = "transposed.json", "transposed.bin"
TRANSPOSED_VERSION = 2
_ALIGNMENT = 64
Progress = Callable[[float], None]


@dataclass(frozen=True, eq=False)
class Transposed:
    """Packed transposes by name (`layers.3.qkv`), and the Frobenius norms of weights."""

    packed: dict[str, Packed]
    norms: dict[str, float]


def write_transposed(
    checkpoint: Checkpoint, *, folder: Path, progress: Progress | None = None
) -> None:
    """Write the two files to `folder`."""
    index: dict[str, dict[str, float | int]] = {}
    total = sum(len(layer.groups) for layer in checkpoint.declaration.layers)
    with (folder / DATA_FILE).open("wb") as file:
        for name, matrix_OI in _list_matrices(checkpoint):
            packed = pack_nearest(np.ascontiguousarray(matrix_OI.T))
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            index[name] = {
                "offset": file.tell(),
                "length": packed.data.nbytes,
                "outputs": packed.outputs,
                "inputs": packed.inputs,
                "norm": float(np.linalg.norm(matrix_OI)),
            }
            file.write(packed.data.data)
            if progress is not None:
                progress(len(index) / total)
    (folder / INDEX_FILE).write_text(json.dumps(index), encoding="utf-8")


def read_transposed(folder: Path) -> Transposed:
    """Map what `write_transposed` wrote. Raises ModelError when the two files disagree."""
    try:
        index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
        data = np.memmap(folder / DATA_FILE, np.uint8, mode="r")
        packed = {name: _view(data, name, entry) for name, entry in index.items()}
        return Transposed(packed, {name: float(entry["norm"]) for name, entry in index.items()})
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"the packed transposes in {folder} can't be read: {error}") from None


def _view(data: NDArray[np.uint8], name: str, entry: dict[str, int]) -> Packed:
    start, length, outputs, inputs = (
        int(entry[key]) for key in ("offset", "length", "outputs", "inputs")
    )
    if not 0 <= start <= start + length <= len(data):
        raise ModelError(f"the packed transposes end before {name!r}")
    if min(outputs, inputs) < 1 or length != _count_bytes(outputs, inputs):
        raise ModelError(f"the packed transposes do not say what {name!r} is")
    return Packed(
        outputs=outputs,
        inputs=inputs,
        bits=8,
        has_minimum=False,
        scale_bytes=2,
        data=data[start : start + length],
    )


def _count_bytes(outputs: int, inputs: int) -> int:
    """Return the bytes of a matrix that is packed to 8 bits with float16 scales."""
    block_bytes = TILE * (BLOCK + 2)
    tile_bytes = -(-inputs // BLOCK) * block_bytes
    return -(-outputs // TILE) * (tile_bytes + -tile_bytes % _ALIGNMENT)


def _list_matrices(checkpoint: Checkpoint) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for index, layer in enumerate(checkpoint.declaration.layers):
        for group in layer.groups:
            parts = [checkpoint.matrix(f"layers.{index}.{part}") for part, _ in group.parts]
            yield f"layers.{index}.{group.name}", np.concatenate(parts)
