"""What packing costs: the weights that the engine multiplies with, against those in the file.

Measured on the model's own tensors while its graph is built, kept in the built graph's manifest,
shown by `fluvial models show`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from fluvial.model.gguf import RawTensor
from fluvial.model.packing import TILE, Packed

_CHUNK_TILES = 32
_SAMPLE_ROWS = 512
# Types whose blocks are integers with scales, as packed ones are: equal in a sample, equal in all.
_BLOCK_TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K")


@dataclass(frozen=True, kw_only=True)
class TypeLoss:
    """What became of the tensors of one block type that were packed alike.

    `relative_error` is the root mean square of the difference over that of the weights: 0 is exact.
    """

    type: str
    packed: str
    tensors: int
    bytes: int
    relative_error: float


@dataclass
class _Sum:
    names: set[str] = field(default_factory=set[str])
    bytes: int = 0
    difference: float = 0.0
    weight: float = 0.0


@dataclass
class LossMeter:
    """Adds up what packing did, matrix by matrix."""

    _sums: dict[tuple[str, str], _Sum] = field(default_factory=dict[tuple[str, str], _Sum])

    def add(self, tensors: Sequence[RawTensor], packed: Packed) -> None:
        """Compare `packed` with the tensors [outputs, inputs] whose rows it holds, in order.

        Tensors whose first rows are exact, in a format that maps exactly, are read no further.
        """
        form, start = name_form(packed), 0
        for tensor in tensors:
            total = self._sums.setdefault((tensor.type, form), _Sum())
            total.names.add(tensor.name)
            total.bytes += tensor.blocks.nbytes
            for rows in _list_rows(len(tensor.blocks), start):
                difference, weight = _compare(tensor, packed, rows, start)
                total.difference += difference
                total.weight += weight
                sampled = rows.stop >= _SAMPLE_ROWS and tensor.type in _BLOCK_TYPES
                if sampled and not total.difference:
                    break
            start += len(tensor.blocks)

    def add_stack(self, stacks: Sequence[RawTensor], packed: Sequence[Packed]) -> None:
        """Compare the matrices of a stack with stacks [count, outputs, inputs], rows in order."""
        for index, each in enumerate(packed):
            self.add([_take(stack, index, len(packed)) for stack in stacks], each)

    def report(self) -> tuple[TypeLoss, ...]:
        """Return one entry for each type and form, in the order of their names."""
        return tuple(
            TypeLoss(
                type=kind,
                packed=form,
                tensors=len(total.names),
                bytes=total.bytes,
                relative_error=(total.difference / (total.weight or 1.0)) ** 0.5,
            )
            for (kind, form), total in sorted(self._sums.items())
        )


def name_form(packed: Packed) -> str:
    """Say in words how a matrix is packed."""
    if packed.bits == 32:
        return "float32"
    minimum = " with minimum" if packed.has_minimum else ""
    return f"{packed.bits} bits{minimum}, float{8 * packed.scale_bytes} scale"


def encode_losses(losses: Sequence[TypeLoss]) -> list[dict[str, Any]]:
    """Make plain JSON values of losses."""
    return [asdict(loss) for loss in losses]


def decode_losses(table: Any) -> tuple[TypeLoss, ...]:
    """Read what `encode_losses` made; raises ValueError when it is something else."""
    try:
        losses = tuple(TypeLoss(**entry) for entry in table)
    except TypeError as error:
        raise ValueError(f"not a record of losses: {error}") from None
    kinds = {"type": str, "packed": str, "tensors": int, "bytes": int, "relative_error": float}
    for loss in losses:
        if any(type(getattr(loss, name)) is not kind for name, kind in kinds.items()):
            raise ValueError("not a record of losses: a value has the wrong type")
    return losses


def _take(stack: RawTensor, index: int, count: int) -> RawTensor:
    rows = len(stack.blocks) // count
    part = stack.blocks[index * rows : (index + 1) * rows]
    return RawTensor(stack.name, stack.type, (rows, stack.shape[-1]), part)


def _list_rows(count: int, start: int) -> Iterator[slice]:
    """Cut a tensor's rows so that, `start` rows into the packed matrix, few tiles are read."""
    size = _CHUNK_TILES * TILE
    at = 0
    while at < count:
        end = min(count, at + size - (start + at) % size)
        yield slice(at, end)
        at = end


def _compare(tensor: RawTensor, packed: Packed, rows: slice, start: int) -> tuple[float, float]:
    """Return the sums of squares of the difference and of the file's weights, over some rows."""
    expected = tensor.dequantize(rows).astype(np.float64)
    found = _unpack_rows(packed, rows.start + start, rows.stop + start)
    return float(np.square(found - expected).sum()), float(np.square(expected).sum())


def _unpack_rows(packed: Packed, begin: int, end: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    first, last = begin // TILE, -(-end // TILE)
    tiles = packed.data.reshape(-(-packed.outputs // TILE), -1)[first:last]
    part = replace(packed, outputs=(last - first) * TILE, data=tiles.reshape(-1))
    return part.unpack()[begin - first * TILE : end - first * TILE]
