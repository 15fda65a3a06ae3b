"""Make a model's weights of a file's tensors, as the family's names say; shapes are checked."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fluvial.errors import ModelError
from fluvial.model.architecture.declaration import Declaration, Layer
from fluvial.model.architecture.name import (
    Names,
    Rows,
    Shape,
    Source,
    Stacked,
    Values,
    list_shapes,
)
from fluvial.model.gguf import RawTensor

Tensors = Mapping[str, RawTensor]


def collect(tensors: Tensors, *, declaration: Declaration, names: Names) -> dict[str, RawTensor]:
    """Return every weight that the declaration names.

    Raises ModelError when one is missing or has another shape than the declaration says.
    """
    weights: dict[str, RawTensor] = {}
    for name, shape in list_shapes(declaration).items():
        layer = None
        if name.startswith("layers."):
            layer = declaration.layers[int(name.split(".", 2)[1])]
        weights[name] = _make(tensors, name, shape, names=names, layer=layer)
    return weights


def require(tensors: Tensors, name: str) -> RawTensor:
    """Return a tensor of the file; raises ModelError when it is not there."""
    if name not in tensors:
        raise ModelError(f"the model has no tensor {name!r}; the file is incomplete")
    return tensors[name]


def _make(
    tensors: Tensors, name: str, shape: Shape, *, names: Names, layer: Layer | None
) -> RawTensor:
    try:
        before, sources = names.find(name)
    except KeyError:
        raise ModelError(f"this family has no weight {name!r} in files of this kind") from None
    source = next((each for each in sources if _stands(tensors, before, each)), sources[0])
    made = _read(tensors, before, source, shape, layer)
    if tuple(n for n in made.shape if n != 1) != tuple(n for n in shape if n != 1):
        raise ModelError(f"tensor {made.name!r} has shape {made.shape}, the model needs {shape}")
    return RawTensor(made.name, made.type, shape, made.blocks)


def _stands(tensors: Tensors, before: str, source: Source) -> bool:
    return all(before + name in tensors for name in _list_names(source))


def _list_names(source: Source) -> tuple[str, ...]:
    match source:
        case str():
            return (source,)
        case Rows():
            return (source.name,)
        case Stacked():
            return (source.name.format(e=0),)
        case Values():
            return source.names


def _read(
    tensors: Tensors, before: str, source: Source, shape: Shape, layer: Layer | None
) -> RawTensor:
    match source:
        case str():
            return require(tensors, before + source)
        case Rows():
            whole = require(tensors, before + source.name)
            if math.prod(shape[:-1]) > len(whole.blocks):
                raise ModelError(
                    f"tensor {whole.name!r} has shape {whole.shape}, the model needs {shape} of it"
                )
            return _choose(whole, source.choose(layer), shape)
        case Stacked():
            parts = [
                require(tensors, before + source.name.format(e=index)) for index in range(shape[0])
            ]
            return _stack(parts, shape)
        case Values():
            whole = [require(tensors, before + name) for name in source.names]
            return _compute(whole, source, layer)


def _choose(whole: RawTensor, rows: NDArray[np.int64], shape: Shape) -> RawTensor:
    if rows.max() >= len(whole.blocks):
        raise ModelError(
            f"tensor {whole.name!r} has {len(whole.blocks)} rows, the model needs {rows.max() + 1}"
        )
    made = RawTensor(whole.name, whole.type, (len(rows), whole.shape[-1]), whole.blocks[rows])
    if len(shape) == 3 and (shape[0] * shape[1], shape[2]) == made.shape:
        return RawTensor(made.name, made.type, shape, made.blocks)
    return made


def _stack(parts: list[RawTensor], shape: Shape) -> RawTensor:
    first = parts[0]
    for part in parts:
        if part.shape != shape[1:] or part.type != first.type:
            raise ModelError(
                f"tensor {part.name!r} is {part.type} {part.shape}, "
                f"the model needs {first.type} {shape[1:]}"
            )
    blocks = np.concatenate([part.blocks for part in parts])
    return RawTensor(first.name, first.type, shape, blocks)


def _compute(whole: list[RawTensor], source: Values, layer: Layer | None) -> RawTensor:
    try:
        values = source.compute(layer, [each.dequantize() for each in whole])
    except ValueError as error:
        raise ModelError(f"tensor {whole[0].name!r} has a wrong shape: {error}") from None
    values = np.ascontiguousarray(values, np.float32)
    blocks = values.reshape(-1, values.shape[-1]).view(np.uint8)
    return RawTensor(whole[0].name, "F32", values.shape, blocks)
