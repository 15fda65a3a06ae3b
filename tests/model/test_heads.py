"""Heads made of what a linear gave by native code, against PyTorch."""

import pytest
import torch
from torch import Tensor

from fluvial.engine.backward import NativeBackward
from fluvial.errors import EngineError
from fluvial.model.architecture.declaration import Attention, Group, Rotary, rotate
from fluvial.model.module.heads import NativeHeads, extend
from fluvial.model.module.linear import normalise
from fluvial.model.module.mixer import State
from fluvial.model.module.rotary import turn

WIDTH, HEADS, GROUPS, GATE = 24, 4, 2, 5
ROTARIES = {
    "none": None,
    "all": rotate(width=WIDTH, theta=100.0),
    "neighbours": rotate(width=WIDTH, theta=100.0, interleaved=True),
    "some": rotate(width=10, theta=100.0, start=6),
    "scaled": Rotary(frequencies=(0.5, 0.1), start=1, interleaved=True, magnitude=1.3),
}


@pytest.mark.parametrize("rotary", ROTARIES.values(), ids=ROTARIES.keys())
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(("tokens", "position"), [(1, 0), (37, 300)])
def test_heads_and_their_gradients(
    rotary: Rotary | None, normed: bool, tokens: int, position: int
) -> None:
    outputs = (HEADS + 2 * GROUPS) * WIDTH
    qkv = _draw(tokens, outputs + GATE).requires_grad_()
    norms = (_draw(WIDTH), _draw(WIDTH) + 1) if normed else None
    heads = NativeHeads(_declare(rotary), norms, 1e-5, NativeBackward())
    expected = _split(qkv, rotary, norms, position)
    found = heads.split(qkv.detach().numpy(), position=position)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(ours), theirs, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(
        heads.split_keys(qkv.detach().numpy(), position=position), found[1:], strict=True
    ):
        assert ours.tobytes() == theirs.tobytes()
    slopes = [_draw(*each.shape) for each in expected]
    total = sum((each * slope).sum() for each, slope in zip(expected, slopes, strict=True))
    assert isinstance(total, Tensor)
    (exact,) = torch.autograd.grad(total, [qkv])
    q, k, v = (slope.numpy() for slope in slopes)
    joined = heads.join(qkv.detach().numpy(), (q, k, v), position=position)
    assert not joined[:, outputs:].any()
    torch.testing.assert_close(torch.from_numpy(joined), exact, rtol=1e-4, atol=1e-4)


def test_what_turns_must_lie_inside_of_a_head() -> None:
    x = torch.ones(2, 3, 8).numpy()
    for rotary in (rotate(width=10, theta=10.0), rotate(width=4, theta=10.0, start=5)):
        with pytest.raises(EngineError, match="inside"):
            NativeBackward().turn(x, x.copy(), rotary, position=0)


def test_arrays_that_native_code_can_not_walk_are_refused() -> None:
    x = torch.ones(2, 3, 8).numpy()
    for wrong in (x.astype("float64"), x[:, :, ::2], x[:, ::-1], x[:1]):
        with pytest.raises(EngineError, match="native code takes"):
            NativeBackward().turn(wrong, x.copy()[:, :, : wrong.shape[2]], None, position=0)


def test_a_state_holds_all_that_it_was_extended_by() -> None:
    chunks = [(_draw(2, count, 4), _draw(2, count, 3)) for count in (5, 1, 9, 30, 2)]
    state: State | None = None
    for at, (k, v) in enumerate(chunks, 1):
        state = extend(state, k, v)
        assert torch.equal(state[0], torch.cat([each for each, _ in chunks[:at]], dim=1))
        assert torch.equal(state[1], torch.cat([each for _, each in chunks[:at]], dim=1))


def test_what_is_new_is_mostly_written_in_place() -> None:
    state = extend(None, _draw(1, 10, 4), _draw(1, 10, 4))
    longer = extend(state, _draw(1, 10, 4), _draw(1, 10, 4))
    assert longer[0].data_ptr() == state[0].data_ptr()
    assert extend(longer, _draw(1, 1, 4), _draw(1, 1, 4))[0].data_ptr() != state[0].data_ptr()


def test_a_state_that_is_extended_twice_goes_two_ways() -> None:
    begun = extend(None, _draw(2, 5, 4), _draw(2, 5, 4))
    first, second = _draw(2, 3, 4), _draw(2, 3, 4) + 1
    one = extend(begun, first, first)
    other = extend(begun, second, second)
    assert torch.equal(one[0][:, 5:], first)
    assert torch.equal(other[0][:, 5:], second)
    assert torch.equal(one[0][:, :5], other[0][:, :5])


def test_a_state_does_not_share_memory_with_what_it_was_given() -> None:
    k, v = _draw(2, 5, 4), _draw(2, 5, 4)
    state = extend(None, k, v)
    kept = state[0].clone()
    k.zero_()
    assert torch.equal(state[0], kept)


def _declare(rotary: Rotary | None) -> Attention:
    parts = (("q", HEADS * WIDTH), ("k", GROUPS * WIDTH), ("v", GROUPS * WIDTH), ("q_gate", GATE))
    return Attention(
        heads=HEADS,
        kv_heads=GROUPS,
        head_width=WIDTH,
        rotary=rotary,
        scale=1.0,
        qkv=Group(name="qkv", inputs=8, parts=parts),
        o=Group(name="o", inputs=HEADS * WIDTH, parts=(("o", 8),)),
    )


def _split(
    qkv: Tensor, rotary: Rotary | None, norms: tuple[Tensor, Tensor] | None, position: int
) -> tuple[Tensor, Tensor, Tensor]:
    counts = (HEADS, GROUPS, GROUPS)
    parts = qkv[:, : sum(counts) * WIDTH].split([count * WIDTH for count in counts], dim=-1)
    q, k, v = (part.view(len(part), -1, WIDTH).transpose(0, 1) for part in parts)
    if norms is not None:
        q, k = normalise(q, norms[0], 1e-5), normalise(k, norms[1], 1e-5)
    return turn(q, rotary, start=position), turn(k, rotary, start=position), v


def _draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
