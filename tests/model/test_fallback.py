"""Models without a declaration: as transformers runs them, and nothing of the folder run."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from fluvial.errors import ModelError
from fluvial.model import outline
from fluvial.model.adapter import create_tensors, list_shapes
from fluvial.model.catalogue import Entry
from fluvial.model.checkpoint import Checkpoint, hash_files
from fluvial.model.fallback import Fallback, to_tensors
from fluvial.model.fallback_state import State, restore
from fluvial.model.opening import open_model
from fluvial.model.outline import OutlinedCheckpoint, is_outlined, open_outlined
from fluvial.model.registry import Registry
from tests.families import save_tiny
from tests.foreign import change_config, merge_adapter, save_foreign

IDS = [1 + (7 * i * i + 3 * i) % 290 for i in range(48)]
PATHS = {
    "gpt_neox": ("gpt_neox.layers", "mlp.dense_4h_to_h"),
    "phi3": ("model.layers", "mlp.down_proj"),
    "gpt2": ("transformer.h", "mlp.c_proj"),
    "cohere2": ("model.layers", "mlp.down_proj"),
}


@dataclass
class Foreign:
    """A folder, opened, with the model that wrote it."""

    name: str
    folder: Path
    reference: PreTrainedModel
    checkpoint: OutlinedCheckpoint
    module: Fallback


OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in PATHS if name != "gpt_neox"]


@pytest.fixture(scope="module", params=["gpt_neox", *OTHERS])
def foreign(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Foreign:
    folder = tmp_path_factory.mktemp(request.param)
    reference = save_foreign(request.param, folder)
    checkpoint = open_model(folder)
    assert isinstance(checkpoint, OutlinedCheckpoint)
    return Foreign(request.param, folder, reference, checkpoint, Fallback(checkpoint))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_foreign("gpt_neox", tmp_path / "model")
    return tmp_path / "model"


def test_logits_are_those_of_transformers(foreign: Foreign) -> None:
    with torch.no_grad():
        found, state = foreign.module.read(torch.tensor(IDS))
    torch.testing.assert_close(found, _ask(foreign.reference), rtol=1e-4, atol=1e-4)
    assert state.length == len(IDS)


def test_step_by_step_is_the_whole(foreign: Foreign) -> None:
    state, rows = None, []
    for token in IDS:
        row, state = foreign.module.step([token], past=state, adapter=None, wanted=[0])
        rows.append(row[0])
    expected = _ask(foreign.reference).numpy()
    np.testing.assert_allclose(np.stack(rows), expected, rtol=1e-3, atol=1e-3)


def test_only_wanted_logits_come_back(foreign: Foreign) -> None:
    found, _ = foreign.module.step(IDS, past=None, adapter=None, wanted=[5, 47])
    np.testing.assert_allclose(found, _ask(foreign.reference)[[5, 47]], rtol=1e-3, atol=1e-3)
    nothing, _ = foreign.module.step(IDS, past=None, adapter=None, wanted=())
    assert nothing.shape == (0, 300)


def test_a_zero_adapter_is_the_base_to_the_last_bit(foreign: Foreign) -> None:
    zero = to_tensors(create_tensors(foreign.checkpoint.declaration, rank=4, seed=0))
    with torch.no_grad():
        base, _ = foreign.module.read(torch.tensor(IDS))
        adapted, _ = foreign.module.read(torch.tensor(IDS), adapter=zero)
    assert torch.equal(base, adapted)


def test_a_random_adapter_acts_as_merged_weights(foreign: Foreign, tmp_path: Path) -> None:
    adapter = _draw_adapter(foreign.checkpoint)
    with torch.no_grad():
        base, _ = foreign.module.read(torch.tensor(IDS))
        found, _ = foreign.module.read(torch.tensor(IDS), adapter=to_tensors(adapter))
    merged = save_foreign(foreign.name, tmp_path)
    blocks, down = PATHS[foreign.name]
    merge_adapter(merged, foreign.checkpoint.declaration, adapter, blocks=blocks, down=down)
    torch.testing.assert_close(found, _ask(merged), rtol=1e-3, atol=1e-3)
    assert (found - base).norm() > 0.1 * base.norm(), "the adapter does act"


def test_every_part_of_an_adapter_takes_a_gradient(foreign: Foreign) -> None:
    tensors = to_tensors(_draw_adapter(foreign.checkpoint))
    for tensor in tensors.values():
        tensor.requires_grad_()
    logits, _ = foreign.module.read(torch.tensor(IDS[:-1]), adapter=tensors)
    foreign.module.losses(logits, torch.tensor(IDS[1:])).mean().backward()
    still = [name for name, t in tensors.items() if t.grad is None or not t.grad.any()]
    assert still == []


def test_the_scale_of_weights_is_their_norm(foreign: Foreign) -> None:
    blocks, down = PATHS[foreign.name]
    weight = foreign.reference.get_submodule(f"{blocks}.1.{down}").weight
    assert foreign.module.weight_scale(f"layers.1.{down}") == pytest.approx(float(weight.norm()))


def test_reading_on_leaves_the_past_as_it_was(foreign: Foreign) -> None:
    _, past = foreign.module.step(IDS[:40], past=None, adapter=None, wanted=())
    first, _ = foreign.module.step(IDS[40:], past=past, adapter=None, wanted=[7])
    again, _ = foreign.module.step(IDS[40:], past=past, adapter=None, wanted=[7])
    np.testing.assert_array_equal(first, again)
    assert past.length == 40


def test_a_state_goes_back_where_it_was(foreign: Foreign) -> None:
    _, early = foreign.module.step(IDS[:30], past=None, adapter=None, wanted=())
    kept = early.strip()
    _, late = foreign.module.step(IDS[30:], past=early, adapter=None, wanted=())
    assert late.can_trim == (foreign.name != "cohere2")
    back = late.rewind(kept)
    _assert_goes_on_alike(foreign, back, early)
    if late.can_trim:
        _assert_goes_on_alike(foreign, late.trim(30), early)


def test_a_state_survives_being_written_out(foreign: Foreign) -> None:
    _, one = foreign.module.step(IDS[:1], past=None, adapter=None, wanted=())
    _, state = foreign.module.step(IDS[1:40], past=one, adapter=None, wanted=())
    _assert_goes_on_alike(foreign, restore(one, state.export(), length=40), state)


def test_a_state_of_another_shape_is_refused(foreign: Foreign) -> None:
    _, state = foreign.module.step(IDS[:20], past=None, adapter=None, wanted=())
    tensors = state.export()
    name = next(iter(tensors))
    broken = [
        {**tensors, name: tensors[name][..., :-1]},
        {**tensors, name: tensors[name].astype(np.float64)},
        {key: value for key, value in tensors.items() if key != name},
        {**tensors, "extra": tensors[name]},
    ]
    for each in broken:
        with pytest.raises(ModelError, match="saved state"):
            restore(state, each, length=20)


def test_code_that_a_folder_brings_along_is_never_run(folder: Path, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    code = f"open({str(witness)!r}, 'w').close()\nclass Config: pass\nclass Model: pass\n"
    (folder / "evil.py").write_text(code)
    auto_map = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    change_config(folder, auto_map=auto_map)
    Fallback(open_outlined(folder, sha256="x"))
    change_config(folder, model_type="evil")
    with pytest.raises(ModelError, match="'evil' is neither built into Fluvial nor known"):
        open_outlined(folder, sha256="x")
    assert not witness.exists()


def _leave_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def _point_index_outside(folder: Path) -> None:
    (folder / "evil.bin").write_bytes(b"\x80\x04.")
    table = {"metadata": {}, "weight_map": {"gpt_neox.embed_in.weight": "evil.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(table))


def _cut_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (_leave_pickle, "is never loaded; convert them to safetensors"),
        (_point_index_outside, "'evil.bin', which is no weight file"),
        (_cut_weights, "truncated or damaged"),
        (lambda f: (f / "model.safetensors").unlink(), "holds no .safetensors file"),
        (lambda f: change_config(f, num_hidden_layers=10**9), "from 1 to 1024"),
        (lambda f: change_config(f, num_hidden_layers="3"), "must be a whole number"),
        (lambda f: change_config(f, hidden_size="wide"), "config.json does not fit|can't build"),
        (lambda f: change_config(f, hidden_act="no such function"), "can't build"),
        (lambda f: change_config(f, model_type="t5"), "does not write text from left to right"),
        (lambda f: change_config(f, quantization_config={"bits": 4}), "is quantised"),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "holds a PEFT adapter"),
        (lambda f: (f / "config.json").write_text("[" * 10_000), "not valid JSON"),
    ],
)
def test_a_hostile_or_damaged_folder_is_refused(
    damage: Callable[[Path], object], complaint: str, folder: Path
) -> None:
    damage(folder)
    with pytest.raises(ModelError, match=complaint):
        open_outlined(folder, sha256="x")


def test_weights_that_do_not_fit_the_config_are_refused(folder: Path) -> None:
    checkpoint = open_outlined(folder, sha256="x")
    save_file({"gpt_neox.embed_in.weight": torch.zeros(300, 64)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match="incomplete"):
        Fallback(checkpoint)


def test_a_missing_transformers_names_the_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outline.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"pip install 'fluvial\[transformers\]'"):
        open_outlined(folder, sha256="x")


def test_declared_families_do_not_take_this_way(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    assert not is_outlined(tmp_path)
    assert isinstance(open_model(tmp_path), Checkpoint)


def test_an_installed_folder_is_named_by_the_hash_of_its_record(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copy(folder / "config.json", folder / "tokenizer.json")
    info = Registry(tmp_path).install(Entry(name="mine", sources=(f"file:{folder}",)))
    assert info.family == "gpt_neox"
    assert hash_files(Path(info.path)) == info.sha256
    with pytest.raises(ModelError, match="is damaged"):
        open_model(Path(info.path), sha256="0" * 64)


def _ask(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0]


def _draw_adapter(checkpoint: OutlinedCheckpoint) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = list_shapes(checkpoint.declaration, rank=4)
    return {
        name: (0.1 * rng.standard_normal(shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


def _assert_goes_on_alike(foreign: Foreign, found: State, expected: State) -> None:
    assert found.length == expected.length
    rest = IDS[found.length :]
    one, _ = foreign.module.step(rest, past=found, adapter=None, wanted=[0, len(rest) - 1])
    two, _ = foreign.module.step(rest, past=expected, adapter=None, wanted=[0, len(rest) - 1])
    np.testing.assert_array_equal(one, two)
