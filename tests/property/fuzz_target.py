"""What the fuzzers drive: four readers, each from bytes to as far as a model file can reach.

`run` of a target returns the errors of ours with which parts of an input were refused; anything
else that comes out is a finding.
"""

import contextlib
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import gguf as writing
import numpy as np
from gguf.constants import GGML_QUANT_SIZES

from fluvial.errors import FluvialError
from fluvial.model import checkpoint, gguf, template
from fluvial.model.template import Template
from fluvial.model.tokenizer import Tokenizer
from fluvial.types import Message
from tests.model.piece_sample import BYTES, CONTROLS, USERS, make_piece_json
from tests.model.sample import CHATML, make_metadata, make_tokenizer_json
from tests.property.mutation import flip, mutate_gguf, mutate_json, mutate_template

CUT = b"\n\0\n"  # between the files of one input
TEXT = "The  caf\u00e9 <|im_end|><table>\n\n\u5b57 12345 \U0001f600\u2581'll"
WIDTH, LAYERS = 32, 1
_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json")


@dataclass(frozen=True)
class Target:
    """`run` may use the folder it is given, and leaves nothing of one input for the next."""

    seeds: Callable[[], list[bytes]]
    mutate: Callable[[bytes, random.Random], bytes]
    run: Callable[[bytes, Path], list[FluvialError]]


def run_gguf(data: bytes, folder: Path) -> list[FluvialError]:
    """Open a GGUF file as a checkpoint: metadata, tensors, declaration, weights, tokenizer."""
    path = folder / "input.gguf"
    path.write_bytes(data)
    errors: list[FluvialError] = []
    with _collect(errors):
        file = gguf.read(path)
        for tensor in file.tensors.values():
            with _collect(errors):
                if tensor.blocks.size < 2**16:
                    tensor.dequantize()
        with _collect(errors):
            _use(Tokenizer.from_gguf(file.metadata))
        with _collect(errors), mock.patch.object(template, "Renderer"):
            Template.from_gguf(file.metadata)
        _use_weights(checkpoint.open_checkpoint(path))
    return errors


def run_folder(data: bytes, folder: Path) -> list[FluvialError]:
    """Open a folder: `config.json`, then the separator and `model.safetensors`."""
    config, _, weights = data.partition(CUT)
    (folder / "config.json").write_bytes(config)
    (folder / "model.safetensors").write_bytes(weights)
    errors: list[FluvialError] = []
    with _collect(errors):
        _use_weights(checkpoint.open_checkpoint(folder))
    return errors


def run_tokenizer(data: bytes, folder: Path) -> list[FluvialError]:
    """Open `tokenizer.json` with the configs beside it, and use what comes out."""
    for name, content in zip(_FILES, data.split(CUT), strict=False):
        (folder / name).write_bytes(content)
    errors: list[FluvialError] = []
    with _collect(errors):
        _use(Tokenizer.from_folder(folder))
    with _collect(errors), mock.patch.object(template, "Renderer"):
        Template.from_folder(folder)
    return errors


def run_template(data: bytes, folder: Path) -> list[FluvialError]:
    """Compile and render a chat template in its child process."""
    del folder
    source = data.decode("utf-8", errors="surrogateescape")
    messages = [Message(role="user", content=TEXT), Message(role="assistant", content="b")]
    errors: list[FluvialError] = []
    with _collect(errors):
        opened = Template(source, names={"bos_token": "<|im_start|>"}, render_limit_s=0.5)
        try:
            opened.encode(messages, tokenizer=_words())
        finally:
            opened.close()
    return errors


@contextlib.contextmanager
def _collect(errors: list[FluvialError]) -> Iterator[None]:
    try:
        yield
    except FluvialError as error:
        errors.append(error)


def _use_weights(opened: checkpoint.Checkpoint) -> None:
    for weight in opened.weights.values():
        weight.dequantize(slice(0, 2))


def _use(words: Tokenizer) -> None:
    ids = words.encode(TEXT)
    words.decode(ids)
    words.encode_marked(words.shield(TEXT) + "".join(list(words.marks)[:3]))
    for token in (0, words.vocab_size - 1, *ids):
        words.token_bytes(token)
    assert words.missing_bytes is not None


@cache
def _words() -> Tokenizer:
    return Tokenizer.from_gguf(make_metadata())


@cache
def list_gguf_seeds() -> list[bytes]:
    """Return a small model of each naming, one of every value and tensor type, one of pieces."""
    with tempfile.TemporaryDirectory() as folder:
        return [
            _write_model(Path(folder) / "a", "llama"),
            _write_model(Path(folder) / "b", "gemma3"),
            _write_everything(Path(folder) / "c"),
            _write_tokenizer(Path(folder) / "d", make_metadata()),
            _write_tokenizer(Path(folder) / "e", make_few_pieces()),
        ]


def make_few_pieces() -> dict[str, Any]:
    """Return the keys of a SentencePiece vocabulary of few pieces."""
    letters = sorted(set("the caf\u00e9mouse") - {" "})
    pieces = ["th", "the", "\u2581the", "ou", "use", "mouse", "\u2581", *letters]
    tokens = [*CONTROLS, *BYTES, *USERS, *pieces]
    kinds = [3] * len(CONTROLS) + [6] * 256 + [4] * len(USERS) + [1] * len(pieces)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(kinds, np.int32),
        "tokenizer.ggml.scores": -np.arange(len(tokens), dtype=np.float32),
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.add_space_prefix": True,
    }


def _finish(writer: writing.GGUFWriter, path: Path) -> bytes:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def _add_metadata(writer: writing.GGUFWriter, metadata: dict[str, Any]) -> None:
    kinds = writing.GGUFValueType
    for key, value in metadata.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, np.ndarray):
            inner = kinds.FLOAT32 if value.dtype.kind == "f" else kinds.INT32
            writer.add_key_value(key, value.tolist(), kinds.ARRAY, inner)
        else:
            writer.add_array(key, value)


def _write_tokenizer(path: Path, metadata: dict[str, Any]) -> bytes:
    writer = writing.GGUFWriter(str(path), "llama")
    _add_metadata(writer, metadata)
    return _finish(writer, path)


def _write_model(path: Path, family: str) -> bytes:
    writer = writing.GGUFWriter(str(path), family)
    for add, value in (
        (writer.add_context_length, 64),
        (writer.add_embedding_length, WIDTH),
        (writer.add_block_count, LAYERS),
        (writer.add_feed_forward_length, WIDTH),
        (writer.add_head_count, 2),
        (writer.add_head_count_kv, 1),
        (writer.add_key_length, 16),
        (writer.add_value_length, 16),
        (writer.add_sliding_window, 32),
    ):
        add(value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e4)
    _add_tensors(writer, norms=("attn_norm", "ffn_norm"), gemma=family == "gemma3")
    return _finish(writer, path)


def _add_tensors(writer: writing.GGUFWriter, *, norms: tuple[str, ...], gemma: bool) -> None:
    extra = ("post_attention_norm", "post_ffw_norm") if gemma else ()
    writer.add_tensor("token_embd.weight", np.ones((24, WIDTH), np.float16))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for name in (*norms, *extra):
        writer.add_tensor(f"blk.0.{name}.weight", np.ones(WIDTH, np.float32))
    for name in ("attn_q_norm", "attn_k_norm") if gemma else ():
        writer.add_tensor(f"blk.0.{name}.weight", np.ones(16, np.float32))
    for name, rows in (("attn_k", 16), ("attn_v", 16), ("attn_q", WIDTH), ("attn_output", WIDTH)):
        writer.add_tensor(f"blk.0.{name}.weight", np.ones((rows, WIDTH), np.float16))
    for name in ("ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", np.ones((WIDTH, WIDTH), np.float32))


def _write_everything(path: Path) -> bytes:
    writer = writing.GGUFWriter(str(path), "llama")
    kinds = writing.GGUFValueType
    values = {"UINT8": 1, "INT8": -1, "UINT16": 2, "INT16": -2, "UINT32": 3, "INT32": -3}
    values |= {"UINT64": 4, "INT64": -4, "FLOAT32": 0.5, "FLOAT64": 0.25, "BOOL": True}
    for name, value in values.items():
        writer.add_key_value(f"x.{name}", value, kinds[name])
        writer.add_key_value(f"y.{name}", [value] * 3, kinds.ARRAY, kinds[name])
    writer.add_array("strings", ["a", "\u5b57", ""])
    for name in gguf.SUPPORTED:
        kind = writing.GGMLQuantizationType[name]
        size, width = GGML_QUANT_SIZES[kind]
        data = np.arange(width * (32 if size == 1 else 1), dtype=np.uint8)[None]
        writer.add_tensor(name, data, raw_dtype=kind)
    return _finish(writer, path)


@cache
def list_folder_seeds() -> list[bytes]:
    """Return a small model as its config, a separator, and a safetensors file."""
    config = {
        "model_type": "llama",
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "intermediate_size": WIDTH,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e4,
        "vocab_size": 24,
        "tie_word_embeddings": True,
    }
    shapes = {"model.embed_tokens": (24, WIDTH), "model.norm": (WIDTH,)}
    layer = {"input_layernorm": (WIDTH,), "post_attention_layernorm": (WIDTH,)}
    layer |= {f"self_attn.{p}_proj": (WIDTH if p in "qo" else 16, WIDTH) for p in "qkvo"}
    layer |= {f"mlp.{p}_proj": (WIDTH, WIDTH) for p in ("gate", "up", "down")}
    shapes |= {f"model.layers.0.{name}": shape for name, shape in layer.items()}
    return [json.dumps(config).encode() + CUT + _pack(shapes, kind) for kind in ("F16", "F32")]


def _pack(shapes: dict[str, tuple[int, ...]], kind: str) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at, width = 0, int(kind[1:]) // 8
    for name, shape in shapes.items():
        size = int(np.prod(shape)) * width
        header[f"{name}.weight"] = {
            "dtype": kind,
            "shape": list(shape),
            "data_offsets": [at, at + size],
        }
        at += size
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(at)


def mutate_folder(data: bytes, rng: random.Random) -> bytes:
    """Change the config, the header, its length, or the bytes."""
    config, cut, weights = data.partition(CUT)
    length = int.from_bytes(weights[:8], "little")
    header, body = weights[8 : 8 + length], weights[8 + length :]
    action = rng.randrange(5)
    if action == 0:
        config = mutate_json(config, rng)
    elif action < 3:
        header = mutate_json(header, rng)
        length = len(header)
    elif action == 3:
        length = rng.choice((0, 1, 2**31, 2**63, length + 1, length - 1)) & (2**64 - 1)
    else:
        body = body[: rng.randrange(len(body) + 1)] if rng.random() < 0.5 else flip(body, rng)
    return config + cut + length.to_bytes(8, "little") + header + body


@cache
def list_tokenizer_seeds() -> list[bytes]:
    """Return a `tokenizer.json` of each kind: bytes, pieces of few, Metaspace."""
    few = make_few_pieces()
    vocab = {token: i for i, token in enumerate(few["tokenizer.ggml.tokens"])}
    pieces = make_piece_json()
    pieces["model"] |= {"vocab": vocab, "merges": [["t", "h"], ["th", "e"]]}
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first"}
    other = {"normalizer": None, "pre_tokenizer": metaspace | {"split": True}}
    tables = [make_tokenizer_json(), pieces, pieces | other]
    named = [("<|endoftext|>", "<|im_end|>"), ("<bos>", "<eos>"), ("<bos>", "<eos>")]
    return [
        CUT.join(json.dumps(part).encode() for part in (table, *_list_configs(*names)))
        for table, names in zip(tables, named, strict=True)
    ]


def _list_configs(bos: str, eos: str) -> list[dict[str, Any]]:
    return [
        {
            "bos_token": bos,
            "eos_token": {"content": eos},
            "add_bos_token": True,
            "chat_template": [{"name": "default", "template": CHATML}],
        },
        {"eos_token_id": [1, 2]},
        {"vocab_size": 400},
    ]


def mutate_files(data: bytes, rng: random.Random) -> bytes:
    """Change one of the JSON files of an input."""
    files = data.split(CUT)
    index = 0 if rng.random() < 0.6 else rng.randrange(len(files))
    files[index] = mutate_json(files[index], rng)
    return CUT.join(files)


def list_template_seeds() -> list[bytes]:
    """Return two chat templates."""
    loop = (
        "{%- set ns = namespace(x=0) -%}{%- for m in messages -%}{%- if m.role == 'user' -%}"
        "{{ bos_token ~ m['content'] | trim }}{%- elif loop.last -%}{{ m | tojson(indent=2) }}"
        "{%- endif -%}{%- endfor -%}"
    )
    return [CHATML.encode(), loop.encode()]


def mutate_source(data: bytes, rng: random.Random) -> bytes:
    """Change a template as text."""
    source = mutate_template(data.decode("utf-8", errors="surrogateescape"), rng)
    return source.encode("utf-8", errors="surrogatepass")


TARGETS = {
    "gguf": Target(list_gguf_seeds, mutate_gguf, run_gguf),
    "folder": Target(list_folder_seeds, mutate_folder, run_folder),
    "tokenizer": Target(list_tokenizer_seeds, mutate_files, run_tokenizer),
    "template": Target(list_template_seeds, mutate_source, run_template),
}
