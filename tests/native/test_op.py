"""The glue to ONNX Runtime, through the Scale operator; every function of its table is called."""

import ctypes
import threading

import numpy as np
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import (
    Fail,
    InvalidArgument,
    InvalidGraph,
    RuntimeException,
)

from tests.native.conftest import list_variants
from tests.native.graph import find_library, open_operator, run_operator

X = np.linspace(-3, 5, 1003, dtype=np.float32)


def name_kernels() -> str:
    library = ctypes.CDLL(str(find_library()))
    library.fluvial_kernels.restype = ctypes.c_char_p
    return library.fluvial_kernels().decode()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("tasks", [1, 7, 1024])
def test_scale(variant: str, threads: int, tasks: int) -> None:
    attributes = {"factor": 0.7, "tasks": tasks}
    (y,) = run_operator("Scale", {"x": X}, attributes=attributes, threads=threads)
    np.testing.assert_array_equal(y, np.float32(0.7) * X)
    assert name_kernels() == variant


def test_optional_input_given_and_left_out() -> None:
    (y,) = run_operator("Scale", {"x": X, "offset": X}, attributes={"factor": 2.0})
    np.testing.assert_array_equal(y, 2 * X + X)
    (y,) = run_operator("Scale", {"x": X, "offset": None}, attributes={"factor": 2.0})
    np.testing.assert_array_equal(y, 2 * X)


def test_shape_is_kept_and_may_be_empty() -> None:
    x = np.ones((2, 3, 1, 4), np.float32)
    assert run_operator("Scale", {"x": x}, attributes={"factor": 1.0})[0].shape == x.shape
    empty = np.ones((0, 5), np.float32)
    inputs = {"x": empty, "offset": empty.copy()}
    assert run_operator("Scale", inputs, attributes={"factor": 1.0})[0].shape == (0, 5)


@pytest.mark.parametrize("offset", [X[1:].copy(), X[None].copy(), X[:0].copy()])
def test_wrong_shape_is_an_exception(offset: np.ndarray) -> None:
    with pytest.raises(RuntimeError, match="Scale: offset has"):
        run_operator("Scale", {"x": X, "offset": offset}, attributes={"factor": 2.0})


def test_session_goes_on_after_an_exception() -> None:
    session = open_operator("Scale", {"x": X, "offset": X}, attributes={"factor": 2.0})
    with pytest.raises(InvalidArgument, match="1 dimensions"):
        session.run(None, {"x": X, "offset": X[1:]})
    np.testing.assert_array_equal(session.run(None, {"x": X, "offset": X})[0], 3 * X)


def test_too_many_dimensions_is_an_exception() -> None:
    with pytest.raises(RuntimeError, match="too many dimensions"):
        run_operator("Scale", {"x": X.reshape((1,) * 8 + (-1,))}, attributes={"factor": 2.0})


def test_scalar_is_an_exception() -> None:
    with pytest.raises(RuntimeError, match="at least one dimension"):
        run_operator("Scale", {"x": np.array(1, np.float32)}, attributes={"factor": 2.0})


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({}, "attribute factor .* is missing"),
        ({"factor": 3}, "attribute factor .* is missing"),
        ({"factor": 1.0, "tasks": 0}, "tasks is 0, but must be from 1 to 1024"),
        ({"factor": 1.0, "tasks": 2**40}, "must be from 1 to 1024"),
    ],
)
def test_wrong_attributes_are_an_exception(attributes: dict[str, float], message: str) -> None:
    with pytest.raises(RuntimeException, match=message):
        open_operator("Scale", {"x": X}, attributes=attributes)


@pytest.mark.parametrize("inputs", [{"x": X.astype(np.int32)}, {"x": None, "offset": X}])
def test_wrong_inputs_are_an_exception(inputs: dict[str, np.ndarray | None]) -> None:
    with pytest.raises((Fail, InvalidGraph, RuntimeException), match=r"\(x\)|input"):
        open_operator("Scale", inputs, attributes={"factor": 1.0})


@pytest.mark.parametrize("name", ["avx1024", "AVX2", "plain "])
def test_unknown_kernels_are_an_exception(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("FLUVIAL_KERNELS", name)
    with pytest.raises(InvalidArgument, match="FLUVIAL_KERNELS names no kernels"):
        open_operator("Scale", {"x": X}, attributes={"factor": 1.0})


def test_best_kernels_are_chosen_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLUVIAL_KERNELS", raising=False)
    open_operator("Scale", {"x": X}, attributes={"factor": 1.0})
    assert name_kernels() == list_variants()[0]


def test_sessions_open_and_run_side_by_side() -> None:
    wrong: list[float] = []

    def work(factor: float) -> None:
        for _ in range(5):
            attributes = {"factor": factor, "tasks": 5}
            (y,) = run_operator("Scale", {"x": X}, attributes=attributes, threads=2)
            if not np.array_equal(y, np.float32(factor) * X):
                wrong.append(factor)

    threads = [threading.Thread(target=work, args=(float(i),)) for i in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
