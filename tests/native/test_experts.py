"""Experts against numpy: routing, products of each packed form, and independence of the batch."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import quants
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

from fluvial.model.gguf import RawTensor
from fluvial.model.packing import Packed, pack_stack
from tests.native.graph import run_operator

Floats = NDArray[np.float32]
INPUTS, WIDTH = 64, 40


@dataclass(frozen=True, kw_only=True)
class Case:
    count: int = 8
    active: int = 3
    score: str = "softmax"
    normalise: bool = True
    groups: int = 1
    active_groups: int = 1
    scale: float = 1.0
    activation: str = "silu"
    bias: bool = False
    gate_up: Type = Type.Q8_0
    down: Type = Type.F32
    whole: bool = False


def make_stack(case: Case, kind: Type, outputs: int, inputs: int, *, seed: int) -> RawTensor:
    values = np.random.default_rng(seed).standard_normal((case.count * outputs, inputs), np.float32)
    blocks = quants.quantize(values / np.sqrt(inputs), kind)
    return RawTensor("stack", kind.name, (case.count, outputs, inputs), blocks.view(np.uint8))


class Layer:
    """Random weights for one case, packed."""

    def __init__(self, case: Case) -> None:
        self.case = case
        gate = make_stack(case, case.gate_up, WIDTH, INPUTS, seed=1)
        up = make_stack(case, case.gate_up, WIDTH, INPUTS, seed=2)
        down = make_stack(case, case.down, INPUTS, WIDTH, seed=3)
        self.gate_up = pack_stack([gate, up], whole=case.whole)
        self.down = pack_stack([down], whole=case.whole)
        random = np.random.default_rng(4)
        self.bias = random.standard_normal(case.count, np.float32) if case.bias else None

    def make(self, tokens: int, *, seed: int = 5) -> tuple[Floats, Floats]:
        random = np.random.default_rng(seed)
        x = random.standard_normal((tokens, INPUTS), np.float32)
        return x, random.standard_normal((tokens, self.case.count), np.float32) * 2

    @property
    def attributes(self) -> dict[str, Any]:
        case = self.case
        return {
            "in_width": INPUTS,
            "width": WIDTH,
            "count": case.count,
            "active": case.active,
            "score": ["softmax", "sigmoid"].index(case.score),
            "normalise": int(case.normalise),
            "groups": case.groups,
            "active_groups": case.active_groups,
            "scale": case.scale,
            "activation": ["silu", "gelu_tanh"].index(case.activation),
            **describe("gate_up", self.gate_up[0]),
            **describe("down", self.down[0]),
        }

    def run(self, x: Floats, logits: Floats, *, threads: int = 1, **changes: Any) -> Floats:
        inputs: dict[str, Any] = {
            "x": x,
            "logits": logits,
            "bias": self.bias,
            "gate_up": np.concatenate([each.data for each in self.gate_up]),
            "down": np.concatenate([each.data for each in self.down]),
        }
        attributes = {
            **self.attributes,
            **{key: value for key, value in changes.items() if key not in inputs},
        }
        inputs |= {key: value for key, value in changes.items() if key in inputs}
        return run_operator("Experts", inputs, attributes=attributes, threads=threads)[0]


def describe(name: str, packed: Packed) -> dict[str, int]:
    return {
        f"{name}_bits": packed.bits,
        f"{name}_has_minimum": int(packed.has_minimum),
        f"{name}_scale_bytes": packed.scale_bytes,
    }


def choose(case: Case, logits: Floats, bias: Floats | None) -> list[tuple[int, float]]:
    """The reference routing of one token: (expert, weight), ascending."""
    if case.score == "softmax":
        scores = np.exp(logits - logits.max())
        scores = scores / scores.sum()
    else:
        scores = 1 / (1 + np.exp(-logits))
    merit = scores if bias is None else scores + bias
    if case.groups > 1:
        grouped = merit.reshape(case.groups, -1)
        worth = np.sort(grouped, axis=1)[:, -2:].sum(axis=1)
        kept = np.argsort(-worth, kind="stable")[: case.active_groups]
        mask = np.isin(np.arange(case.groups), kept)
        merit = np.where(np.repeat(mask, grouped.shape[1]), merit, -np.inf)
    chosen = np.sort(np.argsort(-merit, kind="stable")[: case.active])
    weights = scores[chosen] / (scores[chosen].sum() if case.normalise else 1) * case.scale
    return list(zip(chosen.tolist(), weights.tolist(), strict=True))


def round_row(x: NDArray[Any], packed: Packed) -> NDArray[Any]:
    """What is left of a row that is rounded to 8 bits in blocks of 32."""
    if packed.bits == 32:
        return x
    blocks = np.pad(x, (0, -len(x) % 32)).reshape(-1, 32)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / 127
    return (np.rint(blocks / np.where(scale == 0, 1, scale)) * scale).reshape(-1)[: len(x)]


def compute(layer: Layer, x: Floats, logits: Floats) -> NDArray[Any]:
    y = np.zeros(x.shape)
    for token, row in enumerate(x.astype(np.float64)):
        for expert, weight in choose(layer.case, logits[token].astype(float), layer.bias):
            gate_up, down = layer.gate_up[expert], layer.down[expert]
            gate, up = np.split(gate_up.unpack() @ round_row(row, gate_up), 2)
            if layer.case.activation == "silu":
                inner = gate / (1 + np.exp(-gate)) * up
            else:
                inner = gate * up * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
                inner = inner / 2
            y[token] += weight * (down.unpack() @ round_row(inner, down))
    return y


CASES = {
    "qwen": Case(),
    "not normalised": Case(normalise=False),
    "deepseek": Case(
        score="sigmoid", bias=True, groups=4, active_groups=2, scale=2.5, activation="gelu_tanh"
    ),
    "softmax in groups": Case(groups=2, active_groups=1, active=4),
    "all": Case(active=8, score="sigmoid"),
    "one": Case(count=1, active=1),
    "float32": Case(whole=True),
    "4 bits": Case(gate_up=Type.Q4_0),
    "4 bits, minimum": Case(gate_up=Type.Q4_1),
    "5 bits": Case(gate_up=Type.Q5_0),
    "5 bits, minimum": Case(gate_up=Type.Q5_1),
}


@pytest.mark.parametrize("name", CASES)
def test_matches_numpy(variant: str, name: str) -> None:
    layer = Layer(CASES[name])
    x, logits = layer.make(19)
    y = layer.run(x, logits)
    # a value that lies between two integers may be rounded either way
    rtol = 1e-5 if layer.case.whole else 5e-3
    expected = compute(layer, x, logits)
    assert np.linalg.norm(y - expected) <= rtol * np.linalg.norm(expected)


def test_a_token_alone_is_the_same_to_the_bit(variant: str) -> None:
    layer = Layer(Case(gate_up=Type.Q4_1))
    x, logits = layer.make(1500)
    together = layer.run(x, logits, threads=2)
    for token in (0, 1, 681, 682, 683, 1499):
        alone = layer.run(x[token : token + 1].copy(), logits[token : token + 1].copy())
        np.testing.assert_array_equal(alone[0], together[token])


def test_of_equal_experts_the_first_are_chosen() -> None:
    layer = Layer(Case(whole=True))
    x, logits = layer.make(3)
    logits[:] = 0
    np.testing.assert_allclose(
        layer.run(x, logits), compute(layer, x, logits), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_token(bad: float) -> None:
    for case in (Case(), CASES["deepseek"], CASES["softmax in groups"]):
        layer = Layer(case)
        x, logits = layer.make(4)
        expected = layer.run(x, logits)
        logits[1, ::2] = bad
        logits[2] = bad
        x[1, 3] = bad
        np.testing.assert_array_equal(layer.run(x, logits)[[0, 3]], expected[[0, 3]])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bias_that_is_not_finite_does_no_harm(bad: float) -> None:
    layer = Layer(CASES["deepseek"])
    assert layer.bias is not None
    layer.bias[::2] = bad
    layer.bias[1] = -np.inf
    x, logits = layer.make(4)
    assert np.isfinite(layer.run(x, logits)).all()


def test_no_tokens() -> None:
    layer = Layer(Case())
    assert layer.run(*layer.make(0)).shape == (0, INPUTS)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x", np.zeros((4, INPUTS - 1), np.float32), "x must be"),
        ("x", np.zeros((4, INPUTS, 1), np.float32), "x must be"),
        ("logits", np.zeros((3, 8), np.float32), "logits must be"),
        ("logits", np.zeros((4, 9), np.float32), "logits must be"),
        ("bias", np.zeros(9, np.float32), "bias must be"),
        ("gate_up", np.zeros(64, np.uint8), "gate_up has 64 bytes"),
        ("down", np.zeros(0, np.uint8), "down has 0 bytes"),
    ],
)
def test_bad_shapes_are_exceptions(name: str, value: NDArray[Any], message: str) -> None:
    layer = Layer(Case())
    x, logits = layer.make(4)
    with pytest.raises(RuntimeError, match=message):
        layer.run(**{"x": x, "logits": logits, name: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"active": 9}, "more experts are active"),
        ({"count": 5000}, "must be from 1 to 4096"),
        ({"groups": 3}, "don't go with these groups"),
        ({"groups": 8, "active_groups": 3}, "two experts or more"),
        ({"groups": 4, "active_groups": 1}, "fewer experts than are active"),
        ({"groups": 2, "active_groups": 3}, "don't go with these groups"),
        ({"score": 2}, "score is 2"),
        ({"gate_up_bits": 6}, "gate_up: bits must be"),
        ({"down_scale_bytes": 3}, "down: scale_bytes must be"),
        ({"gate_up_has_minimum": 1}, "only 4 and 5 bits"),
    ],
)
def test_bad_attributes_are_exceptions(changes: dict[str, int], message: str) -> None:
    layer = Layer(replace(Case(), active=3))
    with pytest.raises(RuntimeException, match=message):
        layer.run(*layer.make(2), **changes)
