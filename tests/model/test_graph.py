"""What a built graph asks of its operators."""

from pathlib import Path

import onnx
import pytest
from onnx import helper

from fluvial.model.checkpoint import open_checkpoint
from fluvial.model.graph import GRAPH_FILE, build
from tests.families import FAMILIES

FINE = {
    "llama": {"qkv", "head"},
    "lfm2": {"qkv", "conv_in", "head"},
    "qwen3-next": {"qkv", "delta_in", "head"},
    "deepseek-v3": {"q_down", "q", "kv_down", "head"},
    "deepseek-v3-plain": {"q", "kv_down", "head"},
}


@pytest.mark.parametrize("family", FINE)
def test_inputs_of_mixers_and_of_the_head_are_rounded_finely(family: str, tmp_path: Path) -> None:
    FAMILIES[family](tmp_path)
    build(open_checkpoint(tmp_path), folder=tmp_path, positions=64)
    bits: dict[str, set[int]] = {}
    for node in onnx.load(tmp_path / GRAPH_FILE, load_external_data=False).graph.node:
        if node.op_type == "Linear":
            given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
            name = node.output[0].removesuffix(".out").rpartition(".")[2]
            bits.setdefault(name, set()).add(int(given.get("input_bits", 8)))
    assert {name for name, each in bits.items() if each == {15}} == FINE[family]
    assert all(each == {8} for name, each in bits.items() if name not in FINE[family])
