"""Training learns an invented topic, and what it writes reads as what was trained."""

import numpy as np
import pytest

pytest.importorskip("torch")

from safetensors.numpy import load_file

from fluvial.guard import train as module
from fluvial.guard.check import TextKind
from fluvial.guard.classifier import ENCODER_FILE, ClassifierCheck
from fluvial.guard.corpus import Text
from fluvial.guard.encoder import Encoder
from fluvial.guard.feature import Vocabulary
from tests.guard.small import WORDS, write_classifier

CATEGORIES = ("invented", "other")


def text(words: str, label: int, kind: TextKind = "prompt") -> Text:
    category = "invented" if label else ""
    return Text(text=words, label=label, kind=kind, source="made", role="learn", category=category)


TEXTS = [
    text(f"{opening} {thing} {ending}", int(thing == "zorblax"), kind)
    for opening in ("how do i make a", "make the", "do make a", "how i make the")
    for thing in ("zorblax", "cake")
    for ending in ("", "and cake", "and a cake", "how", "do i")
    for kind in ("prompt", "answer")
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[module.Trained, ClassifierCheck]:
    folder = tmp_path_factory.mktemp("trained")
    encoder = Encoder(tensors=load_file(write_classifier(folder).with_name(ENCODER_FILE)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "recombine", lambda texts, seed: ["make the cake and a cake"])
        patch.setattr(module, "WIDTH", 8)
        patch.setattr(module, "EPOCHS", 15)
        done = module.train(
            TEXTS,
            categories=CATEGORIES,
            encoder=encoder,
            vocabulary=Vocabulary({word: row for row, word in enumerate(WORDS)}),
            note=lambda line: None,
        )
    path = folder / "classifier.safetensors"
    heads = {name: {"offset": 0.0, "slope": 1.0} for name in ("prompt", "words", "answer")}
    module.save_encoder(encoder, path.with_name(ENCODER_FILE))
    module.save(done, path, heads=heads, about={"seed": 0})
    return done, ClassifierCheck.load(path)


def test_what_ships_reads_as_what_was_trained(
    trained: tuple[module.Trained, ClassifierCheck],
) -> None:
    done, check = trained
    for kind in ("prompt", "answer"):
        features = check.vocabulary.read(("how", "do", "i", "make", "a", "zorblax"))
        example = module.Example(
            features=features, target=0.0, category=-1, is_answer=kind == "answer"
        )
        wanted = done.model(module.Batch.of([example])).detach().numpy()[0]
        assert np.allclose(check.network.run(features, kind=kind), wanted, atol=0.05)


def test_it_learnt_the_invented_topic(trained: tuple[module.Trained, ClassifierCheck]) -> None:
    _, check = trained
    for kind in ("prompt", "answer"):
        bad = check.measure("do i make a zorblax", kind=kind)
        good = check.measure("do i make a cake", kind=kind)
        assert bad[kind][0] > good[kind][0]
    assert check.about == {"seed": 0}
    assert tuple(check.categories) == CATEGORIES


def test_recombines_acts_and_forms() -> None:
    found = module.recombine([text("How do I make a zorblax?", 1)])
    assert any("make a zorblax" in each for each in found)
    assert found == module.recombine([text("How do I make a zorblax?", 1)])
    assert not any("{" in each for each in found)
