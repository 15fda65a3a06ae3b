"""The gradient of attention whose result is known, against that of attention that is computed."""

import pytest
import torch

from fluvial.model.module.attended import BLOCK_QUERIES, RecalledAttention, Scoring
from fluvial.model.module.attention import attend


@pytest.mark.parametrize("window", [None, 1, 5, BLOCK_QUERIES, 100, 1000])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize(
    ("num_new", "past"),
    [(1, 0), (1, 30), (3, 2), (BLOCK_QUERIES, 0), (BLOCK_QUERIES + 1, 90), (150, 40)],
)
def test_is_that_of_attention(
    num_new: int, past: int, softcap: float | None, window: int | None
) -> None:
    torch.manual_seed(0)
    q, k = torch.randn(6, num_new, 8), torch.randn(2, past + num_new, 8)
    v = torch.randn(2, past + num_new, 10)
    scoring = Scoring(scale=0.4, window=window, softcap=softcap)
    inputs = [each.requires_grad_() for each in (q, k, v)]
    mixed = attend(q, k, v, scale=0.4, window=window, softcap=softcap)
    slope = torch.randn_like(mixed)
    expected = torch.autograd.grad((mixed * slope).sum(), inputs)
    again = RecalledAttention.apply(q, k, v, mixed.detach(), scoring)
    assert torch.equal(again, mixed)
    found = torch.autograd.grad((again * slope).sum(), inputs)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    for each, other in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(each[:, past:], other[:, past:], rtol=1e-4, atol=1e-5)
        assert not each[:, :past].any()
