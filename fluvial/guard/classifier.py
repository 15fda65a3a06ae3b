"""The classifier that ships: reads a prompt or an answer, gives each category a probability.

Two readers. A small network over word pieces (two learned averages and a convolution of width 3,
hashed pairs of words, one hidden layer) reads everything, in a fraction of a millisecond. English
prompts are also read by MiniLM at 8 bits with a support vector machine on top, once a prompt:
slower and much surer. Chinese prompts are read by it too, as the English words of their meanings
(`gloss.py`), with a machine of their own. All need no hub and run in numpy on one core. A score of
0.5 is the threshold that `calibrate.py` found. It judges form and words, not truth: what it can't
do stands in docs/safety.md.
"""

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from fluvial.errors import GuardError
from fluvial.guard.check import Finding, TextKind
from fluvial.guard.encoder import Encoder
from fluvial.guard.feature import (
    MAX_SPOTS,
    MAX_WINDOWS,
    SPOT_WORDS,
    Features,
    Vocabulary,
    cut_spots,
    cut_windows,
    is_chinese,
    split_words,
)
from fluvial.guard.gloss import may_be_pinyin, open_dictionary
from fluvial.guard.normal import Reading, normalise, read_otherwise

WEIGHTS = Path(__file__).with_name("weights") / "classifier.safetensors"
ENCODER_FILE = "minilm.safetensors"
"""Beside the classifier's own file."""
NETWORK_SHARE = 0.1
"""What the network adds to the machine's margin."""
MAX_FILE_BYTES = 64 * 2**20
FORM = "fluvial-guard-classifier-1"
BARE_CHARS = 12
CONTEXT_CHARS = 600
"""So much of what was said before is read together with a prompt."""
MAX_CHARS = 1_000_000
"""Longer texts are refused with GuardError: nothing may pass unseen."""
LEAST_SCORE = 0.05
"""Scores under this are no findings."""

Array = NDArray[np.float32]


HeadName = Literal["prompt", "words", "answer", "chinese"]
"""How a score came about: both readers on a prompt; the network alone on one; on an answer; the
machine for Chinese on a prompt's meanings."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """How logits become scores: `offset` is the threshold, as a logit; `slope` the steepness."""

    offset: float
    slope: float = 1.0

    def place(self, logit: float) -> float:
        """Return a logit that is 0 at the threshold."""
        return self.slope * (logit - self.offset)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A support vector machine with a Gaussian kernel on MiniLM's vectors: S vectors of width D."""

    encoder: Encoder
    support_SD: Array
    weight_S: Array
    bias: float
    gamma: float

    def judge(self, pieces: Sequence[int]) -> float:
        """Return the margin of one text."""
        vector_D = self.encoder.embed([pieces])[0]
        distance_S = ((self.support_SD - vector_D) ** 2).sum(1)
        return float(np.exp(-self.gamma * distance_S) @ self.weight_S + self.bias)


@dataclass(frozen=True, kw_only=True)
class Network:
    """The weights. N_D pieces, Q_E hashes, F filters, H hidden, C categories."""

    pieces_ND: Array
    focus_NT: Array
    hashes_QE: Array
    filters_KF: Array
    filters_F: Array
    hidden_XH: Array
    hidden_H: Array
    out_HC: Array
    out_C: Array

    def run(self, features: Features, *, kind: TextKind) -> Array:
        """Return the logits of one window: harmful or not first, then the categories'."""
        each_LD = self.pieces_ND[features.pieces]
        focus_LT = self.focus_NT[features.pieces]
        weight_LT = np.exp(focus_LT - focus_LT.max(0))
        means = ((weight_LT / weight_LT.sum(0)).T @ each_LD).ravel()
        edge = np.zeros((1, each_LD.shape[1]), np.float32)
        padded = np.concatenate([edge, each_LD, edge])
        triples_LK = np.concatenate([padded[:-2], padded[1:-1], padded[2:]], axis=1)
        peaks_F = np.maximum(triples_LK @ self.filters_KF + self.filters_F, 0).max(0)
        hashes = self.hashes_QE[features.hashes]
        pairs_E = hashes.sum(0) / np.sqrt(max(1, len(features.hashes)))
        is_answer = np.asarray([kind == "answer"], np.float32)
        input_X = np.concatenate([means, peaks_F, pairs_E, is_answer])
        hidden_H = np.maximum(input_X @ self.hidden_XH + self.hidden_H, 0)
        return cast(Array, hidden_H @ self.out_HC + self.out_C)


@dataclass(frozen=True, kw_only=True)
class ClassifierCheck:
    """Find what a text asks for or gives that it should not, by category.

    The likeliest category carries the score that the text is harmful at all; others follow in
    proportion. Immutable; safe to call from any thread.
    """

    network: Network
    machine: Machine
    chinese: Machine | None
    vocabulary: Vocabulary
    categories: Sequence[str]
    heads: dict[HeadName, Head]
    sha256: str
    about: dict[str, Any] = field(default_factory=dict[str, Any])
    name: str = "classifier"

    @classmethod
    def load(cls, path: Path | None = None) -> Self:
        """Open the weights that ship, or those at `path`. Raises GuardError when unsound."""
        path = path or WEIGHTS
        try:
            return cls._read(path)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise GuardError(f"{path} is no classifier of the guard: {error}") from None

    @classmethod
    def _read(cls, path: Path) -> Self:
        tensors, meta = _open(path)
        if meta.get("form") != FORM:
            raise ValueError(f"its form is {meta.get('form')!r}, not {FORM!r}")
        encoder_path = path.with_name(ENCODER_FILE)
        encoder_sha256 = hashlib.sha256(encoder_path.read_bytes()).hexdigest()
        if encoder_sha256 != meta["encoder"]:
            raise ValueError(f"{encoder_path} has sha256 {encoder_sha256}, not {meta['encoder']}")
        words = tensors.pop("vocabulary").tobytes().decode("utf-8").split("\n")
        wide = _widen(tensors)
        machine = Machine(
            encoder=Encoder(tensors=_widen(_open(encoder_path)[0])),
            support_SD=wide.pop("support_SD"),
            weight_S=wide.pop("support_S"),
            **json.loads(meta["machine"]),
        )
        chinese = None
        if "chinese" in meta:
            kept = json.loads(meta["chinese"])
            if kept.pop("dictionary") != open_dictionary().sha256:
                raise ValueError("they were made with another dictionary of Chinese")
            chinese = Machine(
                encoder=machine.encoder,
                support_SD=wide.pop("chinese_SD"),
                weight_S=wide.pop("chinese_S"),
                **kept,
            )
        network = Network(**wide)
        if len(words) != len(network.pieces_ND):
            raise ValueError("its vocabulary and its table of pieces differ in length")
        heads = cast("dict[HeadName, dict[str, float]]", json.loads(meta["heads"]))
        return cls(
            network=network,
            machine=machine,
            chinese=chinese,
            vocabulary=Vocabulary({word: row for row, word in enumerate(words)}),
            categories=tuple(json.loads(meta["categories"])),
            heads={name: Head(**head) for name, head in heads.items()},
            sha256=hashlib.sha256(path.read_bytes() + encoder_sha256.encode()).hexdigest(),
            about=json.loads(meta.get("about", "{}")),
        )

    def find(self, text: str, *, kind: TextKind, context: str = "") -> list[Finding]:
        """Return the categories that a text falls into, the likeliest first.

        A prompt is also read together with the end of `context`, so that what is split over turns
        is seen, unless what was said before already falls into one alone.
        """
        if is_bare(text):
            scores = dict.fromkeys(self.categories, 0.0)
        else:
            scores = self.score(text, kind=kind)
        if kind == "prompt" and context.strip():
            before = context[-CONTEXT_CHARS:]
            if max(self.score(before, kind=kind).values()) < 0.5:
                joined = self.score(f"{before}\n{text}", kind=kind)
                scores = {name: max(scores[name], joined[name]) for name in scores}
        found = [
            Finding(category=name, score=score, check=self.name)
            for name, score in scores.items()
            if score >= LEAST_SCORE
        ]
        return sorted(found, key=lambda each: -each.score)

    def score(self, text: str, *, kind: TextKind) -> dict[str, float]:
        """Return each category's score, 0 to 1: the most that any reading of the text gives it.

        Raises GuardError for a text over MAX_CHARS.
        """
        placed = [
            (self.heads[name].place(float(logits[0])), logits)
            for name, logits in self.measure(text, kind=kind).items()
        ]
        place, logits = max(placed, key=lambda each: each[0])
        shares = np.exp(logits[1:] - logits[1:].max())
        return {
            name: _squash(place) * float(share)
            for name, share in zip(self.categories, shares, strict=True)
        }

    def measure(self, text: str, *, kind: TextKind) -> dict[HeadName, Array]:
        """Return each head's logits (harmful first, then categories) where it finds it worst."""
        if len(text) > MAX_CHARS:
            raise GuardError(f"the text has {len(text):,} characters; at most {MAX_CHARS:,} fit")
        plain = normalise(text)
        found: dict[HeadName, list[Array]] = {}
        for reading in (plain, *read_otherwise(plain)):
            words = self._split(reading)
            is_surer = kind == "prompt" and not is_chinese(words)
            meanings = self._gloss(words) if kind == "prompt" else None
            if not (is_surer or meanings) or len(words) > MAX_SPOTS * SPOT_WORDS:
                name: HeadName = "answer" if kind == "answer" else "words"
                windows = cut_windows(words)[:MAX_WINDOWS]
                found.setdefault(name, []).extend(_run(self, each, kind) for each in windows)
            if is_surer:
                found.setdefault("prompt", []).extend(_judge(self, at) for at in cut_spots(words))
            if meanings:
                first = cut_windows(words)[0]
                spots = cut_spots(meanings)
                found.setdefault("chinese", []).extend(_weigh(self, at, first) for at in spots)
        return {
            name: max(each, key=lambda logits: float(logits[0])) for name, each in found.items()
        }

    def _gloss(self, words: Sequence[str]) -> list[str] | None:
        """Return what Chinese or pinyin means, None where it is neither."""
        if self.chinese is None:
            return None
        if is_chinese(words):
            return open_dictionary().gloss(words)
        if not may_be_pinyin(words):
            return None
        spoken = open_dictionary().read_pinyin(words)
        return None if spoken is None else open_dictionary().gloss(spoken)

    def _split(self, reading: Reading) -> list[str]:
        words = split_words(reading.text)
        if "spaced" in reading.kind:
            words = [part for word in words for part in self._part(word)]
        return words

    def _part(self, word: str) -> list[str]:
        is_known = len(word) < 4 or word in self.vocabulary.rows or not word.isascii()
        return [word] if is_known or not word.isalpha() else self.vocabulary.part(word)

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClassifierCheck) and other.sha256 == self.sha256


def is_bare(text: str) -> bool:
    """Tell whether a text is one short plain word, which says too little to be judged alone."""
    word = text.strip(" .,!?\n")
    return len(word) <= BARE_CHARS and word.isascii() and (word.isalnum() or not word)


@functools.lru_cache(maxsize=4096)
def _run(check: ClassifierCheck, window: tuple[str, ...], kind: TextKind) -> Array:
    """Read one window. Kept, since a growing answer shows the same windows again and again."""
    return check.network.run(check.vocabulary.read(window), kind=kind)


@functools.lru_cache(maxsize=1024)
def _judge(check: ClassifierCheck, spot: tuple[str, ...]) -> Array:
    """Read a short piece of a prompt with both; the categories are the network's."""
    logits = _run(check, spot, "prompt").copy()
    margin = check.machine.judge(check.vocabulary.read(spot).pieces)
    logits[0] = margin + NETWORK_SHARE * logits[0]
    return logits


@functools.lru_cache(maxsize=1024)
def _weigh(check: ClassifierCheck, spot: tuple[str, ...], window: tuple[str, ...]) -> Array:
    """Read the meanings of a Chinese prompt; the categories are the network's."""
    logits = _run(check, window, "prompt").copy()
    if check.chinese is not None:
        logits[0] = check.chinese.judge(check.vocabulary.read(spot).pieces)
    return logits


def _open(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{path} is {size:,} bytes long; at most {MAX_FILE_BYTES:,} are read")
    with safe_open(path, framework="numpy") as file:
        meta = cast("dict[str, str]", file.metadata() or {})
        return {name: np.asarray(file.get_tensor(name)) for name in file.keys()}, meta  # noqa: SIM118


def _widen(tensors: dict[str, NDArray[Any]]) -> dict[str, Array]:
    """Return all tensors as float32; int8 ones have a scale for each row beside them."""
    wide: dict[str, Array] = {}
    for name, tensor in tensors.items():
        if name.endswith(".scale"):
            continue
        value = tensor.astype(np.float32)
        if tensor.dtype == np.int8:
            value *= tensors[f"{name}.scale"].astype(np.float32)[:, None]
        if not np.isfinite(value).all():
            raise ValueError(f"tensor {name} holds a number that is none")
        wide[name] = value
    return wide


def _squash(logit: float) -> float:
    return float(1 / (1 + np.exp(-np.clip(logit, -50, 50))))
