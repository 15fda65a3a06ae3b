"""Run one native operator through a real session of ONNX Runtime."""

import ctypes
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from fluvial.native.library import ensure_library

DTYPES = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.float16): TensorProto.FLOAT16,
    np.dtype(np.uint8): TensorProto.UINT8,
    np.dtype(np.int8): TensorProto.INT8,
    np.dtype(np.uint16): TensorProto.UINT16,
    np.dtype(np.int32): TensorProto.INT32,
    np.dtype(np.int64): TensorProto.INT64,
}


@cache
def find_library() -> str:
    """Return the library's path: the same one for the whole run, though the source be edited."""
    return str(ensure_library())


def open_operator(
    name: str,
    inputs: Mapping[str, NDArray[Any] | None],
    *,
    attributes: Mapping[str, Any] | None = None,
    outputs: tuple[str, ...] = ("y",),
) -> onnxruntime.InferenceSession:
    """Open a session of one node; an input of None is left out."""
    given = {key: value for key, value in inputs.items() if value is not None}
    names = [key if value is not None else "" for key, value in inputs.items()]
    node = helper.make_node(name, names, list(outputs), domain="fluvial")
    # not as keywords: operators have attributes called `inputs` and `outputs`
    node.attribute.extend(helper.make_attribute(k, v) for k, v in (attributes or {}).items())
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(k, DTYPES[v.dtype], None) for k, v in given.items()],
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, None) for k in outputs],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("fluvial", 1)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.register_custom_ops_library(find_library())
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run_operator(
    name: str,
    inputs: Mapping[str, NDArray[Any] | None],
    *,
    attributes: Mapping[str, Any] | None = None,
    outputs: tuple[str, ...] = ("y",),
    threads: int = 1,
) -> list[NDArray[Any]]:
    """Open and run it once; arrays are given in place, so pools show what was written to them.

    `threads` is how many the operator may share its work over.
    """
    assert ctypes.CDLL(find_library()).fluvial_threads(threads) == threads
    session = open_operator(name, inputs, attributes=attributes, outputs=outputs)
    binding = session.io_binding()
    for key, value in inputs.items():
        if value is not None:
            assert value.flags.c_contiguous
            binding.bind_cpu_input(key, value)
    for key in outputs:
        binding.bind_output(key)
    session.run_with_iobinding(binding)
    return binding.copy_outputs_to_cpu()
