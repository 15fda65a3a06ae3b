"""Guard models: Llama Guard, Qwen3Guard-Gen and Granite Guardian, run by any engine.

Each of them carries the question that it was trained to answer in its own chat template: it is
given the conversation, and writes a verdict. Only the verdicts differ, and are read here, as the
model cards on huggingface.co/meta-llama, /Qwen and /ibm-granite describe them. What is no verdict
is a failure of the check, never a pass.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, final

from fluvial.errors import GuardError
from fluvial.guard.check import Finding, TextKind
from fluvial.guard.policy import DEFAULT_CATEGORY, ModelProvider
from fluvial.types import Message

VERDICT_TOKENS = 512
"""Room for a verdict; a model that thinks first needs most of it."""
CONTEXT_CHARS = 1000
SURE, UNSURE = 1.0, 0.5
Verdict = list[tuple[str, float]]
"""The model's own names of what is wrong with a text, each with a score; empty: nothing."""

LLAMA_GUARD = {
    "S1": "violence",
    "S2": "crime",
    "S3": "sexual",
    "S4": "sexual",
    "S5": "defamation",
    "S6": "advice",
    "S7": "privacy",
    "S8": "copyright",
    "S9": "weapons",
    "S10": "hate",
    "S11": "self_harm",
    "S12": "sexual",
    "S13": "elections",
    "S14": "code_abuse",
}
"""The hazards of Llama Guard 3, in our words."""
QWEN3_GUARD = {
    "Violent": "violence",
    "Non-violent Illegal Acts": "crime",
    "Sexual Content or Sexual Acts": "sexual",
    "PII": "privacy",
    "Suicide & Self-Harm": "self_harm",
    "Unethical Acts": "harm",
    "Politically Sensitive Topics": "politics",
    "Copyright Violation": "copyright",
    "Jailbreak": "jailbreak",
}
GRANITE_GUARDIAN = {"harm": "harm"}
"""Asked nothing in particular, it judges harm in general."""

_QWEN_SAFETY = re.compile(r"^\s*Safety:\s*(Safe|Unsafe|Controversial)\s*$", re.MULTILINE)
_QWEN_CATEGORIES = re.compile(r"^\s*Categories:\s*(.+?)\s*$", re.MULTILINE)
_GRANITE_SCORE = re.compile(r"<score>\s*(yes|no)\s*</score>", re.IGNORECASE)
_GRANITE_WORD = re.compile(r"\s*(yes|no)\b", re.IGNORECASE)
_GRANITE_CONFIDENCE = re.compile(r"<confidence>\s*(high|low)\s*</confidence>", re.IGNORECASE)


class Writer(Protocol):
    """A guard model that runs: it answers a conversation through its own template, greedily."""

    @property
    def sha256(self) -> str:
        """The digest of its weights."""
        ...

    def write(self, messages: Sequence[Message]) -> str:
        """Return the answer, of at most `VERDICT_TOKENS`; blocks.

        Raises a FluvialError when it fails or does not fit.
        """
        ...

    def close(self) -> None:
        """Free the model."""
        ...


def read_llama_guard(text: str) -> Verdict:
    """Read "safe", or "unsafe" and below it the hazards, such as "S1,S9"."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if lines == ["safe"]:
        return []
    if lines and lines[0] == "unsafe" and len(lines) <= 2:
        hazards = [part.strip() for part in lines[1].split(",")] if len(lines) == 2 else [""]
        return [(hazard, SURE) for hazard in hazards]
    raise GuardError("its answer is no verdict of Llama Guard")


def read_qwen3_guard(text: str) -> Verdict:
    """Read the lines "Safety: ..." and "Categories: ..."; controversial is half as sure."""
    safety = _QWEN_SAFETY.search(text)
    if safety is None:
        raise GuardError("its answer is no verdict of Qwen3Guard")
    if safety[1] == "Safe":
        return []
    named = _QWEN_CATEGORIES.search(text)
    names = [part.strip() for part in named[1].split(",")] if named else [""]
    score = SURE if safety[1] == "Unsafe" else UNSURE
    return [(name if name != "None" else "", score) for name in names]


def read_granite_guardian(text: str) -> Verdict:
    """Read "Yes" or "No", alone or in a score tag, perhaps after thoughts; and its confidence."""
    said = _GRANITE_SCORE.search(text) or _GRANITE_WORD.match(text)
    if said is None:
        raise GuardError("its answer is no verdict of Granite Guardian")
    if said[1].lower() == "no":
        return []
    confidence = _GRANITE_CONFIDENCE.search(text)
    unsure = confidence is not None and confidence[1].lower() == "low"
    return [("harm", UNSURE if unsure else SURE)]


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a family says its verdict, and its names for what is wrong, in our words."""

    read: Callable[[str], Verdict]
    categories: Mapping[str, str]


FORMATS = {
    "llama-guard": Format(read=read_llama_guard, categories=LLAMA_GUARD),
    "qwen3-guard": Format(read=read_qwen3_guard, categories=QWEN3_GUARD),
    "granite-guardian": Format(read=read_granite_guardian, categories=GRANITE_GUARDIAN),
}


@final
class GuardModelCheck:
    """Asks a guard model about a text as a whole. Safe to call from any thread."""

    def __init__(self, name: str, provider: ModelProvider, *, writer: Writer) -> None:
        """Ask `writer` as `provider` says; `name` is the check's in the policy, "model.NAME"."""
        self.name = name
        self._format = FORMATS[provider.format]
        self._categories = {**self._format.categories, **provider.categories}
        self._writer = writer
        parts = ["guard model 1", writer.sha256, provider.model_dump(mode="json")]
        self.sha256 = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def find(self, text: str, *, kind: TextKind, context: str = "") -> list[Finding]:
        """Return what the model says is wrong with `text`; an answer is judged with its question.

        Raises GuardError when the model fails, or says what is no verdict.
        """
        if not text.strip():
            return []
        messages = [Message(role="user", content=text)]
        if kind == "answer":
            question = context[-CONTEXT_CHARS:].strip() or "-"
            asked = Message(role="user", content=question)
            messages = [asked, Message(role="assistant", content=text)]
        verdict = self._format.read(self._writer.write(messages))
        return [
            Finding(
                category=self._categories.get(name, DEFAULT_CATEGORY), score=score, check=self.name
            )
            for name, score in verdict
        ]

    def close(self) -> None:
        """Free the model."""
        self._writer.close()
