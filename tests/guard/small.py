"""A classifier of the shipped form with tiny random weights, and one that knows one word."""

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from fluvial.guard.classifier import ENCODER_FILE, FORM, ClassifierCheck
from fluvial.guard.encoder import HEADS, LAYERS, MARKS
from fluvial.guard.feature import HASH_ROWS

WORDS = (
    *MARKS,
    "how",
    "do",
    "i",
    "make",
    "a",
    "cake",
    "zorblax",
    "and",
    "##s",
    "the",
    "zor",
    "blax",
)
FORBIDDEN = "zorblax"
"""An invented thing: what the small classifier was made to know."""
HALVES = ("zor", "blax")
"""Harmless each, but not in a row."""
CATEGORIES = ("invented", "other")
WIDTH = 2 * HEADS


def write_classifier(folder: Path, **meta: str) -> Path:
    """Write weights under which a text is harmful when it holds FORBIDDEN."""
    path = folder / "classifier.safetensors"
    encoder = _make_encoder(len(WORDS))
    save_file(encoder, path.with_name(ENCODER_FILE))
    table = np.zeros((len(WORDS), 8), np.float32)
    table[WORDS.index(FORBIDDEN)] = 10
    for half in HALVES:
        table[WORDS.index(half)] = 4
    hidden = np.zeros((2 * 8 + 4 + 2 + 1, 3), np.float32)
    hidden[16:20, 0] = 1  # the convolution's peaks
    out = np.zeros((3, 1 + len(CATEGORIES)), np.float32)
    out[0] = (1, 1, 0)
    tensors = {
        "pieces_ND": table,
        "focus_NT": np.zeros((len(WORDS), 2), np.float32),
        "hashes_QE": np.zeros((HASH_ROWS, 2), np.float32),
        "filters_KF": np.ones((24, 4), np.float32),
        "filters_F": np.zeros(4, np.float32),
        "hidden_XH": hidden,
        "hidden_H": np.zeros(3, np.float32),
        "out_HC": out,
        "out_C": np.zeros(1 + len(CATEGORIES), np.float32),
        "support_SD": np.zeros((1, WIDTH), np.float32),
        "support_S": np.zeros(1, np.float32),
        "vocabulary": np.frombuffer("\n".join(WORDS).encode(), np.uint8),
    }
    heads = {name: {"offset": 200.0} for name in ("prompt", "words", "answer")}
    heads["prompt"] = {"offset": 20.0}  # a tenth of the network's, as the machine says 0
    known = {
        "form": FORM,
        "categories": json.dumps(CATEGORIES),
        "heads": json.dumps(heads),
        "machine": json.dumps({"bias": 0.0, "gamma": 1.5}),
        "encoder": hashlib.sha256(path.with_name(ENCODER_FILE).read_bytes()).hexdigest(),
    }
    save_file(tensors, path, known | meta)
    return path


def load_classifier(folder: Path) -> ClassifierCheck:
    return ClassifierCheck.load(write_classifier(folder))


def _make_encoder(rows: int) -> dict[str, np.ndarray]:
    chance = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return chance.normal(0, 0.1, shape).astype(np.float32)

    tensors = {"pieces": draw(rows, WIDTH), "places": draw(512, WIDTH), "kind": draw(WIDTH)}
    norms = ["embeddings.LayerNorm"]
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}."
        for name in ("attention.self.query", "attention.self.key", "attention.self.value"):
            tensors |= {f"{at}{name}.weight": draw(WIDTH, WIDTH), f"{at}{name}.bias": draw(WIDTH)}
        for name, size in (
            ("attention.output.dense", (WIDTH, WIDTH)),
            ("intermediate.dense", (WIDTH, 2 * WIDTH)),
            ("output.dense", (2 * WIDTH, WIDTH)),
        ):
            tensors |= {f"{at}{name}.weight": draw(*size), f"{at}{name}.bias": draw(size[1])}
        norms += [f"{at}attention.output.LayerNorm", f"{at}output.LayerNorm"]
    for name in norms:
        tensors |= {f"{name}.weight": np.ones(WIDTH, np.float32), f"{name}.bias": draw(WIDTH)}
    return tensors
