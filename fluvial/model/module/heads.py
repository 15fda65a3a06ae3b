"""From what a layer's qkv gave to the heads of attention, and back, by native code.

Letters: s new tokens, t past and new ones, o outputs, h heads of q, g of k and v, w head width.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fluvial.model.architecture.declaration import Attention, Rotary
from fluvial.model.module.gradient import Backward, Floats
from fluvial.model.module.mixer import State

Three = tuple[Floats, Floats, Floats]


class NativeHeads:
    """Cuts rows of q | k | v (and what else follows) into heads, norms and turns them."""

    def __init__(
        self,
        attention: Attention,
        norms: tuple[Tensor, Tensor] | None,
        epsilon: float,
        backward: Backward,
    ) -> None:
        """`norms` are the weights of q's and of k's head norm."""
        q_norm, k_norm = (None, None) if norms is None else (each.numpy() for each in norms)
        self._kinds = (
            (attention.heads, q_norm, attention.rotary),
            (attention.kv_heads, k_norm, attention.rotary),
            (attention.kv_heads, None, None),
        )
        self._width, self._epsilon, self.native = attention.head_width, epsilon, backward

    def split(self, qkv_SO: Floats, *, position: int) -> Three:
        """Return normed and turned queries and keys, and values, [heads, s, w] each."""
        q, k, v = self._list_parts(qkv_SO)
        return q.make(position), k.make(position), v.make(position)

    def split_keys(self, qkv_SO: Floats, *, position: int) -> tuple[Floats, Floats]:
        """Return the last two of `split`."""
        _, k, v = self._list_parts(qkv_SO)
        return k.make(position), v.make(position)

    def join(self, qkv_SO: Floats, grads: Three, *, position: int) -> Floats:
        """Return the gradient by `qkv`, from those by what `split` returned of it."""
        found_SO = np.zeros_like(qkv_SO)
        for part, into, grad in zip(
            self._list_parts(qkv_SO), self._list_parts(found_SO), grads, strict=True
        ):
            part.go_back(grad, position, into=into.x_HSW)
        return found_SO

    def _list_parts(self, x_SO: Floats) -> list["_Part"]:
        parts: list[_Part] = []
        start = 0
        for count, norm, rotary in self._kinds:
            end = start + count * self._width
            part = x_SO[:, start:end].reshape(len(x_SO), count, self._width)
            parts.append(_Part(part.transpose(1, 0, 2), norm, rotary, self._epsilon, self.native))
            start = end
        return parts


@dataclass(eq=False, slots=True)
class _Part:
    """A view of the heads of q, of k or of v, and what happens to them."""

    x_HSW: Floats
    norm: Floats | None
    rotary: Rotary | None
    epsilon: float
    native: Backward

    def make(self, position: int) -> Floats:
        x = self.x_HSW
        if self.norm is not None:
            x = self.native.normalise(np.ascontiguousarray(x), self.norm, epsilon=self.epsilon)
        made = np.empty(x.shape, np.float32)
        self.native.turn(x, made, self.rotary, position=position)
        return made

    def go_back(self, grad_HSW: Floats, position: int, *, into: Floats) -> None:
        if self.norm is None:
            self.native.turn(grad_HSW, into, self.rotary, position=position, back=True)
            return
        unturned = np.empty(grad_HSW.shape, np.float32)
        self.native.turn(grad_HSW, unturned, self.rotary, position=position, back=True)
        x = np.ascontiguousarray(self.x_HSW)
        into[:] = self.native.normalise(x, self.norm, epsilon=self.epsilon, grad=unturned)


def extend(state: State | None, k_GSW: Tensor, v_GSW: Tensor) -> State:
    """Return all keys and values [g, t, w], and how many tokens their memory holds, int64 [1].

    There is room behind them, so that what is new is mostly written in place; a state that was
    extended before is copied.
    """
    past = 0 if state is None else state[0].shape[1]
    total = past + k_GSW.shape[1]
    if state is None or int(state[2]) != past or _count_room(state[0]) < total:
        state = _move(state, k_GSW, v_GSW, room=2 * total)
    k, v = (x.as_strided((len(x), total, x.shape[2]), x.stride()) for x in state[:2])
    k[:, past:], v[:, past:] = k_GSW, v_GSW
    return k, v, state[2].fill_(total)


def _count_room(x_GTW: Tensor) -> int:
    return x_GTW.untyped_storage().nbytes() // (x_GTW.element_size() * len(x_GTW) * x_GTW.shape[2])


def _move(state: State | None, k_GSW: Tensor, v_GSW: Tensor, *, room: int) -> State:
    """Return a copy of a state with room for so many tokens."""
    moved: list[Tensor] = []
    for new, old in zip((k_GSW, v_GSW), (None, None) if state is None else state[:2], strict=True):
        rooms = torch.empty((len(new), room, new.shape[2]))
        moved.append(rooms[:, : 0 if old is None else old.shape[1]])
        if old is not None:
            moved[-1].copy_(old)
    return *moved, torch.zeros(1, dtype=torch.int64)
