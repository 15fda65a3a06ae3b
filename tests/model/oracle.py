"""The tokenizers of `transformers` for a GGUF file's vocabulary: the comparison's other side."""

from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

NORMAL, CONTROL, USER = 1, 3, 4


def build_smollm(metadata: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    """Return SmolLM2's as published: its `tokenizer.json` splits digits, then GPT-2's words.

    (`GPT2Tokenizer` built from vocabulary and merges leaves the digits out: other ids for `a  12`.)
    """
    vocab = {token: index for index, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    native = Tokenizer(models.BPE(vocab=vocab, merges=_split(metadata)))
    native.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    native.decoder = decoders.ByteLevel()
    return _finish(PreTrainedTokenizerFast(tokenizer_object=native), metadata)


def build_qwen2(metadata: Mapping[str, Any]) -> Qwen2Tokenizer:
    """Return `transformers`' own class for Qwen2 over the same vocabulary."""
    named = zip(
        metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"], strict=True
    )
    vocab = {token: index for index, (token, kind) in enumerate(named) if kind == NORMAL}
    return _finish(Qwen2Tokenizer(vocab=vocab, merges=_split(metadata)), metadata)


def _split(metadata: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]


def _finish(oracle: Any, metadata: Mapping[str, Any]) -> Any:
    tokens = metadata["tokenizer.ggml.tokens"]
    for index, kind in enumerate(metadata["tokenizer.ggml.token_type"]):
        if kind in (CONTROL, USER):
            special = bool(kind == CONTROL)
            oracle.add_tokens(AddedToken(tokens[index], special=special, normalized=False))
            assert oracle.convert_tokens_to_ids(tokens[index]) == index
    oracle.chat_template = metadata["tokenizer.chat_template"]
    oracle.bos_token = tokens[metadata["tokenizer.ggml.bos_token_id"]]
    oracle.eos_token = tokens[metadata["tokenizer.ggml.eos_token_id"]]
    return oracle
