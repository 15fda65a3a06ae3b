"""The float32 PyTorch module of a checkpoint: the form that learns."""

from fluvial.model.module.linear import AdapterTensors
from fluvial.model.module.mixer import State
from fluvial.model.module.model import Module, Past
from fluvial.model.module.recall import RecalledModule

__all__ = ["AdapterTensors", "Module", "Past", "RecalledModule", "State"]
