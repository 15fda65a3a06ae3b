"""Whitened first factors: what they keep, what they damp, and that sessions stand on them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fluvial.adapt.calibration import calibrate, ensure_basis, find_leeways, load_examples
from fluvial.adapt.learner import Learner
from fluvial.adapt.rule import Rule
from fluvial.model.adapter import create_tensors
from fluvial.model.adapter_file import decode, encode
from fluvial.model.basis import Bases
from fluvial.model.checkpoint import Checkpoint, open_checkpoint
from fluvial.model.opening import open_template, open_tokenizer

RULE = Rule(rank=4, seed=0, learn_a=False, learn_gains=False, chunk_tokens=64)
TEXT = [position * 7 % 250 for position in range(64)]
TALK, PLAIN = [1, 2, 3], [4, 5]


@pytest.fixture(scope="module")
def checkpoint(tiny_model: Path) -> Checkpoint:
    return open_checkpoint(tiny_model)


@pytest.mark.parametrize("tokens", [30, 400])
def test_what_conversations_do_most_is_seen_least(checkpoint: Checkpoint, tokens: int) -> None:
    """Also where there are fewer tokens than inputs."""
    inputs = _draw_inputs(checkpoint, tokens)
    made = _calibrate(checkpoint, inputs)
    drawn = create_tensors(checkpoint.declaration, rank=4, seed=0)
    for name, factors in made.items():
        talk, plain = inputs[0][name[:-2]], inputs[1][name[:-2]]
        before = np.linalg.norm(talk[1:] @ drawn[name])
        assert np.linalg.norm(talk[1:] @ factors) < 0.6 * before
        as_large = np.linalg.norm(plain[1:] @ drawn[name])
        assert np.linalg.norm(plain[1:] @ factors) == pytest.approx(as_large, rel=1e-4)


def test_it_is_the_inverse_root_of_the_second_moment(checkpoint: Checkpoint) -> None:
    inputs = _draw_inputs(checkpoint, 400)
    made = _calibrate(checkpoint, inputs)
    drawn = create_tensors(checkpoint.declaration, rank=4, seed=0)
    name = "layers.0.qkv"
    talk, plain = (each[name][1:].astype(np.float64) for each in inputs)
    moment = talk.T @ talk / len(talk)
    damped = moment + 0.3 * np.trace(moment) / len(moment) * np.eye(len(moment))
    values, vectors = np.linalg.eigh(damped)
    white = vectors @ np.diag(values**-0.5) @ vectors.T @ drawn[f"{name}.a"]
    white *= np.linalg.norm(plain @ drawn[f"{name}.a"]) / np.linalg.norm(plain @ white)
    np.testing.assert_allclose(made[f"{name}.a"], white, rtol=1e-3, atol=1e-5)


def test_what_conversations_lean_on_has_the_least_leeway() -> None:
    slopes = {1: np.array([4, 1, 0, 1], np.float32), 3: np.array([12, 3, 0, 3], np.float32)}

    def measure(text: Sequence[int]) -> Mapping[str, NDArray[np.float32]]:
        return {"layers.0.qkv": slopes[text[0]]}

    found = find_leeways([[1, 2], [3, 4]], measure=measure)["layers.0.qkv"]
    expected = (np.array([8, 2, 0, 2]) / 3 + 0.1) ** -0.5
    expected /= np.sqrt(np.mean(expected**2))
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_slopes_are_those_of_float32(checkpoint: Checkpoint, tmp_path: Path) -> None:
    found = _open(checkpoint, tmp_path).measure_slopes(TEXT)
    expected = Learner(checkpoint, rule=RULE).measure_slopes(TEXT)
    assert found.keys() == expected.keys()
    for name, each in expected.items():
        assert each.any()
        assert np.corrcoef(found[name], each)[0, 1] > 0.98
        assert found[name].sum() == pytest.approx(each.sum(), rel=0.1)


def test_sessions_stand_on_a_basis_that_is_made_once(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    bases, tokenizer = Bases(tmp_path / "bases"), open_tokenizer(checkpoint)
    found = [
        ensure_basis(_open(checkpoint, tmp_path), checkpoint, bases=bases, tokenizer=tokenizer)
        for _ in range(2)
    ]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0].sha256 == found[1].sha256
    assert len([*(tmp_path / "bases").iterdir()]) == 1


def test_what_was_learned_on_a_basis_is_kept_without_it(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    bases, tokenizer = Bases(tmp_path / "bases"), open_tokenizer(checkpoint)
    learner = _open(checkpoint, tmp_path)
    basis = ensure_basis(learner, checkpoint, bases=bases, tokenizer=tokenizer)
    assert basis is not None
    learner.load("s", None)
    assert learner.read("s", context=[0], chunk=TEXT, learn=True).learned
    learner.settle("s")
    tensors = learner.export("s")
    for name, each in basis.tensors.items():
        np.testing.assert_array_equal(tensors[name], each)
    declaration, sha256 = checkpoint.declaration, checkpoint.sha256
    alone = encode(tensors, checkpoint=sha256, declaration=declaration)
    data = encode(tensors, checkpoint=sha256, declaration=declaration, basis=basis)
    assert len(data) < 0.7 * len(alone)
    back = decode(data, declaration=declaration, checkpoint=sha256, bases=bases)
    for name, each in tensors.items():
        np.testing.assert_array_equal(back[name], each)


def test_a_zero_adapter_on_a_basis_is_the_base(checkpoint: Checkpoint, tmp_path: Path) -> None:
    learner = _open(checkpoint, tmp_path)
    bases, tokenizer = Bases(tmp_path / "bases"), open_tokenizer(checkpoint)
    ensure_basis(learner, checkpoint, bases=bases, tokenizer=tokenizer)
    learner.load("s", None)
    scored = learner.score([0], TEXT, tensors=learner.export("s"))
    assert scored == learner.score([0], TEXT)


def test_models_that_only_run_in_float32_stay_on_random_factors(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    learner = Learner(checkpoint, rule=RULE)
    bases, tokenizer = Bases(tmp_path), open_tokenizer(checkpoint)
    assert ensure_basis(learner, checkpoint, bases=bases, tokenizer=tokenizer) is None


def test_the_conversations_of_the_package_fill_what_is_looked_at(checkpoint: Checkpoint) -> None:
    tokenizer = open_tokenizer(checkpoint)
    examples = load_examples(tokenizer=tokenizer, template=open_template(checkpoint))
    assert len(examples) >= 20
    assert all(len(each) > 8 for each in examples)


def test_the_seed_decides(checkpoint: Checkpoint) -> None:
    inputs = _draw_inputs(checkpoint, 100)
    one, other = (_calibrate(checkpoint, inputs, seed=seed) for seed in (0, 1))
    assert not np.array_equal(one["layers.0.qkv.a"], other["layers.0.qkv.a"])


def _open(checkpoint: Checkpoint, tmp_path: Path) -> Learner:
    rule = replace(RULE, overlap_tokens=16, stride_tokens=128)
    return Learner(checkpoint, rule=rule, graph_dir=tmp_path / "graphs", positions=1024)


def _draw_inputs(
    checkpoint: Checkpoint, tokens: int
) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
    """Return inputs of conversations, a few directions of which are strong, and of other text."""
    rng = np.random.default_rng(0)
    talk: dict[str, NDArray[np.float32]] = {}
    plain: dict[str, NDArray[np.float32]] = {}
    for name, each in create_tensors(checkpoint.declaration, rank=4, seed=0).items():
        if name.endswith(".a"):
            width = len(each)
            strong = rng.standard_normal((tokens, 2)) @ rng.standard_normal((2, width))
            noise = rng.standard_normal((tokens, width))
            talk[name[:-2]] = (5 * strong + 0.1 * noise).astype(np.float32)
            plain[name[:-2]] = rng.standard_normal((tokens, width)).astype(np.float32)
    return talk, plain


def _calibrate(
    checkpoint: Checkpoint,
    inputs: tuple[Mapping[str, NDArray[np.float32]], Mapping[str, NDArray[np.float32]]],
    *,
    seed: int = 0,
) -> Mapping[str, NDArray[np.float32]]:
    def measure(text: Sequence[int]) -> Mapping[str, NDArray[np.float32]]:
        return inputs[0] if list(text) == TALK else inputs[1]

    return calibrate(
        checkpoint.declaration,
        conversations=[TALK],
        neutral=PLAIN,
        measure=measure,
        rank=4,
        seed=seed,
    )
