"""Weights of a file's tensors: rows, stacks and formulas, and files where they do not fit."""

import numpy as np
import pytest

from fluvial.errors import ModelError
from fluvial.model.architecture.declaration import (
    Declaration,
    Experts,
    Layer,
    Router,
    declare_attention,
    rotate,
)
from fluvial.model.architecture.name import CONFIG, GGUF, Names, Rows, Sources, add_one
from fluvial.model.gguf import RawTensor
from fluvial.model.weight import collect

WIDTH, VOCAB, EXPERTS, INNER = 4, 5, 3, 2


def test_tensors_come_under_our_names_whatever_the_file_calls_them() -> None:
    weights = collect(_tensors(), declaration=_declaration(), names=CONFIG)
    assert weights["layers.0.q"].shape == (4, WIDTH)
    np.testing.assert_array_equal(weights["norm"].dequantize(), np.full(WIDTH, 7, np.float32))


def test_experts_are_stacked_in_their_order() -> None:
    weights = collect(_tensors(), declaration=_declaration(), names=CONFIG)
    stacked = weights["layers.0.experts_up"].dequantize()
    assert stacked.shape == (EXPERTS, INNER, WIDTH)
    for index in range(EXPERTS):
        assert (stacked[index] == 10 + index).all()


def test_rows_of_a_merged_tensor_are_split_into_their_shape() -> None:
    merged = np.arange(EXPERTS * 2 * INNER * WIDTH, dtype=np.float32)
    merged = merged.reshape(EXPERTS, 2 * INNER, WIDTH)
    tensors = {**_tensors(), "model.layers.0.mlp.experts.gate_up_proj": _raw(merged)}

    def choose(_: object) -> np.ndarray:
        return np.arange(EXPERTS * 2 * INNER).reshape(EXPERTS, 2, INNER)[:, 1].reshape(-1)

    names = CONFIG.extend({"experts_up": Rows("mlp.experts.gate_up_proj", choose)})
    weights = collect(tensors, declaration=_declaration(), names=names)
    found = weights["layers.0.experts_up"].dequantize()
    np.testing.assert_array_equal(found, merged[:, INNER:])


def test_the_first_source_that_the_file_has_counts() -> None:
    both: Sources = ("not.there.weight", "mlp.gate.weight")
    names = CONFIG.extend({"router": both})
    weights = collect(_tensors(), declaration=_declaration(), names=names)
    assert weights["layers.0.router"].shape == (EXPERTS, WIDTH)


def test_a_norm_stored_less_one_gets_it_back() -> None:
    names = CONFIG.extend({}, whole={"norm": add_one("model.norm.weight")})
    weights = collect(_tensors(), declaration=_declaration(), names=names)
    np.testing.assert_array_equal(weights["norm"].dequantize(), np.full(WIDTH, 8, np.float32))


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("model.norm.weight", None, "has no tensor 'model.norm.weight'"),
        ("model.norm.weight", np.zeros(5), r"has shape \(5,\), the model needs \(4,\)"),
        ("model.layers.0.mlp.experts.1.up_proj.weight", None, "has no tensor .*experts.1"),
        ("model.layers.0.mlp.experts.1.up_proj.weight", np.zeros((4, 2)), r"needs F32 \(2, 4\)"),
        ("model.layers.0.self_attn.q_proj.weight", np.zeros((1, 16)), r"needs \(4, 4\)"),
    ],
)
def test_what_is_missing_or_has_another_shape_is_named(
    name: str, array: np.ndarray | None, message: str
) -> None:
    tensors = _tensors()
    del tensors[name]
    if array is not None:
        tensors[name] = _raw(array, name)
    with pytest.raises(ModelError, match=message):
        collect(tensors, declaration=_declaration(), names=CONFIG)


def test_rows_are_not_counted_before_the_file_has_room_for_them() -> None:
    def choose(_: object) -> np.ndarray:
        raise AssertionError("a hostile declaration must not decide how much is allocated")

    names = CONFIG.extend({"q": Rows("mlp.experts.0.up_proj.weight", choose)})
    with pytest.raises(ModelError, match=r"needs \(4, 4\) of it"):
        collect(_tensors(), declaration=_declaration(), names=names)


def test_a_weight_that_the_format_has_no_name_for_is_said() -> None:
    names = Names(whole=GGUF.whole, layer=GGUF.layer)
    tensors = {"token_embd.weight": _raw(np.zeros((VOCAB, WIDTH)))}
    tensors["output_norm.weight"] = _raw(np.zeros(WIDTH))
    with pytest.raises(ModelError, match=r"no weight 'layers\.0\.attention_norm'"):
        collect(tensors, declaration=_declaration(), names=names)


def _declaration() -> Declaration:
    experts = Experts(
        count=EXPERTS, active=1, width=INNER, router=Router(score="softmax", normalise=True)
    )
    rotary = rotate(width=2, theta=10_000.0)
    attention = declare_attention(width=WIDTH, heads=2, kv_heads=1, head_width=2, rotary=rotary)
    return Declaration(
        family="test",
        vocab_size=VOCAB,
        width=WIDTH,
        norm_epsilon=1e-6,
        context_tokens=8,
        tied_head=True,
        layers=(Layer(mixer=attention, mlp=experts),),
    )


def _tensors() -> dict[str, RawTensor]:
    at = "model.layers.0"
    arrays = {
        "model.embed_tokens.weight": np.zeros((VOCAB, WIDTH)),
        "model.norm.weight": np.full(WIDTH, 7),
        f"{at}.input_layernorm.weight": np.ones(WIDTH),
        f"{at}.post_attention_layernorm.weight": np.ones(WIDTH),
        f"{at}.self_attn.q_proj.weight": np.zeros((4, WIDTH)),
        f"{at}.self_attn.k_proj.weight": np.zeros((2, WIDTH)),
        f"{at}.self_attn.v_proj.weight": np.zeros((2, WIDTH)),
        f"{at}.self_attn.o_proj.weight": np.zeros((WIDTH, 4)),
        f"{at}.mlp.gate.weight": np.zeros((EXPERTS, WIDTH)),
    }
    for index in range(EXPERTS):
        expert = f"{at}.mlp.experts.{index}"
        arrays[f"{expert}.gate_proj.weight"] = np.zeros((INNER, WIDTH))
        arrays[f"{expert}.up_proj.weight"] = np.full((INNER, WIDTH), 10 + index)
        arrays[f"{expert}.down_proj.weight"] = np.zeros((WIDTH, INNER))
    return {name: _raw(array, name) for name, array in arrays.items()}


def _raw(array: np.ndarray, name: str = "t") -> RawTensor:
    values = np.ascontiguousarray(array, np.float32)
    blocks = values.reshape(-1, values.shape[-1]).view(np.uint8)
    return RawTensor(name, "F32", values.shape, blocks)
