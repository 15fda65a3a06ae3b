"""A small SentencePiece vocabulary, trained by the `tokenizers` library, in the forms files have.

Like Gemma's it has byte tokens, runs of white space and HTML tags as user-defined tokens, turns as
control tokens; scores are minus the order in which pieces were learned.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as NativeTokenizer
from tokenizers import models, normalizers, trainers
from transformers.convert_slow_tokenizer import generate_merges

from tests.model.corpus import make_lines

CONTROLS = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
USERS = ("\n", "\n\n", "\n\n\n", "  ", "   ", "\t", "<table>", "</table>", "<tool_call>")
FIRST_PIECE = len(CONTROLS) + len(BYTES) + len(USERS)


@cache
def list_pieces() -> tuple[str, ...]:
    """Return the pieces, first learned first; then single characters, which are never merged."""
    native = NativeTokenizer(models.BPE())
    native.normalizer = normalizers.Replace(" ", "\u2581")
    trainer = trainers.BpeTrainer(vocab_size=1600, limit_alphabet=400, show_progress=False)
    lines = [word for line in make_lines(400) for word in line.replace(" ", "\n ").split("\n")]
    native.train_from_iterator(lines, trainer)
    learned = sorted(native.get_vocab().items(), key=lambda item: item[1])
    pieces = [token for token, _ in learned if not {"\n", "\t"} & set(token)]
    joined = [token for token in pieces if len(token) > 1]
    return (*joined, *sorted({*(c for token in joined for c in token), *pieces} - set(joined)))


def list_tokens() -> tuple[str, ...]:
    """Return all tokens in the order of their ids."""
    return (*CONTROLS, *BYTES, *USERS, *list_pieces())


def make_pieces(**changes: Any) -> dict[str, Any]:
    """Return the keys of a sound file; `changes` replace keys by their last part, None removes."""
    tokens, pieces = list_tokens(), len(list_pieces())
    kinds = [3] * len(CONTROLS) + [6] * 256 + [4] * len(USERS) + [1] * pieces
    scores = np.zeros(len(tokens), np.float32)
    scores[FIRST_PIECE:] = -np.arange(pieces, dtype=np.float32)
    metadata: dict[str, Any] = {
        "model": "llama",
        "pre": "default",
        "tokens": list(tokens),
        "token_type": np.array(kinds, np.int32),
        "scores": scores,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "unknown_token_id": 3,
        "add_bos_token": True,
        "add_space_prefix": False,
    } | changes
    named = {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}
    return {key: value for key, value in named.items() if value is not None}


def make_piece_json(**changes: Any) -> dict[str, Any]:
    """Return the `tokenizer.json` of the same, as `transformers` converts SentencePiece models."""
    tokens = list_tokens()
    vocab = {token: i for i, token in enumerate(tokens)}
    scores = {token: -float(i) for i, token in enumerate(list_pieces())}
    merges = [list(pair) for pair in generate_merges(vocab, scores)]
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    table: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [
            {"id": vocab[token], "content": token, "special": token in CONTROLS, **flags}
            for token in (*CONTROLS, *USERS)
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges,
        },
    }
    return table | changes


def write_piece_folder(path: Path, *, tokenizer: dict[str, Any]) -> Path:
    """Write a checkpoint's tokenizer files into `path`."""
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path
