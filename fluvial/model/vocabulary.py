"""Read a vocabulary out of a model file and check it, so that native code only meets sound tables.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, section "Tokenizer".
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, cast

import numpy as np

from fluvial.errors import ModelError
from fluvial.model import pretokenizer

MAX_TOKENS = 2**20
MAX_MERGES = 2**21
MAX_TOKEN_CHARS = 1024
MAX_MARKS = 8192
MAX_MARK_CHARS = 128
MAX_MARK_EDGES = 1024

SPACE = "\u2581"
"""What SentencePiece writes for a space."""

BYTE_NAMES = frozenset(f"<0x{byte:02X}>" for byte in range(256))
"""SentencePiece's tokens for bytes that no piece holds."""

# User-defined pieces that ordinary text holds. Any other one is for templates to write: models give
# them a meaning (turns, tools, images) that no reader of a text may forge.
_ORDINARY = re.compile(
    rf"(\s)\1{{0,63}}|{SPACE}{{1,64}}|</?(?:a|b|bbox|blockquote|body|caption|code|div|em|footer"
    r"|h[1-6]|html|i|iframe|img|li|s|span|strong|sub|sup|table|tbody|td|tfoot|th|thead|tr|u|ul)>"
)

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
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
    ]
)
"""Control tokens that end a turn whatever the file's own eos is: models write either."""


Spelling = Literal["bytes", "pieces"]
"""How tokens are spelled: a character for each byte (GPT-2), or text with `\u2581` for space."""


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
    `literals` are tokens that are found in ordinary text before any merging (pieces only).
    `marks` holds those that only a template may write: control and other user-defined tokens.
    `names` maps roles (`bos_token`, `eos_token`, ...) to their strings, where known.
    """

    tokens: Sequence[str]
    kinds: Sequence[int]
    merges: list[tuple[str, str]]
    plain: Mapping[str, int]
    literals: Mapping[str, int]
    marks: Mapping[str, int]
    names: Mapping[str, str]
    bos_id: int | None
    end_ids: frozenset[int]


def read_gguf(metadata: Mapping[str, object]) -> Vocabulary:
    """Return the byte-level vocabulary of a GGUF file, checked.

    Raises ModelError naming the wrong key.
    """
    tokens = read_tokens(metadata)
    merges = read_strings(metadata, "tokenizer.ggml.merges", limit=MAX_MERGES)
    named = read_named(metadata, tokens)
    pairs = [cast("tuple[str, str]", line.partition(" ")[::2]) for line in merges]
    kinds = read_kinds(metadata, tokens, controls=set(named.values()))
    return build(tokens=tokens, kinds=kinds, merges=pairs, named=named, ends=choose_ends(named))


def choose_ends(named: Mapping[str, int]) -> set[int]:
    """Return the ids of the tokens whose role is to end a text or a turn."""
    return {named[key] for key in ("eos_token", "eot_token", "eom_token") if key in named}


def build(
    *,
    tokens: Sequence[str],
    kinds: Sequence[int],
    merges: list[tuple[str, str]],
    named: Mapping[str, int],
    ends: set[int],
    spelling: Spelling = "bytes",
) -> Vocabulary:
    """Join the parts. Raises ModelError for duplicate or oversized tokens and wrong merges."""
    _check_tokens(tokens)
    by_kind = list(zip(tokens, kinds, range(len(tokens)), strict=True))
    plain = {token: index for token, kind, index in by_kind if kind == Kind.NORMAL}
    marks = {token: i for token, kind, i in by_kind if kind in (Kind.CONTROL, Kind.USER)}
    literals = _take_literals(tokens, kinds) if spelling == "pieces" else {}
    marks = {token: i for token, i in marks.items() if token not in literals}
    check_marks(marks)
    plain |= literals
    _check_spelling(spelling, plain=plain, by_kind=by_kind)
    _check_merges(merges, plain)
    ends |= {i for token, kind, i in by_kind if kind == Kind.CONTROL and token in END_NAMES}
    return Vocabulary(
        tokens=tokens,
        kinds=kinds,
        merges=merges,
        plain=plain,
        literals=literals,
        marks=marks,
        names={key: tokens[index] for key, index in named.items()},
        bos_id=named.get("bos_token"),
        end_ids=frozenset(ends),
    )


def read_pre(metadata: Mapping[str, object]) -> pretokenizer.Pretokenizer:
    """Return the pre-tokeniser the file names. Raises ModelError when it names none we know."""
    name = metadata.get("tokenizer.ggml.pre")
    if not isinstance(name, str):
        raise ModelError("tokenizer.ggml.pre is missing: the file does not say how text is cut")
    return pretokenizer.find(name)


def read_tokens(metadata: Mapping[str, object]) -> list[str]:
    """Return the tokens' strings, unchecked. Raises ModelError when they are not a sane list."""
    return read_strings(metadata, "tokenizer.ggml.tokens", limit=MAX_TOKENS)


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


def read_strings(metadata: Mapping[str, object], key: str, *, limit: int) -> list[str]:
    """Return an array of strings. Raises ModelError when it is none, or longer than `limit`."""
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


def _take_literals(tokens: Sequence[str], kinds: Sequence[int]) -> dict[str, int]:
    users = ((token, i) for i, token in enumerate(tokens) if kinds[i] == Kind.USER)
    return {token: i for token, i in users if _ORDINARY.fullmatch(token)}


def _check_spelling(
    spelling: Spelling, *, plain: Mapping[str, int], by_kind: Sequence[tuple[str, int, int]]
) -> None:
    if spelling == "bytes":
        _check_alphabet(plain)
        return
    named = {token for token, kind, _ in by_kind if kind == Kind.BYTE}
    if len(named) != 256 or not BYTE_NAMES.issuperset(named):
        raise ModelError(
            f"the vocabulary has {len(named)} byte tokens; SentencePiece needs the 256 of "
            "<0x00> to <0xFF>, to write what it has no piece for"
        )


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
        if len(mark) > MAX_MARK_CHARS:
            raise ModelError(
                f"the special token {mark[:40]!r}... is {len(mark):,} characters long; "
                f"at most {MAX_MARK_CHARS} are supported"
            )
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


def _list_byte_chars() -> list[str]:
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(b) if b in printable else chr(next(others)) for b in range(256)]


BYTE_CHARS = _list_byte_chars()
"""GPT-2's alphabet: printable Latin-1 bytes stand for themselves, the others from U+0100 on."""
