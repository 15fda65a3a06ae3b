"""Train the classifier that ships: a teacher on sentence embeddings, then the small network.

The teacher is a support vector machine on MiniLM's embeddings of the labelled texts; it ships too,
for English prompts. The network starts from MiniLM's vectors of single word pieces. It learns the
labels, what the teacher says of the English ones, and what it says of unlabelled recombinations:
acts put in other forms, verbs with other objects. So what the teacher knows of words that no label
mentions reaches the network.
Torch is used here only; what ships runs in numpy. The same data and seed give the same weights on
one machine with one thread.
"""

import hashlib
import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor, nn
from torch.nn import functional as fn

from fluvial.guard.classifier import ENCODER_FILE, FORM
from fluvial.guard.corpus import DATA, Text
from fluvial.guard.encoder import Encoder
from fluvial.guard.feature import (
    HASH_ROWS,
    Features,
    Vocabulary,
    cut_spots,
    cut_windows,
    split_words,
)
from fluvial.guard.gloss import open_dictionary
from fluvial.guard.normal import normalise

WIDTH = 64
FOCI = 2
HASH_WIDTH = 32
FILTERS = 96
HIDDEN = 64
EPOCHS = 5
BATCH_TEXTS = 64
RECOMBINED = 3000
TEACHER_SHARE = 0.5
"""How much of the target of a labelled English text is the teacher's."""
TEACHER_SLOPE = 2.5
GAMMA = 1.5
CATEGORY_WEIGHT = 0.3
Note = Callable[[str], None]
_KEPT_PIECE = re.compile(r"(?:##)?[a-z0-9]+|(?:##)?[\u4e00-\u9fff]|[!-~]|[，。！？、：；（）“”]")
_OPENING = re.compile(
    r"(?:please |can you |could you )?(?:(?:write|create|develop|provide|give|make|design|teach"
    r"|explain|describe|outline|offer|produce|generate|publish|show|tell|list|instruct|suggest)\b"
    r".{0,80}?\b(?:how to|to|that|for|on|which)\b|how (?:do|can|to|did|will|would|could|might)\b"
    r"(?: (?:i|one|you|people|someone|individuals|they)\b)?)\s+",
    re.I,
)


@dataclass(frozen=True, kw_only=True)
class Example:
    """What the network learns from one text; `category` is -1 where it has none to learn."""

    features: Features
    target: float
    category: int
    is_answer: bool


class Guardian(nn.Module):
    """The network of `classifier.py`, in torch. Row 0 of each table is shared with padding."""

    def __init__(self, pieces_ND: NDArray[np.float32], *, categories: int) -> None:
        super().__init__()
        rows, width = pieces_ND.shape
        self.pieces = nn.Embedding.from_pretrained(torch.tensor(pieces_ND), freeze=False)
        self.focus = nn.Embedding(rows, FOCI)
        nn.init.zeros_(self.focus.weight)
        self.hashes = nn.Embedding(HASH_ROWS, HASH_WIDTH)
        nn.init.normal_(self.hashes.weight, std=0.05)
        self.filters = nn.Conv1d(width, FILTERS, 3, padding=1)
        self.hidden = nn.Linear(FOCI * width + FILTERS + HASH_WIDTH + 1, HIDDEN)
        self.out = nn.Linear(HIDDEN, 1 + categories)

    def forward(self, batch: "Batch") -> Tensor:
        """Return logits [B, 1 + C]."""
        real = batch.piece_mask
        each = self.pieces(batch.pieces) * real[..., None]
        weight = self.focus(batch.pieces).masked_fill(~real[..., None], -1e4).softmax(1)
        means = torch.einsum("blt,bld->btd", weight, each).flatten(1)
        peaks = fn.relu(self.filters(fn.dropout(each, 0.1, self.training).transpose(1, 2)))
        peaks = peaks.masked_fill(~real[:, None], 0).amax(2)
        pairs = (self.hashes(batch.hashes) * batch.hash_mask[..., None]).sum(1)
        pairs = pairs / batch.hash_mask.sum(1, keepdim=True).clamp(min=1).sqrt()
        joined = torch.cat([means, peaks, pairs, batch.is_answer[:, None]], 1)
        hidden = fn.relu(self.hidden(fn.dropout(joined, 0.3, self.training)))
        return self.out(fn.dropout(hidden, 0.2, self.training))


@dataclass(frozen=True, kw_only=True)
class Batch:
    pieces: Tensor
    piece_mask: Tensor
    hashes: Tensor
    hash_mask: Tensor
    is_answer: Tensor
    target: Tensor
    category: Tensor

    @classmethod
    def of(cls, examples: Sequence[Example]) -> "Batch":
        pieces, piece_mask = _pad([each.features.pieces for each in examples])
        hashes, hash_mask = _pad([each.features.hashes for each in examples])
        return cls(
            pieces=pieces,
            piece_mask=piece_mask,
            hashes=hashes,
            hash_mask=hash_mask,
            is_answer=torch.tensor([float(each.is_answer) for each in examples]),
            target=torch.tensor([each.target for each in examples]),
            category=torch.tensor([each.category for each in examples]),
        )


def _pad(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    longest = max(1, *map(len, rows))
    padded = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    mask = torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in rows])
    return padded, mask


class _Machine(Protocol):
    def decision_function(self, data: NDArray[np.float32]) -> NDArray[np.float64]: ...


def train(
    texts: Sequence[Text],
    *,
    categories: Sequence[str],
    encoder: Encoder,
    vocabulary: Vocabulary,
    note: Note,
    seed: int = 0,
) -> "Trained":
    """Return the network and the machine. Sets torch's seed and threads."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    pieces_ND = _make_table(encoder, len(vocabulary.rows), note)
    machine, examples = _make_examples(texts, categories, vocabulary, encoder, note, seed)
    chinese = train_chinese(texts, encoder=encoder, vocabulary=vocabulary, note=note)
    model = Guardian(pieces_ND, categories=len(categories))
    _fit(model, examples, note, seed)
    return Trained(
        model=model.eval(),
        machine=machine,
        chinese=chinese,
        vocabulary=vocabulary,
        categories=categories,
    )


def train_chinese(
    texts: Sequence[Text], *, encoder: Encoder, vocabulary: Vocabulary, note: Note
) -> Any:
    """Return the machine for the meanings of Chinese prompts, None where there are none."""
    chinese = [each for each in texts if each.kind == "prompt" and each.language == "zh"]
    labels = [each.label for each in chinese]
    if len(set(labels)) < 2:
        return None
    note(f"reading the meanings of {len(chinese):,} Chinese texts")
    meanings = [open_dictionary().gloss(split_words(normalise(each.text).text)) for each in chinese]
    vectors = encoder.embed([vocabulary.read(cut_spots(each)[0]).pieces for each in meanings])
    return _make_machine(vectors, labels)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training leaves, before its thresholds are chosen."""

    model: Guardian
    machine: Any
    chinese: Any
    vocabulary: Vocabulary
    categories: Sequence[str]


def save(
    trained: Trained, path: Path, *, heads: dict[str, dict[str, float]], about: dict[str, Any]
) -> None:
    """Write the classifier: tables as int8 with a scale for each row, the rest as float16.

    The encoder must lie beside it already: its digest goes into the file.
    """
    model, machine = trained.model, trained.machine
    filters = model.filters.weight.detach().permute(2, 1, 0).reshape(-1, FILTERS)
    dense: dict[str, Any] = {
        "focus_NT": _to_numpy(model.focus.weight),
        "filters_KF": _to_numpy(filters),
        "filters_F": _to_numpy(cast(Tensor, model.filters.bias)),
        "hidden_XH": _to_numpy(model.hidden.weight.T),
        "hidden_H": _to_numpy(model.hidden.bias),
        "out_HC": _to_numpy(model.out.weight.T),
        "out_C": _to_numpy(model.out.bias),
    }
    tensors: dict[str, NDArray[Any]] = {
        name: value.astype(np.float16) for name, value in dense.items()
    }
    tensors["support_S"] = machine.dual_coef_[0].astype(np.float32)
    tensors |= _narrow("support_SD", machine.support_vectors_)
    tensors |= _narrow("pieces_ND", _to_numpy(model.pieces.weight))
    tensors |= _narrow("hashes_QE", _to_numpy(model.hashes.weight))
    if trained.chinese is not None:
        tensors["chinese_S"] = trained.chinese.dual_coef_[0].astype(np.float32)
        tensors |= _narrow("chinese_SD", trained.chinese.support_vectors_)
    words = "\n".join(trained.vocabulary.rows).encode("utf-8")
    tensors["vocabulary"] = np.frombuffer(words, np.uint8)
    encoder = path.with_name(ENCODER_FILE).read_bytes()
    meta = {
        "form": FORM,
        "categories": json.dumps(list(trained.categories)),
        "heads": json.dumps(heads),
        "machine": json.dumps(_describe(machine)),
        "encoder": hashlib.sha256(encoder).hexdigest(),
        "about": json.dumps(about, sort_keys=True),
    }
    if trained.chinese is not None:
        kept = {**_describe(trained.chinese), "dictionary": open_dictionary().sha256}
        meta["chinese"] = json.dumps(kept)
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path, meta)


def _describe(machine: Any) -> dict[str, float]:
    return {"bias": float(machine.intercept_[0]), "gamma": GAMMA}


def save_encoder(encoder: Encoder, path: Path) -> None:
    """Write MiniLM: matrices as int8 with a scale for each row, the rest as float16."""
    tensors: dict[str, NDArray[Any]] = {}
    for name, value in encoder.tensors.items():
        wide = value.ndim == 2
        tensors |= _narrow(name, value) if wide else {name: value.astype(np.float16)}
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"source": "all-MiniLM-L6-v2, Apache-2.0, the sentence-transformers authors"}
    save_file(tensors, path, about)


def _narrow(name: str, value: NDArray[Any]) -> dict[str, NDArray[Any]]:
    scale = (np.abs(value).max(1) / 127).clip(1e-6).astype(np.float16)
    steps = np.round(value / scale.astype(np.float32)[:, None]).clip(-127, 127)
    return {name: steps.astype(np.int8), f"{name}.scale": scale}


def recombine(texts: Sequence[Text], *, seed: int = 0) -> list[str]:
    """Return unlabelled English texts: harmful and benign acts in other forms, verbs exchanged."""
    import tomllib

    chance = random.Random(seed)  # noqa: S311  (a choice of words, no secret)
    phrases = tomllib.loads((DATA / "phrase_en.toml").read_text("utf-8"))
    forms: list[str] = phrases["forms"]
    benign: list[str] = [*phrases["acts"], *phrases["edgy"]]
    harmful = [act for each in texts if (act := _read_act(each)) is not None]
    found = [form.format(act=act) for act in harmful for form in chance.sample(forms, 2)]
    found += [form.format(act=act) for act in benign for form in chance.sample(forms, 4)]
    for _ in range(RECOMBINED if harmful else 0):
        verb, object_ = chance.choice(harmful), chance.choice(benign)
        if chance.random() < 0.5:
            verb, object_ = object_, verb
        act = f"{verb.split(' ')[0]} {object_.partition(' ')[2]}"
        found.append(chance.choice(forms).format(act=act))
    return sorted({each for each in found if len(each) < 400})


def _read_act(text: Text) -> str | None:
    """Return what a harmful request asks to do, without its form."""
    if text.label == 0 or text.kind == "answer" or text.language != "en" or len(text.text) > 200:
        return None
    opening = _OPENING.match(text.text)
    act = text.text[opening.end() :].rstrip(".?! ") if opening else ""
    return act if " " in act and "{" not in act else None


def keep_piece(piece: str) -> bool:
    """Tell whether a piece of BERT's vocabulary is for English or Chinese."""
    return _KEPT_PIECE.fullmatch(piece) is not None


def _make_table(encoder: Encoder, count: int, note: Note) -> NDArray[np.float32]:
    """Return MiniLM's vectors of the word pieces, in few dimensions."""
    note(f"reading the vectors of {count:,} word pieces")
    vectors = encoder.embed_pieces(count)
    vectors -= vectors.mean(0)
    _, _, directions = np.linalg.svd(vectors[::3], full_matrices=False)
    table = vectors @ directions[:WIDTH].T
    return (0.5 * table / table.std()).astype(np.float32)


def _make_examples(
    texts: Sequence[Text],
    categories: Sequence[str],
    vocabulary: Vocabulary,
    encoder: Encoder,
    note: Note,
    seed: int,
) -> tuple[Any, list[Example]]:
    english = [each for each in texts if each.kind == "prompt" and each.language == "en"]
    extra = recombine(texts, seed=seed)
    note(f"reading {len(english):,} labelled and {len(extra):,} recombined texts with the teacher")
    vectors = encoder.embed(
        [_cut_first(text, vocabulary) for text in [*(each.text for each in english), *extra]],
        report=lambda done, total: note(f"{done:,} of {total:,}"),
    )
    machine = _make_machine(vectors[: len(english)], [each.label for each in english])
    margins = cast(_Machine, machine).decision_function(vectors)
    said = 1 / (1 + np.exp(-TEACHER_SLOPE * margins))
    taught = {id(each): float(value) for each, value in zip(english, said, strict=False)}
    names = {name: number for number, name in enumerate(categories)}
    found = [
        Example(
            features=_read(each.text, vocabulary),
            target=_mix(each.label, taught.get(id(each))),
            category=names.get(each.category, -1) if each.label else -1,
            is_answer=each.kind == "answer",
        )
        for each in texts
    ]
    return machine, found + [
        Example(features=_read(text, vocabulary), target=float(value), category=-1, is_answer=False)
        for text, value in zip(extra, said[len(english) :], strict=True)
    ]


def _cut_first(text: str, vocabulary: Vocabulary) -> Sequence[int]:
    """Return the pieces that the machine reads of a text in training: its first spot's."""
    return vocabulary.read(cut_spots(split_words(normalise(text).text))[0]).pieces


def _make_machine(vectors: NDArray[np.float32], labels: Sequence[int]) -> Any:
    from sklearn.svm import SVC

    machine = SVC(C=3, gamma=cast(Any, GAMMA), class_weight="balanced")
    machine.fit(vectors, labels)
    return machine


def _mix(label: int, taught: float | None) -> float:
    return float(label) if taught is None else (1 - TEACHER_SHARE) * label + TEACHER_SHARE * taught


def _read(text: str, vocabulary: Vocabulary) -> Features:
    return vocabulary.read(cut_windows(split_words(normalise(text).text))[0])


def _fit(model: Guardian, examples: Sequence[Example], note: Note, seed: int) -> None:
    rest = [each for name, each in model.named_parameters() if name != "pieces.weight"]
    groups = [{"params": [model.pieces.weight], "lr": 5e-4}, {"params": rest, "lr": 2e-3}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    chance = random.Random(seed)  # noqa: S311  (an order of texts, no secret)
    for epoch in range(EPOCHS):
        losses = [_step(model, optimizer, batch) for batch in _cut_batches(examples, chance)]
        note(f"epoch {epoch + 1} of {EPOCHS}: loss {np.mean(losses):.4f}")


def _cut_batches(examples: Sequence[Example], chance: random.Random) -> list[list[Example]]:
    """Return batches of texts of like length, in a random order."""
    order = list(examples)
    chance.shuffle(order)
    size = max(1, len(order) // 8)
    found: list[list[Example]] = []
    for start in range(0, len(order), size):
        part = sorted(order[start : start + size], key=lambda each: len(each.features.pieces))
        found += [part[at : at + BATCH_TEXTS] for at in range(0, len(part), BATCH_TEXTS)]
    chance.shuffle(found)
    return found


def _step(model: Guardian, optimizer: torch.optim.Optimizer, examples: Sequence[Example]) -> float:
    batch = Batch.of(examples)
    logits = model(batch)
    loss = fn.binary_cross_entropy_with_logits(logits[:, 0], batch.target)
    if (batch.category >= 0).any():
        named = fn.cross_entropy(logits[:, 1:], batch.category, ignore_index=-1)
        loss = loss + CATEGORY_WEIGHT * named
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def _to_numpy(value: Tensor) -> NDArray[np.float32]:
    return value.detach().float().numpy()
