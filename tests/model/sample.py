"""A small byte-level vocabulary as a GGUF file describes one, and the folder form of the same."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.tiny import list_byte_letters

CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
USERS = ("<tool_call>",)
MERGES = ("Ġ t", "h e", "Ġt he", "i n", "e r", "l l", "Ġ Ġ", "ĠĠ ĠĠ", "1 2", "Ċ Ċ", "å ¥", "' s")
NORMALS = (*list_byte_letters(), *(merge.replace(" ", "") for merge in MERGES))
TOKENS = (*CONTROLS, *USERS, *NORMALS, "[unused 0]")
KINDS = (3,) * len(CONTROLS) + (4,) * len(USERS) + (1,) * len(NORMALS) + (5,)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_metadata(**changes: Any) -> dict[str, Any]:
    """Return the keys of a sound file; `changes` replace keys by their last part, None removes."""
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": list(TOKENS),
        "tokenizer.ggml.token_type": np.array(KINDS, np.int32),
        "tokenizer.ggml.merges": list(MERGES),
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": CHATML,
    }
    for name, value in changes.items():
        key = "tokenizer.chat_template" if name == "chat_template" else f"tokenizer.ggml.{name}"
        metadata[key] = value
    return {key: value for key, value in metadata.items() if value is not None}


def make_tokenizer_json() -> dict[str, Any]:
    """Return a `tokenizer.json` of the same vocabulary, as model repositories publish it."""
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": index, "content": token, "special": token in CONTROLS, **flags}
            for index, token in enumerate((*CONTROLS, *USERS))
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: TOKENS.index(token) for token in (*CONTROLS, *NORMALS)},
            "merges": [merge.split(" ") for merge in MERGES],
        },
    }


def write_folder(path: Path, *, tokenizer: Any = None, config: Any = None) -> Path:
    """Write a checkpoint's tokenizer files into `path`."""
    config = config or {"bos_token": "<|endoftext|>", "eos_token": {"content": "<|im_end|>"}}
    (path / "tokenizer.json").write_text(json.dumps(tokenizer or make_tokenizer_json()))
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHATML} | config))
    return path
