"""A decoder that also tells what every linear gave: what a backward pass needs of a forward one.

Outputs are written to memory that is kept from step to step, since fresh memory of that size costs
as much as a tenth of the step.
"""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from fluvial.engine.decoder import Decoder, open_graph
from fluvial.model.graph import GRAPH_FILE
from fluvial.model.packing import Packed

Floats = NDArray[np.float32]
EMBEDDED = "embedded"


class Recorder(Decoder):
    """`step` leaves in `outputs` what each linear gave, float32 [t, outputs], until the next step.

    The names are those of the groups, such as `layers.3.qkv`, and `embedded`; where a layer has
    plain attention, also what that gave, such as `layers.3.attended`. Nothing is left there, and
    no time spent on it, while `recording` is False.
    """

    outputs: dict[str, Floats]
    recording: bool = True
    head: Packed
    """The output layer, as the engine holds it."""

    def _load(self, folder: Path, *, profile: Path | None) -> ort.InferenceSession:
        model = onnx.load(str(folder / GRAPH_FILE), load_external_data=False)
        names = [f"{name}.out" for name in self._layout.unit_of]
        model.graph.output.extend(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["t", "features"])
            for name in [EMBEDDED, *names, *_find_attended(model.graph)]
        )
        self._widths = {
            node.output[0]: attribute.i
            for node in model.graph.node
            for attribute in node.attribute
            if attribute.name == "out_width" and node.output[0] in names
        }
        (self._embedding_width,) = {
            attribute.i
            for node in model.graph.node
            for attribute in node.attribute
            if node.op_type == "Embed" and attribute.name == "in_width"
        }
        self._widths |= _find_attended(model.graph)
        self._widths[EMBEDDED] = self._embedding_width
        (node,) = (node for node in model.graph.node if node.output[0] == "head.out")
        self.head = _describe(node, self._weights.view("head.data"))
        self._rooms: dict[str, Floats] = {}
        self.outputs = {}
        return open_graph(model.SerializeToString(), folder, weights=self._weights, profile=profile)

    def _bind_outputs(self, *, tokens: int, rows: int) -> None:
        self._binding.clear_binding_outputs()
        self._bind_output("logits", rows, self.vocab_size)
        self.outputs.clear()
        if not self.recording:
            return
        for name, width in self._widths.items():
            self.outputs[name.removesuffix(".out")] = self._bind_output(name, tokens, width)

    def _bind_output(self, name: str, rows: int, width: int) -> Floats:
        room = self._rooms.get(name)
        if room is None or len(room) < rows:
            room = self._rooms[name] = np.empty((rows, width), np.float32)
        view = room[:rows]
        self._binding.bind_output(name, "cpu", 0, np.float32, view.shape, view.ctypes.data)
        return view


def _describe(node: onnx.NodeProto, data: NDArray[np.uint8]) -> Packed:
    """Return the matrix of a linear."""
    numbers = {attribute.name: attribute.i for attribute in node.attribute}
    return Packed(
        outputs=numbers["out_width"],
        inputs=numbers["in_width"],
        bits=numbers["bits"],  # pyright: ignore[reportArgumentType]
        has_minimum=bool(numbers["has_minimum"]),
        scale_bytes=numbers["scale_bytes"],
        data=data,
    )


def _find_attended(graph: onnx.GraphProto) -> dict[str, int]:
    """Return the names and widths of what attention gives, but for that among latents."""
    latent = {name for node in graph.node if node.op_type == "HeadLinear" for name in node.input}
    found: dict[str, int] = {}
    for node in graph.node:
        if node.op_type == "Attention" and node.output[0] not in latent:
            numbers = {attribute.name: attribute.i for attribute in node.attribute}
            found[node.output[0]] = numbers["heads"] * numbers["value_width"]
    return found
