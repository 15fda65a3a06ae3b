"""What is made of a gradient: the steps of the rules that were compared (docs/adaptation.md).

All but Adam's are made the same size: the root mean square of a tensor's step is its rate.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fluvial.adapt.pace import Pace
from fluvial.adapt.rule import Method
from fluvial.engine.adam import measure_norm, take_adam_step

FIRST_DECAY, SECOND_DECAY, EPSILON = 0.5, 0.99, 1e-8
"""Of Adam. It forgets fast: a text is not one task, and steps that follow it harm the rest less."""
AVERAGED = 0.9
"""How much of their average of gradients `sign` and `muon` keep with each."""
CLIP_EPSILON = 1e-6
ROUNDS = 5
"""Of Newton-Schulz in Muon's step; coefficients from https://kellerjordan.github.io/posts/muon/"""
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


@dataclass(eq=False)
class Memory:
    """What a rule remembers of earlier gradients, by tensor; nothing for those without memory."""

    count: int = 0
    first: dict[str, Tensor] = field(default_factory=dict)
    second: dict[str, Tensor] = field(default_factory=dict)


def take_step(
    method: Method,
    trained: Mapping[str, Tensor],
    memory: Memory,
    *,
    paces: Mapping[str, Pace],
    clip: float,
    native: bool,
) -> bool:
    """Move what has a gradient, whose norm is brought down to `clip`; `native`: by native code.

    Returns False, and moves nothing, where the norm is not finite. Gradients are gone afterwards.
    """
    gradients = {name: each.grad for name, each in trained.items() if each.grad is not None}
    for each in trained.values():
        each.grad = None
    if native and method == "adam":
        return _take_natively(trained, gradients, memory, paces=paces, clip=clip)
    norm = torch.nn.utils.get_total_norm(list(gradients.values()))
    if not torch.isfinite(norm):
        return False
    for gradient in gradients.values():
        gradient.mul_((clip / (norm + CLIP_EPSILON)).clamp(max=1))
    for name, change in step(method, gradients, memory).items():
        pace = paces[name]
        own = change if pace.leeway is None else change * torch.from_numpy(pace.leeway)
        trained[name].sub_(own, alpha=pace.rate).mul_(pace.kept)
    return True


def _take_natively(
    trained: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    memory: Memory,
    *,
    paces: Mapping[str, Pace],
    clip: float,
) -> bool:
    slopes = [each.contiguous().numpy() for each in gradients.values()]
    norm = measure_norm(slopes)
    if not math.isfinite(norm):
        return False
    memory.count += 1
    averages = [
        [kept.setdefault(name, torch.zeros_like(each)).numpy() for name, each in gradients.items()]
        for kept in (memory.first, memory.second)
    ]
    take_adam_step(
        [trained[name].detach().numpy() for name in gradients],
        slopes,
        *averages,
        rates=[paces[name].rate for name in gradients],
        kept=[paces[name].kept for name in gradients],
        leeways=[paces[name].leeway for name in gradients],
        scale=min(1.0, clip / (norm + CLIP_EPSILON)),
        decays=(FIRST_DECAY, SECOND_DECAY),
        epsilon=EPSILON,
        steps=memory.count,
    )
    return True


def step(method: Method, gradients: Mapping[str, Tensor], memory: Memory) -> dict[str, Tensor]:
    """Return each tensor's step, to be taken off after it is multiplied by the rate."""
    memory.count += 1
    return {name: _STEPS[method](name, each, memory) for name, each in gradients.items()}


def _step_adam(name: str, gradient: Tensor, memory: Memory) -> Tensor:
    """Adam (arXiv 1412.6980)."""
    first = _average(memory.first, name, gradient, FIRST_DECAY)
    second = _average(memory.second, name, gradient.square(), SECOND_DECAY)
    first = first / (1 - FIRST_DECAY**memory.count)
    second = second / (1 - SECOND_DECAY**memory.count)
    return first / (second.sqrt() + EPSILON)


def _step_normed(name: str, gradient: Tensor, memory: Memory) -> Tensor:
    """The gradient itself, in a fixed size; nothing is remembered."""
    del name, memory
    return _normalise(gradient)


def _step_sign(name: str, gradient: Tensor, memory: Memory) -> Tensor:
    """The sign of the averaged gradient."""
    return _average(memory.first, name, gradient, AVERAGED).sign()


def _step_muon(name: str, gradient: Tensor, memory: Memory) -> Tensor:
    """The averaged gradient with its singular values made alike; a vector is only normalised."""
    average = _average(memory.first, name, gradient, AVERAGED)
    return _normalise(_level(average) if average.ndim == 2 else average)


def _average(averages: dict[str, Tensor], name: str, value: Tensor, decay: float) -> Tensor:
    if name not in averages:
        averages[name] = torch.zeros_like(value)
    return averages[name].mul_(decay).add_(value, alpha=1 - decay)


def _normalise(x: Tensor) -> Tensor:
    # By rows: the bits of a sum over everything depend on the number of threads.
    total = x.square().sum(dim=-1).sum()
    return x / ((total / x.numel()).sqrt() + 1e-20)


def _level(x: Tensor) -> Tensor:
    a, b, c = COEFFICIENTS
    tall = len(x) > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-20)
    for _ in range(ROUNDS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


_STEPS: dict[Method, Callable[[str, Tensor, Memory], Tensor]] = {
    "adam": _step_adam,
    "normed": _step_normed,
    "sign": _step_sign,
    "muon": _step_muon,
}
