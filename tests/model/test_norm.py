"""RMS norm's hand-written gradient, against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F

from fluvial.model.module.linear import normalise
from fluvial.model.module.norm import RootMeanSquareNorm


@pytest.mark.parametrize("shape", [(1, 1), (7, 64), (3, 5, 24), (0, 8)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_is_that_of_pytorch(shape: tuple[int, ...], scale: float) -> None:
    torch.manual_seed(0)
    x, weight = (scale * torch.randn(shape)).requires_grad_(), torch.randn(shape[-1])
    slope = torch.randn(shape)
    expected = F.rms_norm(x, (shape[-1],), weight, 1e-5)
    found = RootMeanSquareNorm.apply(x, weight, 1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    ours, theirs = (torch.autograd.grad((y * slope).sum(), x)[0] for y in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 / scale)


def test_heads_that_do_not_follow_one_another() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(6, 3, 8).requires_grad_(), torch.randn(8)
    view = x.transpose(0, 1)
    slope = torch.randn(3, 6, 8)
    (ours,) = torch.autograd.grad((normalise(view, weight, 1e-6) * slope).sum(), x)
    (theirs,) = torch.autograd.grad((F.rms_norm(view, (8,), weight, 1e-6) * slope).sum(), x)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_zeros_stay_zeros() -> None:
    x = torch.zeros(2, 8, requires_grad=True)
    y = normalise(x, torch.ones(8), 1e-6)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert not y.any()
    assert torch.isfinite(grad).all()
