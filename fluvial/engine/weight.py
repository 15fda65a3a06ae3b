"""Bring a built graph's weights into memory that is fast to stream: huge pages where there are any.

A decode step reads every weight once, so the speed of memory is its limit (`huge.py`), which is why
the file is copied rather than mapped. Where the system has no huge pages, it is mapped.
"""

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from fluvial.engine.huge import allocate_huge, has_huge_pages
from fluvial.errors import ModelError
from fluvial.model.graph import GRAPH_FILE, WEIGHTS_FILE


class Weights:
    """The weights of one graph. Keep it as long as a session uses them: sessions do not copy."""

    def __init__(self, folder: Path) -> None:
        """Read the weights of the graph in `folder`; ModelError when its two files disagree."""
        self._memory = _read(folder / WEIGHTS_FILE)
        model = onnx.load(str(folder / GRAPH_FILE), load_external_data=False)
        self._views = {
            each.name: self._view(each)
            for each in model.graph.initializer
            if each.data_location == onnx.TensorProto.EXTERNAL
        }
        self._values = {
            name: ort.OrtValue.ortvalue_from_numpy(view) for name, view in self._views.items()
        }

    def give_to(self, options: ort.SessionOptions) -> None:
        """Let a session use these in place of the file."""
        for name, value in self._values.items():
            options.add_initializer(name, value)

    def view(self, name: str) -> NDArray[Any]:
        """Return one weight; it must not be written to. Raises KeyError."""
        return self._views[name]

    def _view(self, tensor: onnx.TensorProto) -> NDArray[Any]:
        place = {entry.key: entry.value for entry in tensor.external_data}
        start, length = int(place["offset"]), int(place["length"])
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if start + length > len(self._memory):
            raise ModelError(f"the built graph's weights end before {tensor.name!r}")
        return self._memory[start : start + length].view(kind).reshape(tuple(tensor.dims))


def _read(path: Path) -> NDArray[np.uint8]:
    size = path.stat().st_size
    with path.open("rb") as file:
        if not has_huge_pages():
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return np.frombuffer(mapped, np.uint8)
        memory = allocate_huge(size)
        if file.readinto(memory.data) != size:
            raise ModelError(f"{path} changed while it was read")
    memory.flags.writeable = False
    return memory
