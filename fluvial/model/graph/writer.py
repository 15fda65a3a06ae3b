"""Collect nodes, weights and inputs of one ONNX graph, and write it as two files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from fluvial.model.architecture.declaration import Group
from fluvial.model.checkpoint import Checkpoint
from fluvial.model.gguf import RawTensor
from fluvial.model.layout import Layout, lay_out
from fluvial.model.loss import LossMeter
from fluvial.model.packing import Packed, pack

GRAPH_FILE, WEIGHTS_FILE = "graph.onnx", "weights.bin"
DOMAIN = "fluvial"
MICROSOFT = "com.microsoft"
FINE_BITS = 15
"""To how many bits inputs of mixers and the head are rounded: 8, as elsewhere, costs most there."""
_ALIGNMENT = 4096
_ADAPTER = ("adapter_pool", "adapter_slot", "row_of")

Progress = Callable[[float], None]


@dataclass(kw_only=True)
class Unread:
    """A residual, what a branch adds to it, and the norm through which it is read next.

    Reading it sets `total`, the residual from then on.
    """

    residual: str
    branch: str | None
    norm: str
    total: str = ""


class GraphWriter:
    """One graph under construction. `at` names below are prefixes such as `layers.3`."""

    def __init__(self, checkpoint: Checkpoint, *, weights: BinaryIO, whole: bool) -> None:
        """Write weights to `weights` as they come; `whole` keeps them in float32."""
        self.checkpoint = checkpoint
        self.layout: Layout = lay_out(checkpoint.declaration)
        self._weights = _WeightsFile(weights)
        self.whole = whole
        self.losses = LossMeter()
        self._packed: set[str] = set()
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: list[int | str], kind: int = TensorProto.FLOAT) -> None:
        """Declare an input of the graph."""
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))

    def output(self, name: str, shape: list[int | str]) -> None:
        """Declare an output of the graph, float32."""
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def node(
        self, operator: str, inputs: list[str], output: str, *, domain: str = "", **attributes: Any
    ) -> str:
        """Add a node of one output and return the output's name."""
        return self.nodes(operator, inputs, [output], domain=domain, **attributes)[0]

    def nodes(
        self,
        operator: str,
        inputs: list[str],
        outputs: list[str],
        *,
        domain: str = "",
        **attributes: Any,
    ) -> list[str]:
        """Add a node of several outputs; "" leaves one out."""
        given = {key: value for key, value in attributes.items() if value is not None}
        self._nodes.append(helper.make_node(operator, inputs, outputs, domain=domain, **given))
        return outputs

    def weight(self, name: str, array: NDArray[Any]) -> str:
        """Add a weight, kept in the file of weights."""
        if name not in self._initializers:
            self._initializers[name] = self._weights.add(name, array)
        return name

    def vector(self, name: str) -> str:
        """Add a one-dimensional weight of the checkpoint, such as a norm."""
        return self.weight(name, self.checkpoint.vector(name))

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """Add a small constant, kept in the graph itself."""
        if name not in self._initializers:
            self._initializers[name] = onnx.numpy_helper.from_array(array, name)
        return name

    def norm(
        self, name: str, x: str, *, to: str | None = None, epsilon: float | None = None
    ) -> str:
        """Add RMS norm by the weight `name`; `epsilon` None is the model's."""
        if epsilon is None:
            epsilon = self.checkpoint.declaration.norm_epsilon
        return self.node(
            "SimplifiedLayerNormalization",
            [x, self.vector(name)],
            to or f"{name}.out",
            axis=-1,
            epsilon=epsilon,
            stash_type=1,
        )

    def take(self, x: str | Unread) -> str:
        """Add the norm of what is unread, for several to read."""
        if isinstance(x, str):
            return x
        if x.branch is None:
            x.total = x.residual
            return self.norm(x.norm, x.residual)
        outputs = self.nodes(
            "SkipSimplifiedLayerNormalization",
            [x.residual, x.branch, self.vector(x.norm)],
            [f"{x.norm}.out", "", "", f"{x.norm}.sum"],
            domain=MICROSOFT,
            epsilon=self.checkpoint.declaration.norm_epsilon,
        )
        x.total = outputs[3]
        return outputs[0]

    def linear(self, at: str, group: Group, x: str | Unread, **made: Any) -> str:
        """Add a group of linears as one product, with its adapter's low-rank term.

        `made` are attributes that say what is made of x on the way, such as `input_bits`
        (op_linear.c).
        """
        name = f"{at}.{group.name}"
        raw = [self.checkpoint.weights[f"{at}.{part}"] for part, _ in group.parts]
        bias = self._bias(at, group)
        layout = self.layout
        place = {"unit": layout.unit_of[name], "units": layout.units, "gains": layout.gains}
        return self.product(name, self._pack_group(raw), x, bias=bias, **place, **made)

    def product(
        self, name: str, packed: Packed, x: str | Unread, *, bias: str = "", **attributes: Any
    ) -> str:
        """Add a product with a packed matrix, of x or of the norm of what is unread."""
        adapter = _ADAPTER if "unit" in attributes else ("", "", "")
        inputs, outputs = [], [f"{name}.out"]
        if isinstance(x, Unread):
            inputs = [x.branch or "", self.vector(x.norm)]
            attributes["epsilon"] = self.checkpoint.declaration.norm_epsilon
            x.total = x.residual
            if x.branch is not None:
                attributes["keep_sum"] = 1
                x.total = f"{name}.sum"
                outputs.append(x.total)
            x = x.residual
        inputs = [x, self.weight(f"{name}.data", packed.data), bias, *adapter, *inputs]
        while not inputs[-1]:
            inputs.pop()
        attributes |= describe(packed)
        return self.nodes("Linear", inputs, outputs, domain=DOMAIN, **attributes)[0]

    def pack(self, name: str) -> Packed:
        """Pack one matrix of the checkpoint as this graph keeps its weights."""
        raw = self.checkpoint.head if name == "head" else self.checkpoint.weights[name]
        packed = pack([raw], whole=self.whole)
        if name not in self._packed:
            self._packed.add(name)
            self.losses.add([raw], packed)
        return packed

    def _pack_group(self, raw: list[RawTensor]) -> Packed:
        packed = pack(raw, whole=self.whole)
        self.losses.add(raw, packed)
        return packed

    def finish(self, folder: Path) -> None:
        """Write the graph itself."""
        graph = helper.make_graph(
            self._nodes,
            "fluvial",
            self._inputs,
            self._outputs,
            initializer=list(self._initializers.values()),
        )
        domains = (("", 21), (MICROSOFT, 1), (DOMAIN, 1))
        opsets = [helper.make_opsetid(domain, version) for domain, version in domains]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=10, producer_name="fluvial"
        )
        onnx.save(model, folder / GRAPH_FILE)

    def _bias(self, at: str, group: Group) -> str:
        if not group.bias:
            return ""
        parts = [self.checkpoint.vector(f"{at}.{part}.bias") for part, _ in group.parts]
        return self.weight(f"{at}.{group.name}.bias", np.concatenate(parts))


def describe(packed: Packed) -> dict[str, Any]:
    """Return the attributes of an operator that tell how a matrix is packed."""
    return {
        "in_width": packed.inputs,
        "out_width": packed.outputs,
        "bits": packed.bits,
        "has_minimum": int(packed.has_minimum),
        "scale_bytes": packed.scale_bytes,
    }


class _WeightsFile:
    """Appends arrays to the file of external data, page-aligned so that they can be mapped."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._at = 0

    def add(self, name: str, array: NDArray[Any]) -> TensorProto:
        padding = -self._at % _ALIGNMENT
        data = np.ascontiguousarray(array).tobytes()
        self._file.write(b"\0" * padding)
        offset = self._at + padding
        self._file.write(data)
        self._at = offset + len(data)
        tensor = TensorProto(name=name, dims=array.shape)
        tensor.data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", WEIGHTS_FILE), ("offset", offset), ("length", len(data))):
            tensor.external_data.add(key=key, value=str(value))
        return tensor
