"""Merging adapters is an exact sum; compressing finds the nearest lower rank and tells the loss."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluvial.errors import InputError, ModelError
from fluvial.model.adapter import create_tensors
from fluvial.model.adapter_file import decode, encode
from fluvial.model.architecture.declaration import Declaration, declare_layer
from fluvial.model.merge import MAX_PARTS, compress, compress_term, measure, merge
from tests.families import create_random_adapter

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
GROUPS = [f"layers.{index}.{group.name}" for index in range(2) for group in LAYER.groups]
Arrays = dict[str, np.ndarray]


def change(tensors: Arrays, group: str) -> np.ndarray:
    return tensors[f"{group}.a"].astype(np.float64) @ tensors[f"{group}.b"].astype(np.float64)


def test_a_merge_is_the_weighted_sum_of_the_changes_and_of_the_gains() -> None:
    first = create_random_adapter(MODEL, rank=3, seed=1)
    second = create_random_adapter(MODEL, rank=5, seed=2)
    merged = merge([(first, 1.0), (second, -0.3)])
    for group in GROUPS:
        expected = change(first, group) - 0.3 * change(second, group)
        np.testing.assert_allclose(change(merged, group), expected, rtol=0, atol=1e-6)
    for index in range(2):
        name = f"layers.{index}.gain"
        np.testing.assert_allclose(merged[name], first[name] - 0.3 * second[name], atol=1e-7)
    again = decode(encode(merged, checkpoint="x"), declaration=MODEL, checkpoint="x")
    assert again["layers.0.qkv.a"].shape == (32, 8)


def test_terms_stand_one_after_another_bit_for_bit() -> None:
    first = create_random_adapter(MODEL, rank=3, seed=1)
    second = create_random_adapter(MODEL, rank=5, seed=2)
    merged = merge([(first, 1.0), (second, 0.5)])
    assert np.array_equal(merged["layers.1.down.a"][:, :3], first["layers.1.down.a"])
    assert np.array_equal(merged["layers.1.down.b"][3:], second["layers.1.down.b"] / 2)


@pytest.mark.parametrize("rank", [1, 2, 5, 11])
def test_compressing_is_as_good_as_the_svd_of_the_whole_matrix(rank: int) -> None:
    tensors = create_random_adapter(MODEL, rank=12, seed=3)
    found = compress(tensors, rank)
    lost = whole = 0.0
    for group in GROUPS:
        before, after = change(tensors, group), change(found.tensors, group)
        energies = np.linalg.svd(before, compute_uv=False) ** 2
        best = np.sqrt(energies[rank:].sum() / energies.sum())
        distance = np.linalg.norm(after - before) / np.linalg.norm(before)
        assert found.tensors[f"{group}.a"].shape[1] == rank
        np.testing.assert_allclose(distance, best, rtol=1e-4)
        np.testing.assert_allclose(found.loss.groups[group], best, rtol=1e-6)
        lost, whole = lost + energies[rank:].sum(), whole + energies.sum()
    np.testing.assert_allclose(found.loss.overall, np.sqrt(lost / whole), rtol=1e-6)
    assert np.array_equal(found.tensors["layers.0.gain"], tensors["layers.0.gain"])


def test_what_two_adapters_share_is_compressed_without_loss() -> None:
    tensors = create_random_adapter(MODEL, rank=4, seed=4)
    found = compress(merge([(tensors, 0.75), (tensors, 0.25)]), 4)
    assert found.loss.overall < 1e-6
    for group in GROUPS:
        np.testing.assert_allclose(change(found.tensors, group), change(tensors, group), atol=1e-5)


def test_a_rank_that_fits_already_is_left_bit_for_bit() -> None:
    tensors = create_random_adapter(MODEL, rank=4, seed=4)
    found = compress(tensors, 4)
    assert found.loss.overall == 0
    assert not found.loss.groups
    assert all(np.array_equal(found.tensors[name], each) for name, each in tensors.items())


def test_groups_that_were_kept_count_in_the_overall_loss() -> None:
    rng = np.random.Generator(np.random.PCG64(5))
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((20, 6), (6, 30)))
    kept, cut = compress_term(a, b, rank=6), compress_term(a, b, rank=2)
    np.testing.assert_allclose(kept.whole, np.linalg.norm(a @ b) ** 2, rtol=1e-4)
    both = measure({"layers.0.o": kept, "layers.0.down": cut})
    alone = measure({"layers.0.down": cut})
    assert both.groups == alone.groups
    np.testing.assert_allclose(both.overall, alone.overall / 2**0.5, rtol=1e-6)


def test_every_direction_of_a_compressed_adapter_can_go_on_learning() -> None:
    fresh = create_tensors(MODEL, rank=8, seed=1)
    found = compress(fresh, 3)
    assert found.loss.overall == 0
    for group in GROUPS:
        a = found.tensors[f"{group}.a"]
        np.testing.assert_allclose(a.T @ a, np.eye(3), atol=1e-5)
        assert not found.tensors[f"{group}.b"].any()


def test_ranks_beyond_the_width_are_compressed_too() -> None:
    rng = np.random.Generator(np.random.PCG64(6))
    a = rng.standard_normal((8, 50)).astype(np.float32)
    b = rng.standard_normal((50, 10)).astype(np.float32)
    term = compress_term(a, b, rank=20)
    assert term.a.shape == (8, 20)
    assert term.b.shape == (20, 10)
    assert term.lost == 0
    np.testing.assert_allclose(term.a @ term.b, a @ b, rtol=1e-3, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(ranks=st.lists(st.integers(1, 4), min_size=1, max_size=5), seed=st.integers(0, 1000))
def test_a_merge_compressed_to_its_own_rank_loses_nothing(ranks: list[int], seed: int) -> None:
    parts = [
        (create_random_adapter(MODEL, rank=rank, seed=seed + index), 1.0 / (index + 1))
        for index, rank in enumerate(ranks)
    ]
    merged = merge(parts)
    assert compress(merged, sum(ranks)).loss.overall == 0
    half = compress(merged, max(1, sum(ranks) // 2)).loss.overall
    assert 0 <= half < 1


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_weights_must_be_finite(weight: float) -> None:
    with pytest.raises(InputError, match="finite"):
        merge([(create_random_adapter(MODEL), weight)])


@pytest.mark.parametrize("count", [0, MAX_PARTS + 1])
def test_the_number_of_adapters_is_bounded(count: int) -> None:
    with pytest.raises(InputError, match=f"{count} adapters"):
        merge([(create_random_adapter(MODEL), 1.0)] * count)


def test_adapters_of_different_models_are_not_merged() -> None:
    tensors = create_random_adapter(MODEL)
    narrow = {**tensors, "layers.0.qkv.b": tensors["layers.0.qkv.b"][:, 1:]}
    with pytest.raises(ModelError, match=r"one model: 'layers\.0\.qkv\.b'"):
        merge([(tensors, 1.0), (narrow, 1.0)])
    fewer = {name: each for name, each in tensors.items() if name != "layers.1.gain"}
    with pytest.raises(ModelError, match=r"one model.*'layers\.1\.gain'"):
        merge([(tensors, 1.0), (fewer, 1.0)])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    tensors = create_random_adapter(MODEL)
    tensors["layers.1.o.a"][3, 1] = value
    with pytest.raises(ModelError, match=r"'layers\.1\.o\.a'.*not finite"):
        merge([(tensors, 1.0)])
    with pytest.raises(ModelError, match=r"'layers\.1\.o\.a'.*not finite"):
        compress(tensors, 2)


def test_sums_that_overflow_are_refused() -> None:
    tensors = create_random_adapter(MODEL)
    with pytest.raises(ModelError, match="not finite"):
        merge([(tensors, 1e300)])
    for name in ("layers.0.o.a", "layers.0.o.b"):
        tensors[name] = tensors[name] * np.float32(1e30)
    with pytest.raises(ModelError, match=r"'layers\.0\.o\.b'.*not finite"):
        compress(tensors, 2)


@pytest.mark.parametrize("rank", [0, -3])
def test_a_rank_is_at_least_one(rank: int) -> None:
    with pytest.raises(InputError, match="1 or more"):
        compress(create_random_adapter(MODEL), rank)
