"""Inputs and attributes that the attention operator must refuse, and not follow out of memory."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

from tests.native.attention import Case, Piece, World
from tests.native.graph import run_operator


def test_no_tokens() -> None:
    world = World(Case(), [20])
    inputs = world.list_inputs([Piece(0, 3, 3)])
    y = run_operator("Attention", inputs, attributes=world.attributes)[0]
    assert y.shape == (0, 64)


def change(name: str, index: Any, value: Any) -> Any:
    """Return a change of one element of an input."""

    def apply(inputs: dict[str, Any]) -> None:
        inputs[name] = inputs[name].copy()
        inputs[name][index] = value

    return apply


def give(name: str, value: NDArray[Any] | None) -> Any:
    def apply(inputs: dict[str, Any]) -> None:
        inputs[name] = value

    return apply


def give_narrow_bytes(inputs: dict[str, Any]) -> None:
    inputs["kv_bits"] = np.array([8], np.int32)
    inputs["kv_pool"] = np.zeros((1, 64 * 1855), np.uint8)


GREATEST = 2**31 - 1
HOSTILE = {
    "page too great": (change("pages", (0, 1), 64), "a page is out of range"),
    "page far": (change("pages", (0, 0), GREATEST), "a page is out of range"),
    "page missing": (change("pages", (0, 1), -1), "a page is out of range"),
    "page negative": (change("pages", (0, 0), -(2**31)), "a page is out of range"),
    "early page missing": (change("pages", (1, 0), -1), "a page is out of range"),
    "position negative": (change("position", 0, -1), "beyond the page table"),
    "position least": (change("position", 0, -(2**31)), "beyond the page table"),
    "position too great": (change("position", slice(None), 64), "beyond the page table"),
    "position greatest": (change("position", slice(None), GREATEST), "beyond the page table"),
    "position beyond rotary": (give("position", np.arange(20, 40)), "beyond the rotary table"),
    "position jumps": (change("position", 5, 7), "must follow each other"),
    "position stays": (change("position", 5, 4), "must follow each other"),
    "position short": (give("position", np.arange(19)), "row_of and position"),
    "row too great": (change("row_of", 19, 2), "row_of is out of range"),
    "row greatest": (change("row_of", 19, GREATEST), "row_of is out of range"),
    "row negative": (change("row_of", 0, -1), "row_of is out of range"),
    "row long": (give("row_of", np.zeros(21)), "row_of and position"),
    "row in columns": (give("row_of", np.zeros((20, 1))), "row_of and position"),
    "no pages": (give("pages", np.zeros((2, 0))), "beyond the page table"),
    "no sequences": (give("pages", np.zeros((0, 4))), "row_of is out of range"),
    "pages in a row": (give("pages", np.zeros(8)), "must have two dimensions"),
    "no pool": (give("kv_pool", np.zeros((0, 200_000), np.uint8)), "a page is out of range"),
    "narrow pool": (give("kv_pool", np.zeros((1, 64 * 2111), np.uint8)), "outside of the page"),
    "narrow pool of bytes": (give_narrow_bytes, "outside of the page"),
    "flat pool": (give("kv_pool", np.zeros(200_000, np.uint8)), "must have two dimensions"),
    "7 bits": (give("kv_bits", np.array([7], np.int32)), "kv_bits must be 16 or 8"),
    "no bits": (give("kv_bits", np.array([], np.int32)), "kv_bits must be"),
    "two bits": (give("kv_bits", np.array([8, 8], np.int32)), "kv_bits must be"),
    "narrow qkv": (give("qkv", np.zeros((20, 127), np.float32)), "width of its heads"),
    "flat qkv": (give("qkv", np.zeros(2560, np.float32)), "width of its heads"),
    "no sine": (give("sine", None), "go together"),
    "no cosine": (give("cosine", None), "go together"),
    "sine differs": (give("sine", np.zeros((20, 7), np.float32)), "cosine and sine must be"),
    "flat cosine": (give("cosine", np.zeros(160, np.float32)), "cosine and sine must be"),
    "q_norm short": (give("q_norm", np.zeros(15, np.float32)), "q_norm must be"),
    "k_norm long": (give("k_norm", np.zeros(17, np.float32)), "k_norm must be"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_inputs_are_exceptions(name: str) -> None:
    apply, message = HOSTILE[name]
    world = World(Case(pairs=8, norm=True), [17, 20])
    world.pages = world.pages[:, :4]
    world.pool = world.pool[:1].copy()
    world.pages[:, :2] = [[0, 1], [2, 3]]
    world.step(Piece(1, 0, 17))
    inputs = world.list_inputs([Piece(0, 0, 17), Piece(1, 17, 20)])
    apply(inputs)
    if inputs[(key := "position")].dtype != np.int32 or inputs[(key := "row_of")].dtype != np.int32:
        inputs[key] = inputs[key].astype(np.int32)
    inputs["pages"] = np.ascontiguousarray(inputs["pages"], np.int32)
    with pytest.raises(RuntimeError, match=message):
        run_operator("Attention", inputs, attributes=world.attributes)


def test_rotary_features_beyond_the_head_are_an_exception() -> None:
    world = World(replace(Case(), pairs=8), [5])
    attributes = {**world.attributes, "rotary_start": 1}
    with pytest.raises(RuntimeError, match="beyond the head"):
        run_operator("Attention", world.list_inputs([Piece(0, 0, 5)]), attributes=attributes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "must be a multiple"),
        ({"heads": 0}, "heads is 0"),
        ({"kv_heads": -1}, "kv_heads is -1"),
        ({"heads": 1 << 20}, "must be from 1 to 4096"),
        ({"key_width": 5000}, "must be from 1 to 4096"),
        ({"value_width": 0}, "value_width is 0"),
        ({"offset": -8}, "offset is -8"),
        ({"window": -1}, "window is -1"),
        ({"rotary_start": -1}, "rotary_start is -1"),
        ({"interleaved": 2}, "interleaved is 2"),
    ],
)
def test_bad_attributes_are_exceptions(changes: dict[str, int], message: str) -> None:
    world = World(Case(), [5])
    attributes = {**world.attributes, **changes}
    with pytest.raises(RuntimeException, match=message):
        run_operator("Attention", world.list_inputs([Piece(0, 0, 5)]), attributes=attributes)
