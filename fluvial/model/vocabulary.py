"""Read a vocabulary out of a model file and check it, so that native code only meets sound tables.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, section "Tokenizer".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import cast

import numpy as np

from fluvial.errors import ModelError
from fluvial.model import pretokenizer

MAX_TOKENS = 2**20
MAX_MERGES = 2**21
MAX_TOKEN_CHARS = 1024
MAX_MARKS = 8192
MAX_MARK_EDGES = 1024

END_NAMES = frozenset(
    [
        "<|im_end|>",
        "<|endoftext|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end_of_text|>",
        "<|end|>",
        "<end_of_turn>",
        "</s>",
    ]
)
"""Control tokens that end a turn whatever the file's own eos is: models write either."""


class Kind(IntEnum):
    """What a token is, numbered as `tokenizer.ggml.token_type` does."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """A checked vocabulary. Every id named here is an index of `tokens`; tokens are unique.

    `plain` holds the tokens that ordinary text may become; every merge makes one out of two others.
    `marks` holds those that only a template may write: control and user-defined tokens.
    `names` maps roles (`bos_token`, `eos_token`, ...) to their strings, where known.
    """

    tokens: Sequence[str]
    kinds: Sequence[int]
    merges: list[tuple[str, str]]
    plain: Mapping[str, int]
    marks: Mapping[str, int]
    names: Mapping[str, str]
    bos_id: int | None
    end_ids: frozenset[int]


def read_gguf(metadata: Mapping[str, object]) -> Vocabulary:
    """Return the vocabulary of a GGUF file, checked. Raises ModelError naming the wrong key."""
    check_model(metadata.get("tokenizer.ggml.model"))
    tokens = read_tokens(metadata)
    merges = _read_strings(metadata, "tokenizer.ggml.merges", limit=MAX_MERGES)
    named = read_named(metadata, tokens)
    pairs = [cast("tuple[str, str]", line.partition(" ")[::2]) for line in merges]
    ends = {named[key] for key in ("eos_token", "eot_token", "eom_token") if key in named}
    kinds = read_kinds(metadata, tokens, controls=set(named.values()))
    return build(tokens=tokens, kinds=kinds, merges=pairs, named=named, ends=ends)


def build(
    *,
    tokens: Sequence[str],
    kinds: Sequence[int],
    merges: list[tuple[str, str]],
    named: Mapping[str, int],
    ends: set[int],
) -> Vocabulary:
    """Join the parts. Raises ModelError for duplicate or oversized tokens and wrong merges."""
    _check_tokens(tokens)
    by_kind = list(zip(tokens, kinds, range(len(tokens)), strict=True))
    plain = {token: index for token, kind, index in by_kind if kind == Kind.NORMAL}
    marks = {token: i for token, kind, i in by_kind if kind in (Kind.CONTROL, Kind.USER)}
    check_marks(marks)
    _check_alphabet(plain)
    _check_merges(merges, plain)
    ends |= {i for token, kind, i in by_kind if kind == Kind.CONTROL and token in END_NAMES}
    return Vocabulary(
        tokens=tokens,
        kinds=kinds,
        merges=merges,
        plain=plain,
        marks=marks,
        names={key: tokens[index] for key, index in named.items()},
        bos_id=named.get("bos_token"),
        end_ids=frozenset(ends),
    )


def check_model(model: object) -> None:
    """Raise ModelError unless `model` is the one kind of tokenizer that is supported."""
    if model != "gpt2":
        raise ModelError(
            f"the tokenizer model {str(model)[:80]!r} is not supported; "
            "supported is: gpt2 (byte-level BPE)"
        )


def read_pre(metadata: Mapping[str, object]) -> pretokenizer.Pretokenizer:
    """Return the pre-tokeniser the file names. Raises ModelError when it names none we know."""
    name = metadata.get("tokenizer.ggml.pre")
    if not isinstance(name, str):
        raise ModelError("tokenizer.ggml.pre is missing: the file does not say how text is cut")
    return pretokenizer.find(name)


def read_tokens(metadata: Mapping[str, object]) -> list[str]:
    """Return the tokens' strings, unchecked. Raises ModelError when they are not a sane list."""
    return _read_strings(metadata, "tokenizer.ggml.tokens", limit=MAX_TOKENS)


def read_named(metadata: Mapping[str, object], tokens: Sequence[str]) -> dict[str, int]:
    """Return the ids of the tokens with a role, keyed as templates call them (`bos_token`, ...)."""
    keys = {
        "bos_token": "bos",
        "eos_token": "eos",
        "eot_token": "eot",
        "eom_token": "eom",
        "pad_token": "padding",
        "unk_token": "unknown",
    }
    found: dict[str, int] = {}
    for name, key in keys.items():
        value = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < len(tokens):
            raise ModelError(
                f"tokenizer.ggml.{key}_token_id is {str(value)[:40]}; "
                f"ids go from 0 to {len(tokens) - 1}"
            )
        found[name] = value
    return found


def read_kinds(
    metadata: Mapping[str, object], tokens: Sequence[str], *, controls: set[int]
) -> list[int]:
    """Return each token's kind; without the key, those of `controls` are control tokens."""
    key = "tokenizer.ggml.token_type"
    values = metadata.get(key)
    if values is None:
        return [Kind.CONTROL if i in controls else Kind.NORMAL for i in range(len(tokens))]
    kinds = np.asarray(values)
    if kinds.shape != (len(tokens),) or kinds.dtype.kind not in "iu":
        raise ModelError(f"{key} must hold one integer for each of the {len(tokens):,} tokens")
    unknown = set(np.unique(kinds).tolist()) - set(Kind)
    if unknown:
        raise ModelError(f"{key} holds {min(unknown)}; the known types are 1 to 6")
    return cast("list[int]", kinds.tolist())


def _read_strings(metadata: Mapping[str, object], key: str, *, limit: int) -> list[str]:
    values = metadata.get(key)
    if not isinstance(values, list):
        raise ModelError(f"{key} is missing or not an array of strings")
    values = cast("list[object]", values)
    if len(values) > limit:
        raise ModelError(f"{key} has {len(values):,} entries; at most {limit:,} are supported")
    if not all(isinstance(value, str) for value in values):
        raise ModelError(f"{key} holds entries that are not strings")
    return cast("list[str]", values)


def _check_tokens(tokens: Sequence[str]) -> None:
    if not tokens:
        raise ModelError("the vocabulary is empty")
    longest = max(tokens, key=len)
    if len(longest) > MAX_TOKEN_CHARS:
        raise ModelError(
            f"the token {longest[:40]!r}... is {len(longest):,} characters long; "
            f"at most {MAX_TOKEN_CHARS:,} are supported"
        )
    if len(set(tokens)) != len(tokens):
        seen: set[str] = set()
        twice = next(token for token in tokens if token in seen or seen.add(token))
        raise ModelError(f"the vocabulary holds the token {twice[:80]!r} twice")
    if "" in tokens:
        raise ModelError("the vocabulary holds an empty token")
    try:
        "".join(tokens).encode()
    except UnicodeEncodeError:
        raise ModelError("the vocabulary holds a token that is not valid Unicode") from None


def _check_alphabet(plain: Mapping[str, int]) -> None:
    # Real vocabularies lack a few control bytes; without letters it is not a byte-level one.
    missing = [c for c in map(chr, range(0x21, 0x7F)) if c not in plain]
    if missing or "\u0120" not in plain or "\u010a" not in plain:
        raise ModelError(
            "the vocabulary is not byte-level: it lacks tokens for the space, the line feed or "
            f"printable ASCII ({''.join(missing)[:20]!r})"
        )


def check_marks(marks: Mapping[str, int]) -> None:
    """Raise ModelError unless special tokens can be found in text quickly and without doubt."""
    if len(marks) > MAX_MARKS:
        raise ModelError(f"{len(marks):,} special tokens; at most {MAX_MARKS:,} are supported")
    for mark in marks:
        if mark != mark.strip():
            raise ModelError(f"the special token {mark[:80]!r} starts or ends with white space")
    if len({edge for mark in marks for edge in (mark[0], mark[-1])}) > MAX_MARK_EDGES:
        raise ModelError(f"special tokens start or end with over {MAX_MARK_EDGES:,} characters")


def _check_merges(merges: list[tuple[str, str]], plain: Mapping[str, int]) -> None:
    for left, right in merges:
        if not (left in plain and right in plain and left + right in plain):
            raise ModelError(
                f"the merge {left[:40]!r} + {right[:40]!r} names or makes a token that is not an "
                "ordinary one of the vocabulary"
            )
