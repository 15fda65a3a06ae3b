"""Put adapters together: their exact sum, and the nearest adapter of a lower rank.

Letters: i inputs, o outputs, r rank.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fluvial.errors import InputError, ModelError
from fluvial.model.adapter import Tensors

MAX_PARTS = 64
"""Adapters that one merge takes: ranks add up, and with them what a merge computes."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What was lost when terms became others of a lower rank; 0 is exact.

    Norm of what is gone over norm of the whole change, both Frobenius: `overall` over all groups,
    those that were kept whole too; `groups` of each that was compressed, such as `layers.3.qkv`.
    """

    overall: float = 0.0
    groups: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, eq=False, kw_only=True)
class Term:
    """One low-rank term, `a` [i, r] times `b` [r, o], and the energies (squared norms) behind it.

    `whole` is that of the term it was made of, `lost` that of what is gone of it.
    """

    a: NDArray[np.float32]
    b: NDArray[np.float32]
    whole: float
    lost: float = 0.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Compressed:
    """An adapter of a lower rank, and what that lost."""

    tensors: dict[str, NDArray[np.float32]]
    loss: Loss


def merge(parts: Sequence[tuple[Tensors, float]]) -> dict[str, NDArray[np.float32]]:
    """Return the weighted sum of adapters of one model: ranks one after another, gains added.

    The sum of the changes is exact but for rounding of `weight * b` (none for weights that are
    powers of two). Its rank is the sum of theirs: `compress` brings it down. Raises InputError for
    no adapter, more than MAX_PARTS or a weight that is not finite; ModelError when the adapters do
    not belong to one model or the sum is not finite.
    """
    if not 1 <= len(parts) <= MAX_PARTS:
        raise InputError(f"{len(parts)} adapters can't be merged; give from 1 to {MAX_PARTS}")
    for tensors, weight in parts:
        if not math.isfinite(weight):
            raise InputError(f"a merge's weights must be finite numbers, not {weight}")
        _check_same_model(tensors, parts[0][0])
    merged = {name: _join(name, parts) for name in parts[0][0]}
    _check_finite(merged)
    return merged


def compress(tensors: Tensors, rank: int) -> Compressed:
    """Return the adapter of at most `rank` (1 or more) that is nearest to this one.

    Nearest group by group, in the Frobenius norm of B A. Groups of no higher rank stay bit for bit
    what they are, and so do gains. Where a group is compressed, A's columns become orthonormal and
    B carries the sizes, so that no direction is dead for a learner that goes on. Time and memory go
    with (inputs + outputs) * rank: B A is never formed where it is larger than A and B together.
    Raises InputError for a rank below 1, ModelError when a tensor is not finite.
    """
    if rank < 1:
        raise InputError(f"an adapter's rank must be 1 or more, not {rank}")
    _check_finite(tensors)
    made = dict(tensors)
    terms = dict(_compress_groups(tensors, rank))
    for name, term in terms.items():
        made[f"{name}.a"], made[f"{name}.b"] = term.a, term.b
    return Compressed(tensors=made, loss=measure(terms))


def measure(terms: Mapping[str, Term]) -> Loss:
    """Return what compressed terms lost together, and each of those that lost anything."""
    whole, lost = (math.fsum(getattr(t, n) for t in terms.values()) for n in ("whole", "lost"))
    groups = {name: _divide(term.lost, term.whole) for name, term in terms.items() if term.lost}
    return Loss(overall=_divide(lost, whole), groups=groups)


def compress_term(a_IR: NDArray[np.float32], b_RO: NDArray[np.float32], *, rank: int) -> Term:
    """Return the term of `rank` nearest to `a b`.

    A term of no higher rank comes back as it is. Source: Eckart and Young 1936.
    """
    if a_IR.shape[1] <= rank:
        return Term(a=a_IR, b=b_RO, whole=_find_energy(a_IR, b_RO))
    try:
        left_IK, sizes, right_KO = _decompose(a_IR.astype(np.float64), b_RO.astype(np.float64))
    except np.linalg.LinAlgError:
        raise ModelError("a term's singular values can't be found; are its values sane?") from None
    a = left_IK[:, :rank].astype(np.float32)
    with np.errstate(over="ignore"):  # whoever takes the term checks that it is finite
        b = (sizes[:rank, None] * right_KO[:rank]).astype(np.float32)
    energies = sizes**2
    missing = rank - a.shape[1]  # a rank beyond the width is filled up, for all groups have one
    return Term(
        a=np.pad(a, ((0, 0), (0, missing))),
        b=np.pad(b, ((0, missing), (0, 0))),
        whole=float(energies.sum()),
        lost=float(energies[rank:].sum()),
    )


def _decompose(
    a_IR: NDArray[np.float64], b_RO: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the SVD of `a b`: [i, k], [k] in falling order, [k, o]."""
    if a_IR.shape[1] >= min(len(a_IR), b_RO.shape[1]):  # then the product is the smaller one
        return np.linalg.svd(a_IR @ b_RO, full_matrices=False)
    left_IR, core_left = np.linalg.qr(a_IR)
    right_OR, core_right = np.linalg.qr(b_RO.T)
    u, sizes, v = np.linalg.svd(core_left @ core_right.T, full_matrices=False)
    return left_IR @ u, sizes, v @ right_OR.T


def _compress_groups(tensors: Tensors, rank: int) -> Iterator[tuple[str, Term]]:
    for name, a in tensors.items():
        if not name.endswith(".a"):
            continue
        group = name.removesuffix(".a")
        term = compress_term(a, tensors[f"{group}.b"], rank=rank)
        _check_finite({f"{group}.b": term.b})
        yield group, term


def _join(name: str, parts: Sequence[tuple[Tensors, float]]) -> NDArray[np.float32]:
    if name.endswith(".a"):
        return np.concatenate([tensors[name] for tensors, _ in parts], axis=1)
    with np.errstate(all="ignore"):  # what overflows is found when all is joined
        scaled = [tensors[name] * np.float32(weight) for tensors, weight in parts]
        if name.endswith(".b"):
            return np.concatenate(scaled, axis=0)
        return np.asarray(np.sum(scaled, axis=0, dtype=np.float64), np.float32)


def _check_same_model(tensors: Tensors, first: Tensors) -> None:
    if tensors.keys() != first.keys():
        odd = min(tensors.keys() ^ first.keys())
        raise ModelError(f"these adapters are not of one model: only some have {odd!r}")
    for name, tensor in tensors.items():
        if _drop_rank(name, tensor) != _drop_rank(name, first[name]):
            raise ModelError(
                f"these adapters are not of one model: {name!r} is {tensor.shape} "
                f"in one and {first[name].shape} in another"
            )


def _drop_rank(name: str, tensor: NDArray[np.float32]) -> tuple[int, ...]:
    if name.endswith(".a"):
        return tensor.shape[:1]
    return tensor.shape[1:] if name.endswith(".b") else tensor.shape


def _check_finite(tensors: Tensors) -> None:
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise ModelError(f"the tensor {name!r} of this adapter is not finite everywhere")


def _find_energy(a_IR: NDArray[np.float32], b_RO: NDArray[np.float32]) -> float:
    """Return the squared Frobenius norm of `a b` from the Gram matrices of its factors."""
    a, b = a_IR.astype(np.float64), b_RO.astype(np.float64)
    return max(0.0, float(((a.T @ a) * (b @ b.T)).sum()))


def _divide(lost: float, whole: float) -> float:
    return math.sqrt(lost / whole) if lost and whole else 0.0
