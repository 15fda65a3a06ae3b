"""Adapters on disk: exact, bound to their checkpoint, and refused when anything is off."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluvial.errors import ModelError
from fluvial.model.adapter import create_tensors
from fluvial.model.adapter_file import decode, encode
from fluvial.model.architecture.declaration import Declaration, declare_layer

LAYER = declare_layer(
    width=32, heads=2, kv_heads=1, head_width=16, mlp_width=64, rope_theta=10_000.0
)
MODEL = Declaration(
    family="llama",
    vocab_size=10,
    width=32,
    norm_epsilon=1e-5,
    context_tokens=64,
    tied_head=True,
    layers=(LAYER, LAYER),
)
TENSORS = create_tensors(MODEL, rank=3, seed=7)
DATA = encode(TENSORS, checkpoint="abc")


def test_a_new_adapter_is_zero_where_it_acts_and_seeded_where_it_looks() -> None:
    assert all(not t.any() for name, t in TENSORS.items() if not name.endswith(".a"))
    assert all(t.any() for name, t in TENSORS.items() if name.endswith(".a"))
    again = create_tensors(MODEL, rank=3, seed=7)
    assert all(np.array_equal(again[name], t) for name, t in TENSORS.items())


def test_every_bit_comes_back() -> None:
    found = decode(DATA, declaration=MODEL, checkpoint="abc")
    assert found.keys() == TENSORS.keys()
    assert all(np.array_equal(found[name], t) for name, t in TENSORS.items())


def test_what_can_be_made_again_is_not_stored() -> None:
    trained = {
        name: t + np.float32(0.25) if name.endswith(".b") else t
        for name, t in create_tensors(MODEL, rank=3, seed=0).items()
    }
    whole = encode(trained, checkpoint="abc")
    small = encode(trained, checkpoint="abc", declaration=MODEL)
    found = decode(small, declaration=MODEL, checkpoint="abc")
    assert found.keys() == trained.keys()
    assert all(np.array_equal(found[name], t) for name, t in trained.items())
    halves = sum(t.size * 2 for name, t in trained.items() if name.endswith(".b"))
    assert halves < len(small) < halves + 2000 < len(whole)


def test_what_float16_can_not_hold_is_kept_whole() -> None:
    rng = np.random.default_rng(0)
    odd = {
        name: rng.standard_normal(t.shape).astype(np.float32) * 1e5 for name, t in TENSORS.items()
    }
    found = decode(
        encode(odd, checkpoint="abc", declaration=MODEL), declaration=MODEL, checkpoint="abc"
    )
    assert all(np.array_equal(found[name], t) for name, t in odd.items())


def test_a_compact_file_that_lacks_what_was_learned_is_refused() -> None:
    kept = {name: t for name, t in TENSORS.items() if name != "layers.1.o.b"}
    data = encode(kept, checkpoint="abc", declaration=MODEL)
    with pytest.raises(ModelError, match=r"lacks.*layers\.1\.o\.b"):
        decode(data, declaration=MODEL, checkpoint="abc")


def test_equal_adapters_have_equal_bytes() -> None:
    backwards = dict(reversed(TENSORS.items()))
    assert {encode(each, checkpoint="abc") for each in [TENSORS, backwards] * 20} == {DATA}


def test_an_adapter_of_another_checkpoint_is_refused() -> None:
    with pytest.raises(ModelError, match="learned on checkpoint abc"):
        decode(DATA, declaration=MODEL, checkpoint="xyz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers.0.gain": np.zeros(63, np.float32)}, r"layers\.0\.gain.*\(64,\)"),
        ({"layers.0.gain": np.full(64, np.nan, np.float32)}, "not finite"),
        ({"layers.9.gain": np.zeros(64, np.float32)}, r"unknown.*layers\.9\.gain"),
        ({"layers.1.o.a": np.zeros((32, 4), np.float32)}, "no single rank"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: dict[str, np.ndarray], message: str) -> None:
    data = encode({**TENSORS, **change}, checkpoint="abc")
    with pytest.raises(ModelError, match=message):
        decode(data, declaration=MODEL, checkpoint="abc")


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, len(DATA) - 1), value=st.integers(0, 255), cut=st.booleans())
def test_damage_is_a_model_error_or_harmless(at: int, value: int, cut: bool) -> None:
    data = DATA[:at] if cut else DATA[:at] + bytes([value]) + DATA[at + 1 :]
    try:
        decode(data, declaration=MODEL, checkpoint="abc")
    except ModelError:
        return
    assert not cut
