"""Every linear of every family is found in both formats, whole and once."""

import numpy as np
import pytest

from fluvial.model.exchange.linear import list_linears
from tests.families import CONFIGS
from tests.model.exchange.sample import open_tiny


@pytest.mark.parametrize("in_gguf", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_output_of_every_group_belongs_to_one_linear(name: str, in_gguf: bool) -> None:
    declaration = open_tiny(name).declaration
    columns: dict[str, list[np.ndarray]] = {}
    linears = list_linears(declaration, in_gguf=in_gguf)
    for linear in linears:
        columns.setdefault(linear.group, []).append(linear.columns)
    groups = {
        f"layers.{index}.{group.name}": group
        for index, layer in enumerate(declaration.layers)
        for group in layer.groups
    }
    assert columns.keys() == groups.keys()
    for at, group in groups.items():
        found = np.sort(np.concatenate(columns[at]))
        assert np.array_equal(found, np.arange(group.outputs))
    assert len({linear.name for linear in linears}) == len(linears)


def test_names_are_those_of_the_formats() -> None:
    declaration = open_tiny("llama").declaration
    ours = {each.name for each in list_linears(declaration, in_gguf=False)}
    theirs = {each.name for each in list_linears(declaration, in_gguf=True)}
    assert {"model.layers.1.self_attn.q_proj", "model.layers.0.mlp.up_proj"} <= ours
    assert {"blk.1.attn_output", "blk.0.ffn_down"} <= theirs
    assert len(ours) == len(theirs) == 14
