"""How far each tensor of an adapter moves with a step: B in proportion to what it changes."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fluvial.adapt.rule import Rule
from fluvial.model.adapter import Adaptable


class Pace(NamedTuple):
    """How far a tensor moves, and what is kept of it after that.

    `leeway`: a factor on the rate for each number of a row, float32; None: one for all.
    """

    rate: float
    kept: float = 1.0
    leeway: NDArray[np.float32] | None = None


def choose_paces(
    rule: Rule,
    names: Iterable[str],
    *,
    tokens: int,
    declaration: Adaptable,
    norms: Mapping[str, float],
    leeways: Mapping[str, NDArray[np.float32]],
) -> dict[str, Pace]:
    """Return the paces of tensors for a step on a chunk of so many tokens.

    `norms` are those of each group's weights (`Tracer`), `leeways` those of a group's outputs
    (`Basis`): only B's, and of the groups that have one.
    """
    # Steps don't shrink with the evidence, so a short chunk gets one in proportion.
    part = min(1.0, tokens / rule.chunk_tokens)
    kept = 1 - part * rule.decay
    return {  # of A nothing decays: the base has none of the others
        name: Pace(
            part * _choose_rate(rule, name, declaration=declaration, norms=norms),
            1.0 if name.endswith(".a") else kept,
            leeways.get(name.removesuffix(".b")),
        )
        for name in names
    }


def _choose_rate(
    rule: Rule, name: str, *, declaration: Adaptable, norms: Mapping[str, float]
) -> float:
    group, _, kind = name.rpartition(".")
    if kind != "b":
        return rule.learning_rate
    layer, name = group.removeprefix("layers.").split(".", 1)
    outputs = next(
        each.outputs for each in declaration.layers[int(layer)].groups if each.name == name
    )
    return rule.weight_rate * norms[group] / outputs**0.5
