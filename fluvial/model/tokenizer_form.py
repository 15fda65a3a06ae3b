"""Tell from a `tokenizer.json` how its family prepares text: which pre-tokeniser, which prefix.

Every accepted combination is written down here; anything else is refused, for a step that is left
out or done differently gives other ids. Regular expressions are compared, never run: one out of a
file could take for ever.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from fluvial.errors import ModelError
from fluvial.model.piece_coder import PieceForm
from fluvial.model.pretokenizer import (
    DEEPSEEK3_REGEXES,
    DEEPSEEK_CODER_REGEXES,
    LLAMA3_REGEX,
    QWEN2_REGEX,
    QWEN35_REGEX,
    TABLE,
    Pretokenizer,
)
from fluvial.model.vocabulary import SPACE

_STEPS: dict[tuple[str, ...], str] = {
    ("bytes+regex",): "gpt-2",
    ("digits", "bytes+regex"): "smollm",
    (QWEN2_REGEX, "bytes"): "qwen2",
    (QWEN35_REGEX, "bytes"): "qwen35",
    (LLAMA3_REGEX, "bytes"): "llama-bpe",
    (*DEEPSEEK3_REGEXES, "bytes"): "deepseek-v3",
    (*DEEPSEEK_CODER_REGEXES, "digits", "bytes"): "deepseek-coder",
}
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_PREPEND = {"type": "Prepend", "prepend": SPACE}
# Spaces are gone by then, so this step of Gemma's cuts nothing.
_IDLE = {
    "type": "Split",
    "pattern": {"String": " "},
    "behavior": "MergedWithPrevious",
    "invert": False,
}

Table = dict[str, Any]


def find(table: Table) -> Pretokenizer | PieceForm:
    """Return how text is prepared: for byte-level BPE, or for SentencePiece's (byte fallback).

    Raises ModelError for a combination of steps that is not in the table.
    """
    model = cast("Table", table["model"])
    if model.get("byte_fallback"):
        return _find_form(table)
    return replace(_find_pre(table), whole_words=model.get("ignore_merges") is True)


def starts_with_special(table: Table) -> bool:
    """Tell whether the post-processor puts a special token before raw text."""
    for step in _flatten(table.get("post_processor"), inner="processors"):
        single: object = step.get("single")
        if step.get("type") == "TemplateProcessing" and isinstance(single, list) and single:
            first: object = cast("list[object]", single)[0]
            return isinstance(first, dict) and "SpecialToken" in first
    return False


def _find_pre(table: Table) -> Pretokenizer:
    found = _flatten(table.get("pre_tokenizer"), inner="pretokenizers")
    steps = tuple(_name_step(step) for step in found)
    normal = _flatten(table.get("normalizer"), inner="normalizers")
    if steps not in _STEPS or normal not in ([], [{"type": "NFC"}]):
        raise _refuse(table, supported=f"those of {', '.join(_STEPS.values())}")
    return replace(TABLE[_STEPS[steps]], normalizes=bool(normal))


def _find_form(table: Table) -> PieceForm:
    if cast("Table", table["model"]).get("ignore_merges"):
        raise ModelError("tokenizer.json: ignore_merges with byte_fallback is not supported")
    normal = _flatten(table.get("normalizer"), inner="normalizers")
    steps = _flatten(table.get("pre_tokenizer"), inner="pretokenizers")
    if normal == [_REPLACE] and steps in ([], [_IDLE]):
        return PieceForm()
    if normal == [_PREPEND, _REPLACE] and steps in ([], [_IDLE]):
        return PieceForm(prefix="always")
    if not normal and len(steps) == 1 and steps[0].get("type") == "Metaspace":
        return _read_metaspace(steps[0])
    raise _refuse(table, supported="those of Gemma and Llama 2, and Metaspace")


def _read_metaspace(step: Table) -> PieceForm:
    prefix, splits = step.get("prepend_scheme"), step.get("split", True)
    if step.get("replacement") != SPACE or prefix not in ("never", "always", "first"):
        raise ModelError(f"tokenizer.json: this Metaspace is not supported: {step!r:.200}")
    if not isinstance(splits, bool):
        raise ModelError(f"tokenizer.json: Metaspace has split {splits!r:.40}")
    return PieceForm(prefix=prefix, doubles=False, splits=splits)


def _flatten(step: object, *, inner: str) -> list[Table]:
    if step is None:
        return []
    if not isinstance(step, dict):
        raise ModelError("tokenizer.json: a normaliser or (pre-)tokeniser step is not an object")
    table = cast("Table", step)
    if table.get("type") != "Sequence":
        return [table]
    steps: object = table.get(inner)
    if not isinstance(steps, list) or not all(
        isinstance(s, dict) for s in cast("list[Any]", steps)
    ):
        raise ModelError(f"tokenizer.json: a Sequence without an array of {inner}")
    return cast("list[Table]", steps)


def _name_step(step: Mapping[str, Any]) -> str:
    kind = step.get("type")
    if kind == "ByteLevel" and step.get("add_prefix_space") is False:
        return "bytes+regex" if step.get("use_regex", True) else "bytes"
    if kind == "Digits" and step.get("individual_digits") is True:
        return "digits"
    pattern: Any = step.get("pattern")
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        regex = cast("Table", pattern).get("Regex") if isinstance(pattern, dict) else None
        return str(regex)
    return f"unsupported {str(kind)[:40]}"


def _refuse(table: Table, *, supported: str) -> ModelError:
    got = [json.dumps(table.get(key))[:200] for key in ("normalizer", "pre_tokenizer")]
    return ModelError(
        "tokenizer.json: the pre-tokeniser or normaliser is not supported; supported are "
        f"{supported} (got {', '.join(got)})"
    )
