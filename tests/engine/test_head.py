"""The output layer's loss and gradient, against PyTorch's in float64."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fluvial.engine.head import HeadGradient
from fluvial.errors import EngineError
from fluvial.model.packing import Packed
from fluvial.native.library import use_threads
from tests.native.matrix import FORMS, make_matrix

Floats = NDArray[np.float32]
EVERYTHING = 1e-30


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("softcap", [None, 4.0])
@pytest.mark.parametrize(("vocabulary", "width", "rows"), [(1, 1, 1), (300, 70, 13), (1000, 32, 9)])
def test_is_that_of_cross_entropy(
    form: str, softcap: float | None, vocabulary: int, width: int, rows: int
) -> None:
    packed = make_matrix(form, vocabulary, width)
    logits, targets = _draw(rows, vocabulary, softcap=softcap)
    losses, gradient = HeadGradient(packed, threshold=EVERYTHING)(logits, targets, softcap=softcap)
    expected, slope = _expect(packed, logits, targets, softcap)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=2e-6)
    assert gradient is not None
    scale = float(np.abs(packed.unpack()).max())
    np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-5 * scale)


def test_what_is_not_followed_counts_as_the_mean() -> None:
    packed = make_matrix("8 bits", 500, 40)
    logits, targets = _draw(6, 500, softcap=None)
    _, gradient = HeadGradient(packed, threshold=0.01)(logits, targets)
    shares = torch.from_numpy(logits).double().softmax(-1).numpy()
    kept = np.where(shares > 0.01, shares, 0)
    assert 0 < (kept > 0).sum() < kept.size / 2
    weights = packed.unpack().astype(np.float64)
    rest = (1 - kept.sum(axis=1))[:, None] * weights.mean(axis=0)
    np.testing.assert_allclose(gradient, kept @ weights + rest - weights[targets], atol=1e-5)


def test_threads_and_neighbours_do_not_change_a_bit() -> None:
    head = HeadGradient(make_matrix("4 bits, minimum", 900, 70))
    logits, targets = _draw(40, 900, softcap=None)
    results: list[tuple[bytes, bytes]] = []
    try:
        for threads in (1, 2, 3):
            use_threads(threads)
            losses, gradient = head(logits, targets)
            assert gradient is not None
            results.append((losses.tobytes(), gradient.tobytes()))
    finally:
        use_threads(1)
    assert len(set(results)) == 1
    alone = [head(logits[row : row + 1], targets[row : row + 1])[1] for row in range(40)]
    assert b"".join(each.tobytes() for each in alone if each is not None) == results[0][1]


def test_losses_alone() -> None:
    head = HeadGradient(make_matrix("8 bits", 90, 40))
    logits, targets = _draw(5, 90, softcap=None)
    losses, gradient = head(logits, targets, gradient=False)
    assert gradient is None
    assert np.array_equal(losses, head(logits, targets)[0])


def test_logits_are_left_as_they_are_and_no_rows_are_none() -> None:
    head = HeadGradient(make_matrix("8 bits", 90, 40))
    logits, targets = _draw(5, 90, softcap=None)
    before = logits.copy()
    head(logits, targets)
    assert np.array_equal(logits, before)
    losses, gradient = head(logits[:0], targets[:0])
    assert losses.shape == (0,)
    assert gradient is not None
    assert gradient.shape == (0, 40)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 20, 89])
def test_what_is_not_finite_stays_so(value: float, place: int) -> None:
    logits, targets = _draw(3, 90, softcap=None)
    logits[1, place] = value
    losses, gradient = HeadGradient(make_matrix("8 bits", 90, 40))(logits, targets)
    assert gradient is not None
    assert not np.isfinite(losses[1])
    assert not np.isfinite(gradient[1]).any()
    assert np.isfinite(losses[[0, 2]]).all()
    assert np.isfinite(gradient[[0, 2]]).all()


@pytest.mark.parametrize("target", [-1, 90, 95, 2**31, 2**63 - 1, -(2**63)])
def test_targets_outside_of_the_vocabulary_are_refused(target: int) -> None:
    logits, targets = _draw(3, 90, softcap=None)
    targets[1] = target
    with pytest.raises(EngineError, match="not in the vocabulary"):
        HeadGradient(make_matrix("8 bits", 90, 40))(logits, targets)


@pytest.mark.parametrize(
    ("logits", "targets"),
    [
        (np.zeros((3, 89), np.float32), np.zeros(3, np.int64)),
        (np.zeros((3, 90), np.float64), np.zeros(3, np.int64)),
        (np.zeros(90, np.float32), np.zeros(90, np.int64)),
        (np.zeros((3, 90), np.float32), np.zeros(2, np.int64)),
        (np.zeros((3, 90), np.float32), np.zeros(3, np.int32)),
    ],
)
def test_arguments_that_do_not_fit_are_refused(logits: Any, targets: Any) -> None:
    with pytest.raises(EngineError, match="must be"):
        HeadGradient(make_matrix("8 bits", 90, 40))(logits, targets)


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5, float("nan")])
def test_other_thresholds_are_refused(threshold: float) -> None:
    with pytest.raises(EngineError, match="threshold"):
        HeadGradient(make_matrix("8 bits", 90, 40), threshold=threshold)


def test_a_matrix_that_is_not_what_it_says_is_refused() -> None:
    logits, targets = _draw(3, 90, softcap=None)
    with pytest.raises(EngineError, match="takes a matrix"):
        HeadGradient(replace(make_matrix("8 bits", 90, 40), outputs=0))
    head = HeadGradient(make_matrix("8 bits", 90, 40))
    head._packed = replace(head._packed, data=head._packed.data[:-64])
    with pytest.raises(EngineError, match="data does not have the size"):
        head(logits, targets)


def _draw(rows: int, vocabulary: int, *, softcap: float | None) -> tuple[Floats, NDArray[np.int64]]:
    random = np.random.default_rng(0)
    logits = (3 * random.standard_normal((rows, vocabulary))).astype(np.float32)
    if softcap is not None:
        logits = (softcap * np.tanh(logits / softcap)).astype(np.float32)
    return logits, random.integers(0, vocabulary, rows)


def _expect(
    packed: Packed, logits: Floats, targets: NDArray[np.int64], softcap: float | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return losses, and their gradient by what the layer multiplied."""
    known = torch.from_numpy(logits).double().requires_grad_()
    losses = torch.nn.functional.cross_entropy(known, torch.from_numpy(targets), reduction="none")
    (slope,) = torch.autograd.grad(losses.sum(), known)
    if softcap is not None:
        slope = slope * (1 - (known.detach() / softcap) ** 2)
    return losses.detach().numpy(), slope.numpy() @ packed.unpack().astype(np.float64)
