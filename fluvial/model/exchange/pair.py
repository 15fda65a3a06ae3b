"""Find the two matrices of each linear among a file's tensors, and read them, checked."""

from collections.abc import Iterator, Mapping

import numpy as np

from fluvial.errors import ModelError, UnsupportedError
from fluvial.model.exchange.linear import Linear
from fluvial.model.exchange.term import MAX_RANK, Pair
from fluvial.model.gguf import RawTensor


def find_pairs(
    tensors: Mapping[str, RawTensor], *, linears: Mapping[str, Linear], ends: tuple[str, str]
) -> Iterator[tuple[Linear, RawTensor, RawTensor]]:
    """Yield each linear that the file has a term for, with its A and B.

    `linears` are named as the tensors are, without the `ends` of A and of B. All names and shapes
    are checked before the first one comes. Raises UnsupportedError for a tensor that is neither an
    A nor a B; ModelError for a linear that the model has not, for an A without B, for shapes that
    do not fit, and for a file without any term.
    """
    names = [_remove_end(name, ends) for name in tensors]
    for name in dict.fromkeys(names):
        if name not in linears:
            raise ModelError(
                f"the adapter changes {name[:120]!r}, which is no linear of this model that can "
                "be adapted; it was made for another model, or for more than the linears"
            )
        _check_pair(name, tensors, linears[name], ends)
    if not names:
        raise ModelError("the file holds no tensors: there is nothing to import")
    for name in dict.fromkeys(names):
        yield linears[name], tensors[name + ends[0]], tensors[name + ends[1]]


def read_pair(linear: Linear, a: RawTensor, b: RawTensor, *, scale: float) -> Pair:
    """Read a checked pair, B times `scale`; raises ModelError for values that are not finite."""
    with np.errstate(over="ignore"):
        b_OR = b.dequantize() * np.float32(scale)
    if not np.isfinite(b_OR).all():
        raise ModelError(f"the term of {linear.name} is too large: B times {scale:g} overflows")
    return Pair(a.dequantize(), b_OR)


def _remove_end(name: str, ends: tuple[str, str]) -> str:
    end = next((end for end in ends if name.endswith(end)), None)
    if end is None:
        raise UnsupportedError(
            f"the adapter holds {name[:120]!r}, which is not part of a plain LoRA on a linear"
        )
    return name.removesuffix(end)


def _check_pair(
    name: str, tensors: Mapping[str, RawTensor], linear: Linear, ends: tuple[str, str]
) -> None:
    for end in ends:
        if name + end not in tensors:
            raise ModelError(f"the adapter has no {(name + end)[:160]!r}; the file is incomplete")
    a, b = tensors[name + ends[0]].shape, tensors[name + ends[1]].shape
    if len(a) != 2 or not 1 <= a[0] <= MAX_RANK:
        raise ModelError(f"{name + ends[0]!r} has shape {a}; ranks from 1 to {MAX_RANK} are taken")
    if a[1] != linear.inputs or b != (linear.outputs, a[0]):
        raise ModelError(
            f"{name!r} has shapes {a} and {b}; this model needs ({a[0]}, {linear.inputs}) and "
            f"({linear.outputs}, {a[0]}): the adapter was made for another model"
        )
