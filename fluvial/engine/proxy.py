"""A stand-in for one decoder step: a layer's products in the model's own sizes, on random weights.

Loading the whole model once for every number of threads would take many seconds. This loads in a
moment, a step takes a few milliseconds, and its products are what a real step spends its time on.
"""

from collections.abc import Callable

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from fluvial.model.architecture.declaration import Group, Layer

BLOCK = 32
PARKED = {"session.force_spinning_stop": "1"}
"""Threads sleep between steps, so that one candidate's don't take the cores of the next one's."""

_WEIGHTS = 24_000_000
_MAX_REPEATS = 16


def build_proxy(layer: Layer, *, bits: int = 4, seed: int = 0) -> bytes:
    """Build the ONNX graph of a layer's four products, each an output of its own.

    A small layer is repeated with other weights, until they no longer fit a core's own cache, as in
    a real step; of a large one only a share of the outputs is taken. `bits` is 4 or 8.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    groups, repeats = _resize(layer)
    nodes: list[NodeProto] = []
    initializers: list[TensorProto] = []
    for repeat in range(repeats):
        for group in groups:
            name = f"{repeat}.{group.name}"
            nodes.append(_multiply(name, group, bits=bits))
            initializers += _draw_weights(name, group, bits=bits, rng=rng)
    return _assemble(nodes, initializers, groups).SerializeToString()


def load_proxy(
    graph: bytes, *, threads: int, options: dict[str, str] | None = None
) -> Callable[[], None]:
    """Load a graph of `build_proxy` on `threads` threads; return a function that runs one step.

    `options` are session configuration entries; give those that the decoder runs with.
    """
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    for key, value in (PARKED if options is None else options).items():
        settings.add_session_config_entry(key, value)
    session = ort.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])
    inputs: dict[str, NDArray[np.float32]] = {
        each.name: np.ones(each.shape, np.float32) for each in session.get_inputs()
    }

    def step() -> None:
        session.run(None, inputs)

    return step


def _multiply(name: str, group: Group, *, bits: int) -> NodeProto:
    return helper.make_node(
        "MatMulNBits",
        [f"x{group.inputs}", f"{name}.data", f"{name}.scales"],
        [name],
        domain="com.microsoft",
        K=group.inputs,
        N=group.outputs,
        bits=bits,
        block_size=BLOCK,
        accuracy_level=4,
    )


def _draw_weights(
    name: str, group: Group, *, bits: int, rng: np.random.Generator
) -> list[TensorProto]:
    blocks = group.inputs // BLOCK
    data = np.frombuffer(rng.bytes(group.outputs * blocks * BLOCK * bits // 8), np.uint8)
    data = data.reshape(group.outputs, blocks, BLOCK * bits // 8)
    scales = np.full(group.outputs * blocks, 0.01, np.float32)
    return [
        numpy_helper.from_array(data, f"{name}.data"),
        numpy_helper.from_array(scales, f"{name}.scales"),
    ]


def _resize(layer: Layer) -> tuple[list[Group], int]:
    """Return the products, narrower where they are too large, and how often to repeat them."""
    weights = sum(group.inputs * group.outputs for group in layer.groups)
    share = min(1.0, 2 * _WEIGHTS / weights)
    groups = [
        Group(name=each.name, inputs=each.inputs, parts=(("", max(1, int(each.outputs * share))),))
        for each in layer.groups
    ]
    return groups, min(_MAX_REPEATS, -(-_WEIGHTS // weights))


def _assemble(
    nodes: list[NodeProto], initializers: list[TensorProto], groups: list[Group]
) -> ModelProto:
    widths = sorted({group.inputs for group in groups})
    inputs = [_describe(f"x{width}", width) for width in widths]
    outputs = [_describe(node.output[0], None) for node in nodes]
    graph = helper.make_graph(nodes, "proxy", inputs, outputs, initializer=initializers)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _describe(name: str, width: int | None) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, width])
