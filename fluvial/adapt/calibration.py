"""First factors, and leeways, that keep what reading changes away from what a model always does.

With B alone learned, an adapter changes W by `B A^T`: it acts in proportion to how strongly its
first factors see an input. Random ones see most the few directions that all inputs share, so what a
text taught shows in every answer. These are random ones, whitened by the second moment C of each
linear's inputs in neutral conversations, `A = (C + damping * mean(C))^(-1/2) R`, and then as large
as before on other neutral text. So it is with outputs: the more the loss in these conversations
depends on one (F, the mean square of its gradients), the less leeway B has to move it. Letters:
n tokens, i inputs, o outputs, r rank.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fluvial.adapt.drift import PROBE_TOKENS
from fluvial.adapt.learner import Learner
from fluvial.adapt.probe import load_probe
from fluvial.errors import LearnerError
from fluvial.model.adapter import Adaptable, Tensors, create_tensors, list_shapes
from fluvial.model.basis import Bases, Basis
from fluvial.model.opening import AnyCheckpoint, choose_first_token, open_template
from fluvial.model.template import Template
from fluvial.model.tokenizer import Tokenizer
from fluvial.types import Message

DAMPING = 0.3
LEEWAY_DAMPING = 0.1
EXAMPLES_FILE = Path(__file__).with_name("calibration.toml")
MOST_TOKENS = 1024
SEQUENCE_TOKENS = 256
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
MeasureInputs = Callable[[Sequence[int]], Mapping[str, Floats]]
"""Returns what each linear is given for a text, float32 [n, i]."""
MeasureSlopes = Callable[[Sequence[int]], Mapping[str, Floats]]
"""Returns how much the loss on a text depends on each output of a linear, float32 [o]."""


def ensure_basis(
    learner: Learner,
    checkpoint: AnyCheckpoint,
    *,
    bases: Bases,
    tokenizer: Tokenizer,
    again: bool = False,
) -> Basis | None:
    """Let a learner's new sessions stand on the basis of its checkpoint, and return it.

    It is made where neither its folder nor the package has one, or `again`; None where the
    checkpoint only runs in float32.
    Raises LearnerError and StorageError.
    """
    if learner.measure_inputs is None:
        return None
    rule, declaration = learner.rule, checkpoint.declaration
    shapes = list_shapes(declaration, rank=rule.rank)
    shapes = {name: shape for name, shape in shapes.items() if name.endswith(".a")}
    basis = None if again else bases.find(shapes, checkpoint=checkpoint.sha256)
    if basis is None and not again:
        bases.ship(checkpoint=checkpoint.sha256)
        basis = bases.find(shapes, checkpoint=checkpoint.sha256)
    if basis is None:
        talks = load_examples(tokenizer=tokenizer, template=open_template(checkpoint))
        longest = min(SEQUENCE_TOKENS, rule.window_tokens)
        tensors = calibrate(
            declaration,
            conversations=talks,
            neutral=[choose_first_token(tokenizer), *tokenizer.encode(load_probe())[PROBE_TOKENS:]],
            measure=learner.measure_inputs,
            rank=rule.rank,
            seed=rule.seed,
            longest=longest,
        )
        leeways = find_leeways(talks, measure=learner.measure_slopes, longest=longest)
        basis = bases.save(tensors, leeways=leeways, checkpoint=checkpoint.sha256)
    learner.stand_on(basis)
    return basis


def calibrate(
    declaration: Adaptable,
    *,
    conversations: Sequence[Sequence[int]],
    neutral: Sequence[int],
    measure: MeasureInputs,
    rank: int,
    seed: int,
    longest: int = SEQUENCE_TOKENS,
) -> Tensors:
    """Return first factors by name, float32 [i, r].

    `conversations` are whitened by, up to 1,024 tokens of them, measured in pieces of at most
    `longest`; on the text `neutral` the factors stay as large as those drawn from `seed`.
    """
    drawn = create_tensors(declaration, rank=rank, seed=seed)
    talks = _gather(_take(conversations, longest=longest), measure)
    plain = _gather(_take([neutral], longest=longest), measure)
    return {
        f"{name}.a": _whiten(drawn[f"{name}.a"].astype(np.float64), talks[name], plain[name])
        for name in talks
    }


def find_leeways(
    conversations: Sequence[Sequence[int]],
    *,
    measure: MeasureSlopes,
    longest: int = SEQUENCE_TOKENS,
) -> Tensors:
    """Return how far each output may move, relative to the others, by group, float32 [o].

    Leeways are `(F + damping * mean(F))^(-1/2)`, and one in the root of their mean square.
    """
    found: dict[str, list[Floats]] = {}
    for text in _take(conversations, longest=longest):
        for name, slopes in measure(text).items():
            found.setdefault(name, []).append(slopes)
    return {
        name: _give_leeway(np.stack(parts).astype(np.float64).mean(axis=0))
        for name, parts in found.items()
    }


def load_examples(*, tokenizer: Tokenizer, template: Template) -> list[list[int]]:
    """Return the neutral conversations that belong to the package, in the model's form.

    Raises LearnerError when the file is missing or damaged.
    """
    try:
        examples = tomllib.loads(EXAMPLES_FILE.read_text("utf-8"))["example"]
    except (OSError, ValueError, KeyError) as error:
        raise LearnerError(f"{EXAMPLES_FILE} can't be read ({error}); install again") from None
    return [_encode(each, tokenizer=tokenizer, template=template) for each in examples]


def _encode(example: Mapping[str, str], *, tokenizer: Tokenizer, template: Template) -> list[int]:
    question = [Message(role="user", content=example["user"])]
    return [
        *template.encode(question, tokenizer=tokenizer),
        *tokenizer.encode(example["assistant"]),
    ]


def _take(texts: Sequence[Sequence[int]], *, longest: int) -> list[Sequence[int]]:
    """Cut texts into pieces of 2 to `longest` tokens, up to 1,024 tokens of them."""
    pieces = [
        text[start : start + longest] for text in texts for start in range(0, len(text), longest)
    ]
    taken: list[Sequence[int]] = []
    left = MOST_TOKENS
    for piece in pieces:
        if len(piece[:left]) > 1:
            taken.append(piece[:left])
            left -= len(taken[-1])
    return taken


def _gather(texts: Sequence[Sequence[int]], measure: MeasureInputs) -> dict[str, Doubles]:
    """Return the inputs for all texts, without those of their first tokens, [n, i]."""
    found: dict[str, list[Floats]] = {}
    for text in texts:
        for name, inputs in measure(text).items():
            # The first token of a text is unlike all others, many times as large.
            found.setdefault(name, []).append(inputs[1:])
    return {name: np.concatenate(parts, dtype=np.float64) for name, parts in found.items()}


def _whiten(random_IR: Doubles, talk_NI: Doubles, plain_NI: Doubles) -> Floats:
    """Return whitened factors that see `plain` as strongly as the random ones do."""
    # With few tokens C has few directions: outside of these it is zero, and only damping counts.
    moments_K, directions_IK = _decompose(talk_NI)
    damping = DAMPING * float(moments_K.sum()) / len(random_IR)
    inside_K = (moments_K + damping) ** -0.5 - damping**-0.5
    white_IR = damping**-0.5 * random_IR
    white_IR += directions_IK @ (inside_K[:, None] * (directions_IK.T @ random_IR))
    scale = np.linalg.norm(plain_NI @ random_IR) / np.linalg.norm(plain_NI @ white_IR)
    # As half as many bytes hold it: it is random anyhow.
    return (scale * white_IR).astype(np.float16).astype(np.float32)


def _give_leeway(slopes_O: Doubles) -> Floats:
    mean = float(slopes_O.mean()) or 1.0  # one without any slope may move freely
    leeway_O = (slopes_O / mean + LEEWAY_DAMPING) ** -0.5
    leeway_O /= np.sqrt(np.mean(leeway_O**2))
    return leeway_O.astype(np.float16).astype(np.float32)


def _decompose(x_NI: Doubles) -> tuple[Doubles, Doubles]:
    """Return the second moment's eigenvalues [k] and directions [i, k], k the less of n and i."""
    if len(x_NI) >= x_NI.shape[1]:
        moments_K, directions_IK = np.linalg.eigh(x_NI.T @ x_NI / len(x_NI))
        return moments_K.clip(min=0), directions_IK
    # The other way round is smaller, and has the same eigenvalues.
    moments_K, sides_NK = np.linalg.eigh(x_NI @ x_NI.T / len(x_NI))
    seen = moments_K > 1e-9 * moments_K.max()
    moments_K, sides_NK = moments_K[seen], sides_NK[:, seen]
    return moments_K, x_NI.T @ sides_NK / np.sqrt(len(x_NI) * moments_K)
