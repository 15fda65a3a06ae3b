"""Files that are broken or meant to break: each ends in a typed error that names what is wrong."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fluvial.errors import InputError, ModelError, TooLargeError, UnsupportedError
from fluvial.model.exchange import export_gguf, export_peft, import_gguf, import_peft
from tests.model.exchange.sample import Arrays, create_plain_adapter, open_tiny

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
AT = "base_model.model.model.layers.0.mlp.down_proj"
A, B = f"{AT}.lora_A.weight", f"{AT}.lora_B.weight"
PLAIN = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}


def make_arrays() -> Arrays:
    return {A: np.full((2, 96), 0.5, np.float32), B: np.full((64, 2), 0.25, np.float32)}


def write_folder(folder: Path, arrays: Arrays, **config: Any) -> Path:
    (folder / CONFIG).write_text(json.dumps({**PLAIN, **config}))
    safetensors.numpy.save_file(arrays, folder / WEIGHTS)
    return folder


def read_folder(folder: Path, *, name: str = "llama") -> Arrays:
    return import_peft(folder, declaration=open_tiny(name).declaration, rank_limit=16).tensors


def test_the_folder_that_the_others_break_is_sound(tmp_path: Path) -> None:
    found = read_folder(write_folder(tmp_path, make_arrays()))
    assert (found["layers.0.down.a"] @ found["layers.0.down.b"] == 0.25).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({A: np.full((2, 96), np.nan, np.float32)}, "not finite"),
        ({B: np.full((64, 2), np.inf, np.float32)}, "not finite"),
        ({B: np.full((64, 2), -np.inf, np.float16)}, "not finite"),
        ({A: np.ones((2, 95), np.float32)}, r"shapes \(2, 95\).*needs \(2, 96\)"),
        ({B: np.ones((65, 2), np.float32)}, r"\(65, 2\).*needs .*\(64, 2\)"),
        ({B: np.ones((64, 3), np.float32)}, r"\(64, 3\).*needs .*\(64, 2\)"),
        ({A: np.ones((65, 96), np.float32), B: np.ones((64, 65), np.float32)}, "ranks from 1 to"),
        ({A: np.ones((3, 96), np.float32), B: np.ones((64, 3), np.float32)}, "rank 3.*says 2"),
        ({A: np.ones((2, 96, 1), np.float32)}, r"shape \(2, 96, 1\)"),
        ({A: np.ones(96, np.float32)}, r"shape \(96,\)"),
        ({A: np.ones((2, 96), np.float64)}, "'F64'"),
        ({A: np.ones((0, 96), np.float32)}, r"shape \(0, 96\)"),
        ({A: None}, r"no '.*down_proj\.lora_A\.weight'"),
        ({B: None}, r"no '.*down_proj\.lora_B\.weight'"),
        ({A: None, B: None}, "nothing to import"),
        ({A.replace("layers.0", "layers.2"): np.ones((2, 96), np.float32)}, r"layers\.2\.mlp"),
        ({A.replace("down_proj", "fc1"): np.ones((2, 96), np.float32)}, r"mlp\.fc1"),
        ({A.removeprefix("base_model."): np.ones((2, 96), np.float32)}, "'model.model.layers"),
    ],
    ids=str,
)
def test_tensors_that_do_not_fit_are_named(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    changed = {**make_arrays(), **change}
    write_folder(tmp_path, {name: each for name, each in changed.items() if each is not None})
    with pytest.raises(ModelError, match=message):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    "name", [f"{AT}.lora_magnitude_vector", f"{AT}.lora_B.bias", f"{AT}.weight", "score.weight"]
)
def test_tensors_of_other_kinds_are_named(name: str, tmp_path: Path) -> None:
    write_folder(tmp_path, {**make_arrays(), name: np.ones((2, 2), np.float32)})
    with pytest.raises(UnsupportedError, match=name):
        read_folder(tmp_path)


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    checkpoint = open_tiny("qwen3")
    export_peft(
        create_plain_adapter(checkpoint),
        declaration=checkpoint.declaration,
        base_name="x",
        folder=tmp_path,
    )
    with pytest.raises(ModelError, match="made for another model"):
        read_folder(tmp_path, name="llama")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"r": 0}, "r is 0"),
        ({"r": 10**9}, "r is 1000000000"),
        ({"r": True}, "r is True"),
        ({"r": 2.0}, r"r is 2\.0"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"lora_alpha": float("inf")}, "lora_alpha is inf"),
        ({"lora_alpha": 10**400}, "lora_alpha is 1000"),
        ({"lora_alpha": "2"}, "lora_alpha is '2'"),
        ({"lora_alpha": None}, "lora_alpha is None"),
        ({"use_rslora": "no"}, "use_rslora is 'no'"),
        ({"rank_pattern": [1]}, r"rank_pattern is \[1\]"),
        ({"rank_pattern": {"down_proj": 65}}, r"rank_pattern\['down_proj'\] is 65"),
        ({"alpha_pattern": {"down_proj": []}}, r"alpha_pattern\['down_proj'\] is \[\]"),
        ({"rank_pattern": {"down_proj": 3}}, "rank 2.*says 3"),
    ],
    ids=str,
)
def test_numbers_of_the_config_are_bounded(
    config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write_folder(tmp_path, make_arrays(), **config)
    with pytest.raises(ModelError, match=message):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "ADALORA"}, "'ADALORA'"),
        ({"peft_type": None}, "None"),
        ({"lora_bias": True}, "lora_bias"),
        ({"use_qalora": True}, "use_qalora"),
        ({"target_parameters": ["experts"]}, "target_parameters"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"not_known_yet": {"a": 1}}, "not_known_yet"),
        ({"init_lora_weights": ["x"]}, "init_lora_weights"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights"),
        ({"bias": None}, "bias is None"),
        ({"rank_pattern": {"(a+)+$": 2}}, "expression"),
        ({"alpha_pattern": {"x" * 5000: 2}}, "expression"),
    ],
    ids=lambda each: str(each)[:60],
)
def test_fields_of_the_config_that_ask_for_more_are_named(
    config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write_folder(tmp_path, make_arrays(), **config)
    with pytest.raises(UnsupportedError, match=message):
        read_folder(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"r": ' * 50_000, "\xff"])
def test_a_config_that_is_no_object_is_refused(text: str, tmp_path: Path) -> None:
    write_folder(tmp_path, make_arrays())
    (tmp_path / CONFIG).write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=r"adapter_config\.json"):
        read_folder(tmp_path)


def test_numbers_too_long_to_parse_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, make_arrays())
    (tmp_path / CONFIG).write_text('{"peft_type": "LORA", "r": ' + "9" * 100_000 + "}")
    with pytest.raises(ModelError, match=r"adapter_config\.json"):
        read_folder(tmp_path)


@pytest.mark.parametrize("missing", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named(missing: str, tmp_path: Path) -> None:
    write_folder(tmp_path, make_arrays())
    (tmp_path / missing).unlink()
    with pytest.raises(ModelError, match=missing):
        read_folder(tmp_path)


def test_a_pickle_is_refused_by_its_name_and_never_read(tmp_path: Path) -> None:
    write_folder(tmp_path, make_arrays())
    (tmp_path / WEIGHTS).unlink()
    # Reading a fifo would never end.
    os.mkfifo(tmp_path / "adapter_model.bin")
    with pytest.raises(UnsupportedError, match=r"adapter_model\.bin may be a pickle"):
        read_folder(tmp_path)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_what_is_no_plain_file_is_never_read(name: str, tmp_path: Path) -> None:
    write_folder(tmp_path, make_arrays())
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(ModelError, match=f"no file {name}"):
        read_folder(tmp_path)


def test_other_weights_in_the_folder_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, make_arrays())
    safetensors.numpy.save_file(make_arrays(), tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedError, match=r"'model\.safetensors' beside"):
        read_folder(tmp_path)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_files_over_the_size_that_the_model_allows_are_not_read(name: str, tmp_path: Path) -> None:
    write_folder(tmp_path, make_arrays())
    with (tmp_path / name).open("r+b") as file:
        file.truncate(2**40)  # sparse: reading it would take all memory
    with pytest.raises(TooLargeError, match=f"{name} has 1,099,511,627,776 bytes"):
        read_folder(tmp_path)


@pytest.mark.parametrize("claim", [2**63, 2**40, 2**23, 5000])
def test_headers_that_claim_too_much_are_refused(claim: int, tmp_path: Path) -> None:
    write_folder(tmp_path, make_arrays())
    data = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(claim.to_bytes(8, "little") + data[8:])
    with pytest.raises(ModelError, match=f"claims {claim:,} bytes"):
        read_folder(tmp_path)


def test_shapes_that_claim_too_much_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, make_arrays())
    entry = {"dtype": "F32", "shape": [2**31, 2**31], "data_offsets": [0, 8]}
    header = json.dumps({A: entry}).encode()
    (tmp_path / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ModelError, match="lies outside the file"):
        read_folder(tmp_path)


def test_values_that_overflow_with_their_scale_are_refused(tmp_path: Path) -> None:
    arrays = {**make_arrays(), B: np.full((64, 2), 3e38, np.float32)}
    write_folder(tmp_path, arrays, lora_alpha=1000)
    with pytest.raises(ModelError, match=r"down_proj is too large"):
        read_folder(tmp_path)


def test_values_that_overflow_when_compressed_are_refused(tmp_path: Path) -> None:
    rng = np.random.Generator(np.random.PCG64(0))
    arrays = {
        A: (1e30 * rng.standard_normal((2, 96))).astype(np.float32),
        B: (1e30 * rng.standard_normal((64, 2))).astype(np.float32),
    }
    write_folder(tmp_path, arrays)
    with pytest.raises(ModelError, match=r"layers\.0\.down are too large"):
        import_peft(tmp_path, declaration=open_tiny("llama").declaration, rank_limit=1)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A PEFT folder and a GGUF LoRA of one adapter."""
    folder, checkpoint = tmp_path_factory.mktemp("sound"), open_tiny("llama")
    tensors, declaration = create_plain_adapter(checkpoint, rank=1), checkpoint.declaration
    export_peft(tensors, declaration=declaration, base_name="x", folder=folder / "peft")
    export_gguf(tensors, declaration=declaration, path=folder / "lora.gguf")
    return folder / "peft", folder / "lora.gguf"


def read_gguf(path: Path) -> Arrays:
    return import_gguf(path, declaration=open_tiny("llama").declaration, rank_limit=16).tensors


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.99])
def test_truncated_files_are_refused(
    share: float, sound: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, lora = sound
    (tmp_path / CONFIG).write_bytes((folder / CONFIG).read_bytes())
    data = (folder / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(data[: int(share * len(data))])
    with pytest.raises(ModelError, match=WEIGHTS):
        read_folder(tmp_path)
    data = lora.read_bytes()
    (tmp_path / "lora.gguf").write_bytes(data[: int(share * len(data))])
    with pytest.raises(ModelError, match=r"lora\.gguf"):
        read_gguf(tmp_path / "lora.gguf")


Damage = Callable[[bytes], bytes]


@st.composite
def damages(draw: st.DrawFn) -> Damage:
    """Return what changes some bytes, most of them in the header, or cuts the end off."""
    share = draw(st.floats(0, 1)) ** 3
    patch, cut = draw(st.binary(min_size=1, max_size=9)), draw(st.booleans())

    def damage(data: bytes) -> bytes:
        at = int(share * (len(data) - 1))
        return data[:at] if cut else data[:at] + patch + data[at + len(patch) :]

    return damage


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(damage=damages(), which=st.sampled_from([CONFIG, WEIGHTS, "lora.gguf"]))
def test_damage_is_a_typed_error_or_a_finite_adapter(
    damage: Damage, which: str, sound: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, lora = sound
    for name in (CONFIG, WEIGHTS):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "lora.gguf").write_bytes(lora.read_bytes())
    (tmp_path / which).write_bytes(damage((tmp_path / which).read_bytes()))
    try:
        found = read_gguf(tmp_path / which) if which == "lora.gguf" else read_folder(tmp_path)
    except (InputError, ModelError):
        return
    assert all(np.isfinite(each).all() for each in found.values())


def test_a_gguf_file_that_is_too_large_or_none_is_not_read(
    sound: tuple[Path, Path], tmp_path: Path
) -> None:
    path = tmp_path / "lora.gguf"
    with pytest.raises(ModelError, match=r"no file lora\.gguf"):
        read_gguf(path)
    path.write_bytes(sound[1].read_bytes())
    with path.open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(TooLargeError, match="1,099,511,627,776 bytes"):
        read_gguf(path)


def test_a_model_is_not_taken_for_an_adapter(tiny_model: Path) -> None:
    with pytest.raises(UnsupportedError, match="general.type"):
        read_gguf(tiny_model)
