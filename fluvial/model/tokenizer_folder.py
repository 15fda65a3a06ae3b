"""Read the tokenizer of a safetensors checkpoint: `tokenizer.json` and the small files beside it.

Only what the GGUF path knows is accepted (byte-level BPE with a pre-tokeniser of the table, or
SentencePiece's BPE), so both paths keep the same promises; `tokenizer_form` tells them apart.
Source: https://huggingface.co/docs/tokenizers (the JSON form).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from fluvial.errors import ModelError
from fluvial.model import tokenizer_form, vocabulary
from fluvial.model.byte_coder import ByteCoder
from fluvial.model.piece_coder import PieceCoder
from fluvial.model.pretokenizer import Pretokenizer
from fluvial.model.vocabulary import BYTE_NAMES, MAX_MERGES, MAX_TOKENS, Kind, Vocabulary

MAX_TOKENIZER_BYTES = 64 * 2**20
MAX_CONFIG_BYTES = 4 * 2**20

_ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")

Table = dict[str, Any]


def read_tokenizer(path: Path) -> tuple[Vocabulary, ByteCoder | PieceCoder, bool]:
    """Return the vocabulary, its coder, and whether raw text starts with bos.

    Raises ModelError naming the file and what in it is missing, damaged or not supported.
    """
    table = read_json(path / "tokenizer.json", limit_bytes=MAX_TOKENIZER_BYTES)
    model, added = _get_table(table, "model"), _read_added(table)
    _check_model(model)
    form = tokenizer_form.find(table)
    pieces = not isinstance(form, Pretokenizer)
    merges = _read_merges(model)
    tokens, kinds = _read_tokens(model, added, count=_read_size(path), pieces=pieces)
    config = read_config(path)
    named = _read_named(config, tokens)
    words = vocabulary.build(
        tokens=tokens,
        kinds=kinds,
        merges=merges,
        named=named,
        ends=_read_ends(path, named, tokens),
        spelling="pieces" if pieces else "bytes",
    )
    flag = config.get("add_bos_token")
    adds_bos = flag if isinstance(flag, bool) else tokenizer_form.starts_with_special(table)
    if isinstance(form, Pretokenizer):
        return words, ByteCoder(words, pre=form), adds_bos
    return words, PieceCoder(words, form=form), adds_bos


def read_config(path: Path) -> Table:
    """Return `tokenizer_config.json`, empty when there is none."""
    return _read_optional(path / "tokenizer_config.json")


def read_names(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the special tokens by role, as templates call them (a string, or its `content`)."""
    names: dict[str, str] = {}
    for role in _ROLES:
        value: object = config.get(role)
        if isinstance(value, dict):
            value = cast("Table", value).get("content")
        if isinstance(value, str):
            names[role] = value
        elif value is not None:
            raise ModelError(f"tokenizer_config.json: {role} is not a string")
    return names


def read_controls(path: Path) -> set[str]:
    """Return the control tokens that `tokenizer.json` adds."""
    table = read_json(path / "tokenizer.json", limit_bytes=MAX_TOKENIZER_BYTES)
    return {token for token, (_, kind) in _read_added(table).items() if kind == Kind.CONTROL}


def read_json(file: Path, *, limit_bytes: int) -> Table:
    """Return the object in `file`. Raises ModelError when it is too big or not a JSON object."""
    try:
        if file.stat().st_size > limit_bytes:
            raise ModelError(f"{file.name} is over {limit_bytes:,} bytes")
        value = json.loads(file.read_bytes())
    except OSError as error:
        raise ModelError(f"{file} can't be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file.name} is not valid JSON: {str(error)[:200]}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{file.name} does not hold a JSON object")
    return cast("Table", value)


def _read_optional(file: Path) -> Table:
    return read_json(file, limit_bytes=MAX_CONFIG_BYTES) if file.exists() else {}


def _get_table(table: Table, key: str) -> Table:
    value = table.get(key)
    if not isinstance(value, dict):
        raise ModelError(f"tokenizer.json: {key!r} is missing or not an object")
    return cast("Table", value)


def _get_list(table: Table, key: str, *, limit: int) -> list[Any]:
    value = table.get(key)
    if not isinstance(value, list):
        raise ModelError(f"tokenizer.json: {key!r} is missing or not an array")
    found = cast("list[Any]", value)
    if len(found) > limit:
        raise ModelError(f"tokenizer.json: {key!r} has over {limit:,} entries")
    return found


def _check_model(model: Table) -> None:
    if model.get("type") != "BPE":
        raise ModelError(f"tokenizer.json: model type {model.get('type')!r}; supported is BPE")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise ModelError(f"tokenizer.json: {key} is set, which is not supported")


def _read_merges(model: Table) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for merge in _get_list(model, "merges", limit=MAX_MERGES):
        pair: Any = merge.split(" ") if isinstance(merge, str) else merge
        if not (isinstance(pair, list) and [type(p) for p in cast("list[Any]", pair)] == [str] * 2):
            raise ModelError(f"tokenizer.json: {str(merge)[:80]!r} is not a merge of two tokens")
        pairs.append((pair[0], pair[1]))
    return pairs


def _read_added(table: Table) -> dict[str, tuple[int, Kind]]:
    added: dict[str, tuple[int, Kind]] = {}
    for entry in _get_list(table, "added_tokens", limit=vocabulary.MAX_MARKS):
        token = entry.get("content") if isinstance(entry, dict) else None
        if not isinstance(token, str) or not token or "id" not in entry:
            raise ModelError("tokenizer.json: an entry of 'added_tokens' lacks its content or id")
        for flag in ("lstrip", "rstrip", "single_word"):
            if entry.get(flag):
                raise ModelError(f"tokenizer.json: {token[:80]!r} has {flag}, which is unsupported")
        added[token] = (
            cast("Table", entry)["id"],
            Kind.CONTROL if entry.get("special") else Kind.USER,
        )
    return added


def _read_tokens(
    model: Table, added: Mapping[str, tuple[int, Kind]], *, count: int, pieces: bool
) -> tuple[list[str], list[int]]:
    bytes_ = BYTE_NAMES if pieces else frozenset[str]()
    entries = {
        token: (i, Kind.BYTE if token in bytes_ else Kind.NORMAL)
        for token, i in _get_table(model, "vocab").items()
    } | dict(added)
    ids = [i for i, _ in entries.values()]
    if any(type(i) is not int or not 0 <= i < MAX_TOKENS for i in ids):
        raise ModelError(f"tokenizer.json: a token id is not a number from 0 to {MAX_TOKENS - 1}")
    if len(set(ids)) != len(ids):
        raise ModelError("tokenizer.json: two tokens have the same id")
    size = max(count, 1 + max(ids, default=-1))
    tokens = [f"[unused {i}]" for i in range(size)]
    kinds: list[int] = [Kind.UNUSED] * size
    for token, (i, kind) in entries.items():
        tokens[i], kinds[i] = token, kind
    return tokens, kinds


def _read_size(path: Path) -> int:
    # Checkpoints pad their embedding beyond the last token; a drawn id there must have (no) text.
    size = _read_optional(path / "config.json").get("vocab_size", 0)
    if type(size) is not int or not 0 <= size <= MAX_TOKENS:
        raise ModelError(
            f"config.json: vocab_size is {size!r}; at most {MAX_TOKENS:,} is supported"
        )
    return size


def _read_named(config: Table, tokens: list[str]) -> dict[str, int]:
    ids = {token: i for i, token in enumerate(tokens)}
    names = read_names(config)
    for role, token in names.items():
        if token not in ids:
            raise ModelError(
                f"tokenizer_config.json: {role} {token[:80]!r} is not in the vocabulary"
            )
    return {role: ids[token] for role, token in names.items()}


def _read_ends(path: Path, named: Mapping[str, int], tokens: list[str]) -> set[int]:
    value: Any = _read_optional(path / "generation_config.json").get("eos_token_id", [])
    ends = cast("list[Any]", value if isinstance(value, list) else [value])
    if any(type(i) is not int or not 0 <= i < len(tokens) for i in ends):
        raise ModelError(f"generation_config.json: eos_token_id {str(ends)[:80]} is out of range")
    return {*ends, *([named["eos_token"]] if "eos_token" in named else [])}
