"""Bases: kept by content, found again, and never taken for another."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from fluvial.errors import ModelError
from fluvial.model.adapter import Tensors
from fluvial.model.adapter_file import decode, encode
from fluvial.model.basis import SHIPPED, Bases
from fluvial.model.catalogue import load_catalogue
from fluvial.testing import ToyDeclaration

CHECKPOINT = "a" * 64
LEEWAYS = {"layers.0.qkv": np.full(3, 0.5, np.float32)}


@pytest.fixture
def bases(tmp_path: Path) -> Bases:
    return Bases(tmp_path)


def test_what_was_saved_is_found_by_its_hash_in_a_new_process(bases: Bases, tmp_path: Path) -> None:
    saved = bases.save(_draw(1), leeways=LEEWAYS, checkpoint=CHECKPOINT)
    again = Bases(tmp_path).load(saved.sha256)
    assert again.tensors.keys() == saved.tensors.keys()
    for name, each in saved.tensors.items():
        np.testing.assert_array_equal(again.tensors[name], each)
    assert again.leeways.keys() == LEEWAYS.keys()
    np.testing.assert_array_equal(again.leeways["layers.0.qkv"], LEEWAYS["layers.0.qkv"])


def test_equal_factors_are_one_file(bases: Bases, tmp_path: Path) -> None:
    assert bases.save(_draw(1), leeways=LEEWAYS, checkpoint=CHECKPOINT) is not None
    bases.save(_draw(1), leeways=LEEWAYS, checkpoint=CHECKPOINT)
    assert len([*tmp_path.iterdir()]) == 1


def test_the_newest_that_fits_is_found(bases: Bases) -> None:
    bases.save(_draw(1), leeways=LEEWAYS, checkpoint=CHECKPOINT)
    newest = bases.save(_draw(2), leeways=LEEWAYS, checkpoint=CHECKPOINT)
    bases.save(_draw(3, rank=5), leeways=LEEWAYS, checkpoint=CHECKPOINT)
    bases.save(_draw(4), leeways=LEEWAYS, checkpoint="b" * 64)
    shapes = {name: each.shape for name, each in _draw(1).items()}
    found = bases.find(shapes, checkpoint=CHECKPOINT)
    assert found is not None
    assert found.sha256 == newest.sha256
    assert bases.find({"layers.0.qkv.a": (1, 1)}, checkpoint=CHECKPOINT) is None


def test_one_without_leeways_is_read_but_not_begun_with(bases: Bases) -> None:
    old = bases.save(_draw(1), leeways={}, checkpoint=CHECKPOINT)
    shapes = {name: each.shape for name, each in _draw(1).items()}
    assert bases.find(shapes, checkpoint=CHECKPOINT) is None
    assert bases.match(_draw(1), checkpoint=CHECKPOINT) is old


def test_an_adapter_is_matched_with_the_basis_it_stands_on(bases: Bases) -> None:
    first, second = (
        bases.save(_draw(seed), leeways=LEEWAYS, checkpoint=CHECKPOINT) for seed in (1, 2)
    )
    matched = [bases.match(each.tensors, checkpoint=CHECKPOINT) for each in (first, second)]
    assert [each and each.sha256 for each in matched] == [first.sha256, second.sha256]
    assert bases.match(_draw(9), checkpoint=CHECKPOINT) is None


@pytest.mark.parametrize("harm", ["missing", "other", "short"])
def test_one_that_is_missing_or_damaged_is_told(bases: Bases, tmp_path: Path, harm: str) -> None:
    saved = bases.save(_draw(1), leeways=LEEWAYS, checkpoint=CHECKPOINT)
    (path,) = tmp_path.iterdir()
    if harm == "missing":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data if harm == "other" else data[:-4])
    fresh = Bases(tmp_path)
    with pytest.raises(ModelError, match="basis"):
        fresh.load(saved.sha256)
    assert fresh.match(saved.tensors, checkpoint=CHECKPOINT) is None


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "*", "g" * 64, "A" * 64])
def test_names_that_are_no_hash_are_refused(bases: Bases, name: str) -> None:
    with pytest.raises(ModelError, match="no sha256"):
        bases.load(name)


@pytest.mark.parametrize(
    "tensors",
    [
        {"layers.0.qkv.b": np.ones((2, 2), np.float32)},
        {"layers.0.qkv.a": np.ones((2, 2, 2), np.float32)},
        {"layers.0.qkv.a": np.full((2, 2), np.nan, np.float32)},
        {"layers.0.qkv.leeway": np.ones((2, 2), np.float32)},
        {"layers.0.qkv.leeway": np.full(2, np.nan, np.float32)},
    ],
)
def test_a_file_of_something_else_is_refused(
    tensors: Tensors, bases: Bases, tmp_path: Path
) -> None:
    saved = bases.save(tensors, leeways={}, checkpoint=CHECKPOINT)
    with pytest.raises(ModelError, match="no first factor"):
        Bases(tmp_path).load(saved.sha256)


def test_the_package_has_those_of_the_two_main_models(tmp_path: Path) -> None:
    catalogue = load_catalogue()
    for name in ("smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct"):
        bases, checkpoint = Bases(tmp_path / name), str(catalogue[name].sha256)
        bases.ship(checkpoint=checkpoint)
        (basis,) = bases.list(checkpoint)
        assert len(basis.tensors) >= 4
        assert {f"{group}.a" for group in basis.leeways} == basis.tensors.keys()
        assert {each.dtype for each in basis.tensors.values()} == {np.dtype(np.float32)}
    assert len([*SHIPPED.iterdir()]) == 2


def test_an_adapter_keeps_only_what_its_basis_has_not(bases: Bases) -> None:
    declaration = ToyDeclaration()
    whole = _make_adapter(declaration)
    first = {name: each for name, each in whole.items() if name.endswith(".a")}
    basis = bases.save(first, leeways=LEEWAYS, checkpoint=CHECKPOINT)
    data = encode(whole, checkpoint=CHECKPOINT, declaration=declaration, basis=basis)
    kept = safetensors.numpy.load(data)
    assert not [name for name in kept if name.endswith(".a")]
    back = decode(data, declaration=declaration, checkpoint=CHECKPOINT, bases=bases)
    assert back.keys() == whole.keys()
    for name, each in whole.items():
        np.testing.assert_array_equal(back[name], each)


def test_an_adapter_whose_basis_is_not_there_is_refused(bases: Bases, tmp_path: Path) -> None:
    declaration = ToyDeclaration()
    whole = _make_adapter(declaration)
    first = {name: each for name, each in whole.items() if name.endswith(".a")}
    basis = bases.save(first, leeways=LEEWAYS, checkpoint=CHECKPOINT)
    data = encode(whole, checkpoint=CHECKPOINT, declaration=declaration, basis=basis)
    with pytest.raises(ModelError, match="basis"):
        decode(data, declaration=declaration, checkpoint=CHECKPOINT)
    with pytest.raises(ModelError, match=r"basis .* is not in"):
        decode(
            data,
            declaration=declaration,
            checkpoint=CHECKPOINT,
            bases=Bases(tmp_path / "elsewhere"),
        )


def _draw(seed: int, *, rank: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        f"layers.{layer}.qkv.a": rng.standard_normal((8, rank)).astype(np.float32)
        for layer in range(2)
    }


def _make_adapter(declaration: ToyDeclaration) -> dict[str, np.ndarray]:
    from fluvial.model.adapter import list_shapes

    rng = np.random.default_rng(3)
    shapes = list_shapes(declaration, rank=2)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
