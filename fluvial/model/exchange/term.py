"""Between our groups and the pairs of matrices that others keep for each linear.

Letters: i inputs, o outputs, r rank. Others store A as [r, i] and B as [o, r].
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fluvial.errors import InputError, ModelError
from fluvial.model.adapter import create_tensors
from fluvial.model.architecture.declaration import Declaration, Group
from fluvial.model.exchange.linear import Linear
from fluvial.model.merge import Loss, Term, compress_term, measure

MAX_RANK = 64
"""The highest rank of one linear in a file that is imported."""
MAX_ALPHA = 1e6
"""The greatest alpha of a file, by amount: LoRA's scale is alpha over the rank."""

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Pair:
    """What a file holds of one linear, `y = W x + b (a x)`; a scale is in `b` already."""

    a_RI: Array
    b_OR: Array

    @property
    def rank(self) -> int:
        return len(self.a_RI)


@dataclass(frozen=True, eq=False, kw_only=True)
class Imported:
    """An adapter made of a file, and what it lost on the way: 0 unless its rank was too high."""

    tensors: dict[str, Array]
    loss: Loss


def split(terms: Mapping[str, Term], linears: Iterable[Linear]) -> Iterator[tuple[Linear, Pair]]:
    """Yield what a file holds of each linear: the group's A, and its own rows of B."""
    for linear in linears:
        term = terms[linear.group]
        b_OR = np.ascontiguousarray(term.b[:, linear.columns].T)
        yield linear, Pair(np.ascontiguousarray(term.a.T), b_OR)


def fuse(
    pairs: Mapping[str, Pair],
    *,
    linears: Sequence[Linear],
    declaration: Declaration,
    rank_limit: int,
) -> Imported:
    """Make an adapter of pairs that are named as `linears` are; those without one stay the base.

    Linears of one group that share their A share it here; different A's stand one after another,
    which is exact. Only a group whose rank is then over `rank_limit` is compressed. Groups of a
    lower rank than others are filled up with rows of a new adapter, which change nothing and can
    learn. Raises InputError for a limit below 1, ModelError when the sums are not finite.
    """
    check_limit(rank_limit)
    by_group: dict[str, list[Linear]] = {}
    for linear in linears:
        by_group.setdefault(linear.group, []).append(linear)
    terms: dict[str, Term] = {}
    for index, layer in enumerate(declaration.layers):
        for group in layer.groups:
            name = f"layers.{index}.{group.name}"
            a, b = _join(by_group[name], pairs, group)
            terms[name] = compress_term(a, b, rank=rank_limit)
    rank = max(term.a.shape[1] for term in terms.values())
    tensors = create_tensors(declaration, rank=max(1, rank), seed=0)
    for name, term in terms.items():
        _fill(tensors, name, term)
    return Imported(tensors=tensors, loss=measure(terms))


def check_limit(rank_limit: int) -> None:
    """Raise InputError unless an import may make an adapter of this rank."""
    if rank_limit < 1:
        raise InputError(f"the limit of an adapter's rank must be 1 or more, not {rank_limit}")


def _join(
    linears: Sequence[Linear], pairs: Mapping[str, Pair], group: Group
) -> tuple[Array, Array]:
    """Return the exact a [i, r] and b [r, o] of a group; r is 0 when no linear has a pair."""
    parts: list[tuple[Array, Array]] = []
    for linear in linears:
        pair = pairs.get(linear.name)
        if pair is None:
            continue
        same = [b for a, b in parts if np.array_equal(a, pair.a_RI)]
        if not same:
            same = [np.zeros((pair.rank, group.outputs), np.float32)]
            parts.append((pair.a_RI, same[0]))
        same[0][:, linear.columns] = pair.b_OR.T
    if not parts:
        return np.zeros((group.inputs, 0), np.float32), np.zeros((0, group.outputs), np.float32)
    return np.concatenate([a for a, _ in parts]).T, np.concatenate([b for _, b in parts])


def _fill(tensors: dict[str, Array], name: str, term: Term) -> None:
    if not np.isfinite(term.b).all():
        raise ModelError(f"the adapter's values for {name} are too large to be kept in float32")
    rank = term.a.shape[1]
    tensors[f"{name}.a"][:, :rank] = term.a
    tensors[f"{name}.b"][:rank] = term.b
