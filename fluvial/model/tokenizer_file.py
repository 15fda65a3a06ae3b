"""Read the tokenizer that a GGUF file describes: byte-level BPE, or SentencePiece's BPE.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, section "Tokenizer"; what absent
keys mean is as llama.cpp reads them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluvial.errors import ModelError
from fluvial.model import vocabulary
from fluvial.model.byte_coder import ByteCoder
from fluvial.model.piece_coder import PieceCoder, PieceForm, list_merges
from fluvial.model.vocabulary import Kind, Vocabulary

_SUPPORTED = "gpt2 (byte-level BPE) and llama (SentencePiece's BPE)"


def read_tokenizer(
    metadata: Mapping[str, object],
) -> tuple[Vocabulary, ByteCoder | PieceCoder, bool]:
    """Return the vocabulary, its coder, and whether raw text starts with bos.

    Raises ModelError naming the key that is missing, damaged or not supported.
    """
    model = metadata.get("tokenizer.ggml.model")
    if model == "gpt2":
        return _read_bytes(metadata)
    if model == "llama":
        return _read_pieces(metadata)
    raise ModelError(
        f"the tokenizer model {str(model)[:80]!r} is not supported; supported are: {_SUPPORTED}"
    )


def _read_bytes(metadata: Mapping[str, object]) -> tuple[Vocabulary, ByteCoder, bool]:
    pre = vocabulary.read_pre(metadata)
    words = vocabulary.read_gguf(metadata)
    adds_bos = _read_flag(metadata, "add_bos_token", default=pre.adds_bos)
    return words, ByteCoder(words, pre=pre), adds_bos


def _read_pieces(metadata: Mapping[str, object]) -> tuple[Vocabulary, PieceCoder, bool]:
    tokens = vocabulary.read_tokens(metadata)
    named = vocabulary.read_named(metadata, tokens)
    kinds = vocabulary.read_kinds(metadata, tokens, controls=set(named.values()))
    normal = {token: i for i, token in enumerate(tokens) if kinds[i] == Kind.NORMAL}
    words = vocabulary.build(
        tokens=tokens,
        kinds=kinds,
        merges=list_merges(normal, scores=_read_scores(metadata, tokens)),
        named=named,
        ends=vocabulary.choose_ends(named),
        spelling="pieces",
    )
    prefixes = _read_flag(metadata, "add_space_prefix", default=True)
    form = PieceForm(prefix="always" if prefixes else "never")
    return words, PieceCoder(words, form=form), _read_flag(metadata, "add_bos_token", default=True)


def _read_scores(metadata: Mapping[str, object], tokens: Sequence[str]) -> NDArray[Any]:
    key = "tokenizer.ggml.scores"
    scores = np.asarray(metadata.get(key))
    if scores.shape != (len(tokens),) or scores.dtype.kind != "f":
        raise ModelError(f"{key} must hold one float for each of the {len(tokens):,} tokens")
    return scores


def _read_flag(metadata: Mapping[str, object], name: str, *, default: bool) -> bool:
    value = metadata.get(f"tokenizer.ggml.{name}", default)
    if not isinstance(value, bool):
        raise ModelError(f"tokenizer.ggml.{name} is {str(value)[:40]!r}; it must be true or false")
    return value
