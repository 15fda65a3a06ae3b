"""Build the packed ONNX graph of a checkpoint: the form that decodes.

A step takes t new tokens of b sequences, those of one sequence standing together in order:

    tokens         int64   [t]            the new tokens
    rows           int64   [k]            which of the t positions need logits
    row_of         int32   [t]            the sequence of each token
    position       int32   [t]            its place in that sequence, from 0
    pages          int32   [b, places]    the pages of each sequence, -1 where there is none
    kv_pool        uint8   [slabs, slab_bytes]       written in place, in streams (layout.py)
    kv_bits        int32   [1]            how keys and values are kept there, in 8 or 16 bits
    state_slot     int32   [b]            and state_pool float32 [slots, state_floats], in place:
                                          only for models with convolutions or recurrences
    adapter_slot   int32   [b]            -1 for the base
    adapter_pool   float32 [slots, gains + rank * units]

Output: `logits` float32 [k, vocabulary]. Operators of the domain "fluvial" are in native/source.
"""

from fluvial.model.graph.build import GRAPH_VERSION, build
from fluvial.model.graph.writer import FINE_BITS, GRAPH_FILE, WEIGHTS_FILE, Progress

__all__ = ["FINE_BITS", "GRAPH_FILE", "GRAPH_VERSION", "WEIGHTS_FILE", "Progress", "build"]
