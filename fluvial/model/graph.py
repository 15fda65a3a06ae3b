"""Build the packed ONNX graph of a checkpoint: the form that decodes.

Inputs, with b sequences of s new tokens each, c the capacity of the caches, r the adapter's rank:

    hidden                float32 [b, s, width]      embeddings of the new tokens
    rows                  int64   [k]                which of the b*s positions need logits
    seqlens_k             int32   [b]                tokens in the cache after this step, less one
    total_sequence_length int32   []                 the longest of them, not less one
    past.N.key, .value    float32 [b, kv_heads, c, head_width]
    layers.N.GROUP.a, .b  float32 [b, inputs, r], [b, r, outputs]
    layers.N.scale        float32 [b, 1, mlp width]  one plus the adapter's gain

Outputs: `logits` float32 [k, vocabulary] and `present.N.key`, `.value`, which are bound to the
past's own buffers, so that a step writes its keys and values in place.

Operators: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from fluvial.model.architecture.declaration import Attention, Declaration, Group, Layer
from fluvial.model.checkpoint import Checkpoint
from fluvial.model.packing import BLOCK, Packed, pack

GRAPH_VERSION = 1
GRAPH_FILE, WEIGHTS_FILE = "graph.onnx", "weights.bin"
_ALIGNMENT = 4096
_MICROSOFT = "com.microsoft"

Progress = Callable[[float], None]


def build(
    checkpoint: Checkpoint, *, folder: Path, positions: int, progress: Progress | None = None
) -> None:
    """Write `graph.onnx` and `weights.bin` to `folder`, for sequences up to `positions` tokens."""
    with (folder / WEIGHTS_FILE).open("wb") as weights:
        builder = _Builder(checkpoint, weights_file=_WeightsFile(weights), positions=positions)
        model = builder.build(progress or (lambda _: None))
    onnx.save(model, folder / GRAPH_FILE)


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


class _Builder:
    def __init__(
        self, checkpoint: Checkpoint, *, weights_file: _WeightsFile, positions: int
    ) -> None:
        self._checkpoint = checkpoint
        self._declaration: Declaration = checkpoint.declaration
        self._weights_file = weights_file
        self._positions = positions
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def build(self, progress: Progress) -> onnx.ModelProto:
        declaration = self._declaration
        self._input("hidden", ["b", "s", declaration.width])
        self._input("rows", ["k"], kind=TensorProto.INT64)
        self._input("seqlens_k", ["b"], kind=TensorProto.INT32)
        self._input("total_sequence_length", [], kind=TensorProto.INT32)
        self._rotary_tables(declaration.layers[0].mixer)
        self._constant("flat", np.array([-1, declaration.width], np.int64))
        self._constant("last_axis", np.array([-1], np.int64))
        residual, branch = "hidden", None
        for index, layer in enumerate(declaration.layers):
            residual, branch = self._layer(index, layer, residual, branch)
            progress((index + 1) / (len(declaration.layers) + 1))
        self._head(residual, branch)
        progress(1.0)
        return self._finish()

    def _layer(
        self, index: int, layer: Layer, residual: str, branch: str | None
    ) -> tuple[str, str]:
        at = f"layers.{index}"
        normal, residual = self._norm(f"{at}.attention_norm", residual, branch)
        attended = self._attention(index, layer.mixer, self._linear(at, layer.mixer.qkv, normal))
        mixed = self._linear(at, layer.mixer.o, attended)
        normal, residual = self._norm(f"{at}.mlp_norm", residual, mixed)
        activated = self._activation(at, layer, self._linear(at, layer.mlp.gate_up, normal))
        return residual, self._linear(at, layer.mlp.down, activated)

    def _norm(self, name: str, residual: str, branch: str | None) -> tuple[str, str]:
        self._weight(name, self._checkpoint.vector(name))
        epsilon = self._declaration.norm_epsilon
        if branch is None:
            out = self._node(
                "SimplifiedLayerNormalization",
                [residual, name],
                f"{name}.out",
                axis=-1,
                epsilon=epsilon,
                stash_type=1,
            )
            return out, residual
        outputs = [f"{name}.out", "", "", f"{name}.sum"]
        self._nodes.append(
            helper.make_node(
                "SkipSimplifiedLayerNormalization",
                [residual, branch, name],
                outputs,
                domain=_MICROSOFT,
                epsilon=epsilon,
            )
        )
        return outputs[0], outputs[3]

    def _attention(self, index: int, attention: Attention, qkv: str) -> str:
        width = attention.kv_heads, "c", attention.head_width
        names = [f"{index}.key", f"{index}.value"]
        for name in names:
            self._input(f"past.{name}", ["b", *width])
            self._outputs.append(_describe(f"present.{name}", ["b", *width]))
        inputs = [qkv, "", "", *(f"past.{name}" for name in names)]
        inputs += ["seqlens_k", "total_sequence_length", "cos", "sin"]
        self._nodes.append(
            helper.make_node(
                "GroupQueryAttention",
                inputs,
                [f"layers.{index}.attended", *(f"present.{name}" for name in names)],
                domain=_MICROSOFT,
                num_heads=attention.heads,
                kv_num_heads=attention.kv_heads,
                do_rotary=1,
                rotary_interleaved=0,
            )
        )
        return f"layers.{index}.attended"

    def _activation(self, at: str, layer: Layer, gate_up: str) -> str:
        scale = f"{at}.scale"
        self._input(scale, ["b", 1, layer.mlp.width])
        parts = [f"{at}.gate.out", f"{at}.up.out"]
        self._nodes.append(helper.make_node("Split", [gate_up], parts, axis=-1, num_outputs=2))
        gate = self._node("QuickGelu", [parts[0]], f"{at}.silu", domain=_MICROSOFT, alpha=1.0)
        gated = self._node("Mul", [gate, parts[1]], f"{at}.gated")
        return self._node("Mul", [gated, scale], f"{at}.activated")

    def _linear(self, at: str, group: Group, x: str) -> str:
        name = f"{at}.{group.name}"
        packed = pack([self._checkpoint.weights[f"{at}.{part}"] for part, _ in group.parts])
        base = self._product(name, packed, x, bias=self._bias(at, group))
        self._input(f"{name}.a", ["b", group.inputs, "r"])
        self._input(f"{name}.b", ["b", "r", group.outputs])
        low = self._node("MatMul", [x, f"{name}.a"], f"{name}.low")
        change = self._node("MatMul", [low, f"{name}.b"], f"{name}.change")
        return self._node("Add", [base, change], f"{name}.out")

    def _bias(self, at: str, group: Group) -> str:
        if not group.bias:
            return ""
        parts = [self._checkpoint.vector(f"{at}.{part}.bias") for part, _ in group.parts]
        return self._weight(f"{at}.{group.name}.bias", np.concatenate(parts))

    def _product(self, name: str, packed: Packed, x: str, *, bias: str = "") -> str:
        data = self._weight(f"{name}.data", packed.data)
        scale = self._weight(f"{name}.scales", packed.scale.reshape(-1))
        base = self._node(
            "MatMulNBits",
            [x, data, scale, "", "", bias] if bias else [x, data, scale],
            f"{name}.product",
            domain=_MICROSOFT,
            K=packed.inputs,
            N=packed.outputs,
            bits=packed.bits,
            block_size=BLOCK,
            accuracy_level=4,
        )
        if packed.minimum is None:
            return base
        return self._node("Add", [base, self._correction(name, packed.minimum, x)], f"{name}.exact")

    def _correction(self, name: str, minimum: NDArray[np.float32], x: str) -> str:
        """Add each block's minimum times the sum of its inputs, which integers can't carry."""
        shape = self._constant(
            f"{name}.blocks", np.array([0, 0, minimum.shape[0], BLOCK], np.int64)
        )
        blocks = self._node("Reshape", [x, shape], f"{name}.split")
        sums = self._node("ReduceSum", [blocks, "last_axis"], f"{name}.sums", keepdims=0)
        return self._node(
            "MatMul", [sums, self._weight(f"{name}.minimum", minimum)], f"{name}.correction"
        )

    def _head(self, residual: str, branch: str | None) -> None:
        normal, _ = self._norm("norm", residual, branch)
        flat = self._node("Reshape", [normal, "flat"], "flattened")
        chosen = self._node("Gather", [flat, "rows"], "chosen", axis=0)
        logits = self._product("head", pack([self._checkpoint.head]), chosen)
        self._node("Identity", [logits], "logits")
        self._outputs.insert(0, _describe("logits", ["k", self._declaration.vocab_size]))

    def _rotary_tables(self, attention: Attention) -> None:
        angles = np.outer(np.arange(self._positions), attention.rotary.frequencies)
        self._weight("cos", np.cos(angles).astype(np.float32))
        self._weight("sin", np.sin(angles).astype(np.float32))

    def _node(
        self, kind: str, inputs: list[str], output: str, *, domain: str = "", **attributes: Any
    ) -> str:
        self._nodes.append(helper.make_node(kind, inputs, [output], domain=domain, **attributes))
        return output

    def _weight(self, name: str, array: NDArray[Any]) -> str:
        self._initializers.append(self._weights_file.add(name, array))
        return name

    def _constant(self, name: str, array: NDArray[Any]) -> str:
        self._initializers.append(onnx.numpy_helper.from_array(array, name))
        return name

    def _input(self, name: str, shape: list[int | str], *, kind: int = TensorProto.FLOAT) -> None:
        self._inputs.append(_describe(name, shape, kind=kind))

    def _finish(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self._nodes, "fluvial", self._inputs, self._outputs, initializer=self._initializers
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid(_MICROSOFT, 1)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=10, producer_name="fluvial"
        )


def _describe(
    name: str, shape: list[int | str], *, kind: int = TensorProto.FLOAT
) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)
