"""What leaves as LoRA: every group's term, and the gains folded into those of the MLP's output.

With a gain g on the activation h, `down` computes (W + B A) (h + g h). LoRA can only say W + B' A',
so B' A' has to stand for B A (1 + g) + W diag(g), and the second is of a high rank.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fluvial.errors import InputError, ModelError, UnsupportedError
from fluvial.model.adapter import Tensors, list_shapes
from fluvial.model.architecture.declaration import Declaration
from fluvial.model.checkpoint import Checkpoint
from fluvial.model.merge import Loss, Term, compress_term, measure

GAIN_RANK = 64
"""The rank that terms get which take up a gain, unless another is asked for."""


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Says that gains may be folded into low-rank terms, at a loss; `checkpoint` has the weights.

    `rank` (1 or more) is that of the terms that take gains up, if the adapter's own is not higher.
    """

    checkpoint: Checkpoint
    rank: int = GAIN_RANK


@dataclass(frozen=True, eq=False, kw_only=True)
class Outgoing:
    """An adapter as terms by group, such as `layers.3.qkv`. `rank` is that of most terms."""

    rank: int
    terms: Mapping[str, Term]
    loss: Loss


def prepare(tensors: Tensors, *, declaration: Declaration, fold: Fold | None) -> Outgoing:
    """Check an adapter and return what of it LoRA can say; exact unless there are gains.

    Raises ModelError when the tensors do not fit the model, UnsupportedError for gains that are not
    zero without `fold`, InputError for a `fold` of another model.
    """
    rank = _check(tensors, declaration)
    terms: dict[str, Term] = {}
    for index, layer in enumerate(declaration.layers):
        at = f"layers.{index}"
        for group in layer.groups:
            a, b = tensors[f"{at}.{group.name}.a"], tensors[f"{at}.{group.name}.b"]
            terms[f"{at}.{group.name}"] = compress_term(a, b, rank=rank)
        gain = tensors.get(f"{at}.gain")
        if gain is not None and gain.any():
            down = layer.groups[-1]
            checked = _check_fold(fold, declaration, at)
            matrix = checked.checkpoint.matrix(f"{at}.{down.parts[0][0]}")
            name = f"{at}.{down.name}"
            terms[name] = _fold(terms[name], gain, matrix, rank=max(rank, checked.rank))
    return Outgoing(rank=rank, terms=terms, loss=measure(terms))


def _fold(
    term: Term, gain_I: NDArray[np.float32], matrix_OI: NDArray[np.float32], *, rank: int
) -> Term:
    changed = np.flatnonzero(gain_I)
    picked = np.zeros((len(gain_I), len(changed)), np.float32)
    picked[changed, np.arange(len(changed))] = gain_I[changed]
    a = np.concatenate([term.a * (1 + gain_I[:, None]), picked], axis=1)
    b = np.concatenate([term.b, matrix_OI[:, changed].T])
    return compress_term(a, b, rank=rank)


def _check_fold(fold: Fold | None, declaration: Declaration, at: str) -> Fold:
    if fold is None:
        raise UnsupportedError(
            f"this adapter has gains on the MLP's activations ({at}.gain), which LoRA can't say "
            "exactly; let them be folded into its low-rank terms, which tells what is lost"
        )
    if fold.checkpoint.declaration != declaration:
        raise InputError("gains can only be folded with the weights of the adapter's own model")
    if fold.rank < 1:
        raise InputError(f"the rank that takes gains up must be 1 or more, not {fold.rank}")
    return fold


def _check(tensors: Tensors, declaration: Declaration) -> int:
    """Return the rank; raises ModelError unless the tensors are a sound adapter of the model."""
    first = next((each for name, each in tensors.items() if name.endswith(".a")), None)
    if first is None or first.ndim != 2:
        raise ModelError("these tensors are no adapter: there is no matrix A among them")
    expected = list_shapes(declaration, rank=first.shape[1])
    if tensors.keys() != expected.keys():
        odd = min(tensors.keys() ^ expected.keys())
        raise ModelError(f"the adapter does not fit the model: {odd!r} is missing or not known")
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise ModelError(f"the adapter does not fit the model at {name!r}: expected {shape}")
        if not np.isfinite(tensors[name]).all():
            raise ModelError(f"the adapter holds values that are not finite at {name!r}")
    return first.shape[1]
