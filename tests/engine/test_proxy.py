import onnx
import pytest

from fluvial.engine.proxy import build_proxy, load_proxy
from fluvial.model.architecture.declaration import Layer, declare_layer


def declare(*, width: int, mlp_width: int) -> Layer:
    return declare_layer(
        width=width,
        heads=width // 32,
        kv_heads=1,
        head_width=32,
        mlp_width=mlp_width,
        rope_theta=1e4,
    )


def sizes(graph: bytes) -> list[tuple[int, int]]:
    found = []
    for node in onnx.load_from_string(graph).graph.node:
        attributes = {each.name: each.i for each in node.attribute}
        found.append((attributes["K"], attributes["N"]))
    return found


@pytest.mark.parametrize("bits", [4, 8])
def test_proxy_has_the_layers_own_products(bits: int):
    graph = build_proxy(declare(width=64, mlp_width=96), bits=bits)
    layer = [(64, 128), (64, 64), (64, 192), (96, 64)]
    assert sizes(graph)[:4] == layer
    assert len(sizes(graph)) % 4 == 0
    onnx.checker.check_model(onnx.load_from_string(graph))
    load_proxy(graph, threads=1)()


def test_small_layers_repeat_up_to_a_bound():
    assert len(sizes(build_proxy(declare(width=32, mlp_width=32)))) == 4 * 16


def test_huge_layer_stays_a_small_graph():
    graph = build_proxy(declare(width=8192, mlp_width=28672))
    assert len(graph) < 60_000_000
    assert [inputs for inputs, _ in sizes(graph)] == [8192, 8192, 8192, 28672]


def test_same_seed_same_graph():
    layer = declare(width=64, mlp_width=96)
    assert build_proxy(layer, seed=1) == build_proxy(layer, seed=1)
    assert build_proxy(layer, seed=1) != build_proxy(layer, seed=2)
