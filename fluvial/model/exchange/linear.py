"""The linears that an adapter changes, as files of another format name and order them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fluvial.errors import ModelError
from fluvial.model.architecture import find_family
from fluvial.model.architecture.declaration import Declaration, Group, Layer
from fluvial.model.architecture.name import Names, Rows

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Linear:
    """One linear of a file: its tensor's name without `.weight`, and the group it belongs to.

    Row n of the file's matrix is output `columns[n]` of our group; `inputs` are the same for both.
    """

    name: str
    group: str
    inputs: int
    columns: Indices

    @property
    def outputs(self) -> int:
        return len(self.columns)


def list_linears(declaration: Declaration, *, in_gguf: bool) -> list[Linear]:
    """Return every linear that an adapter changes, under its names in GGUF or in `transformers`.

    Parts that a file keeps in one tensor are one linear here. Raises ModelError for a family whose
    tensors an adapter changes only in part.
    """
    family = find_family(declaration.family, in_gguf=True)
    names = family.gguf_names if in_gguf else family.config_names
    return [
        linear
        for index, layer in enumerate(declaration.layers)
        for group in layer.groups
        for linear in _list_group(f"layers.{index}", layer, group, names)
    ]


def _list_group(at: str, layer: Layer, group: Group, names: Names) -> Iterator[Linear]:
    """Yield the linears of one group, its parts gathered by the tensor that they stand in."""
    found: dict[str, list[tuple[Indices, Indices]]] = {}
    start = 0
    for part, outputs in group.parts:
        name, rows = _find_rows(f"{at}.{part}", layer, outputs, names)
        found.setdefault(name, []).append((rows, np.arange(start, start + outputs)))
        start += outputs
    for name, places in found.items():
        yield Linear(
            name=name.removesuffix(".weight"),
            group=f"{at}.{group.name}",
            inputs=group.inputs,
            columns=_sort_columns(name, places),
        )


def _find_rows(name: str, layer: Layer, outputs: int, names: Names) -> tuple[str, Indices]:
    """Return the tensor that our weight stands in, and its rows there in our order."""
    before, sources = names.find(name)
    for source in sources:
        if isinstance(source, str):
            return before + source, np.arange(outputs, dtype=np.int64)
        if isinstance(source, Rows):
            return before + source.name, source.choose(layer)
    raise ModelError(f"files of this kind have no linear for {name!r}; it can't be exchanged")


def _sort_columns(name: str, places: Sequence[tuple[Indices, Indices]]) -> Indices:
    """Return our columns in the order of the file's rows."""
    rows = np.concatenate([each for each, _ in places])
    order = np.argsort(rows)
    if not np.array_equal(rows[order], np.arange(len(rows))):
        raise ModelError(f"an adapter changes only a part of {name!r}; it can't be exchanged")
    return np.concatenate([each for _, each in places])[order]
