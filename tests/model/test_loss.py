"""What packing costs is measured on the tensors themselves."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import quantize

from fluvial.model.built import ensure_graph, read_losses
from fluvial.model.checkpoint import open_checkpoint
from fluvial.model.gguf import RawTensor
from fluvial.model.loss import LossMeter, TypeLoss, decode_losses, encode_losses, name_form
from fluvial.model.packing import pack, pack_stack

ROWS, INPUTS = 700, 256


def draw(kind: str, *, rows: int = ROWS, seed: int = 0, shape: tuple[int, ...] = ()) -> RawTensor:
    values = np.random.default_rng(seed).standard_normal((rows, INPUTS)).astype(np.float32)
    blocks = quantize(values, gguf.GGMLQuantizationType[kind]).view(np.uint8)
    return RawTensor(f"{kind}.{seed}", kind, shape or (rows, INPUTS), blocks.reshape(rows, -1))


def measure(*tensors: RawTensor) -> tuple[TypeLoss, ...]:
    meter = LossMeter()
    meter.add(tensors, pack(list(tensors)))
    return meter.report()


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_blocks_that_map_are_exact(kind: str) -> None:
    tensor = draw(kind)
    (loss,) = measure(tensor)
    assert loss.relative_error == 0.0
    assert (loss.type, loss.tensors, loss.bytes) == (kind, 1, tensor.blocks.nbytes)


@pytest.mark.parametrize("kind", ["F16", "F32"])
def test_the_error_of_what_is_rounded_is_that_of_the_whole_matrix(kind: str) -> None:
    tensor = draw(kind)
    packed = pack([tensor])
    expected = tensor.dequantize()
    error = np.linalg.norm(packed.unpack() - expected) / np.linalg.norm(expected)
    (loss,) = measure(tensor)
    assert loss.relative_error == pytest.approx(float(error), rel=1e-4)
    assert 0 < loss.relative_error < 0.02


def test_tensors_packed_together_are_told_apart() -> None:
    exact, rounded = draw("Q4_0", rows=40), draw("F32", rows=500, seed=1)
    found = {loss.type: loss for loss in measure(exact, rounded)}
    assert found["Q4_0"].relative_error == 0.0
    assert found["F32"].relative_error > 0
    assert found["Q4_0"].packed == found["F32"].packed == "8 bits, float16 scale"


def test_an_exact_type_that_had_to_be_rounded_is_not_called_exact() -> None:
    # Eight bits have no minimum: beside a tensor of eight bits, one with a minimum is rounded.
    found = {loss.type: loss for loss in measure(draw("Q4_1"), draw("Q8_0", seed=1))}
    assert found["Q4_1"].relative_error > 0


def test_a_fault_behind_the_sampled_rows_of_rounded_tensors_shows() -> None:
    values = np.zeros((ROWS, INPUTS), np.float32)
    values[-1] = np.random.default_rng(0).standard_normal(INPUTS)
    tensor = RawTensor("late", "F32", values.shape, values.view(np.uint8))
    (loss,) = measure(tensor)
    assert loss.relative_error > 0


def test_stacks_count_as_one_tensor() -> None:
    stack = draw("F16", rows=4 * 48, shape=(4, 48, INPUTS))
    meter = LossMeter()
    meter.add_stack([stack], pack_stack([stack]))
    (loss,) = meter.report()
    assert (loss.tensors, loss.bytes) == (1, stack.blocks.nbytes)
    assert 0 < loss.relative_error < 0.02


def test_nothing_but_zeros_is_exact() -> None:
    zeros = np.zeros((32, INPUTS), np.float32)
    (loss,) = measure(RawTensor("zeros", "F32", zeros.shape, zeros.view(np.uint8)))
    assert loss.relative_error == 0.0


def test_the_form_is_said_in_words() -> None:
    assert name_form(pack([draw("Q4_1")])) == "4 bits with minimum, float16 scale"
    assert name_form(pack([draw("F32")], whole=True)) == "float32"


def test_a_record_comes_back_and_a_false_one_is_refused() -> None:
    losses = measure(draw("F16"))
    table = json.loads(json.dumps(encode_losses(losses)))
    assert decode_losses(table) == losses
    for broken in ({"a": 1}, [{"type": "Q4_0"}], [{**table[0], "bytes": "many"}], None, 3):
        with pytest.raises(ValueError, match="not a record of losses"):
            decode_losses(broken)


def test_a_built_graph_keeps_the_record(tiny_model: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_model)
    assert read_losses(tmp_path, sha256=checkpoint.sha256) is None
    folder = ensure_graph(checkpoint, cache_dir=tmp_path, positions=64)
    losses = read_losses(tmp_path, sha256=checkpoint.sha256)
    assert losses is not None
    assert {loss.type for loss in losses} == {"Q4_1", "Q5_0", "Q8_0"}
    assert sum(loss.tensors for loss in losses) == 2 * 7 + 1
    (folder / "manifest.json").write_text("{}")
    assert read_losses(tmp_path, sha256=checkpoint.sha256) is None
