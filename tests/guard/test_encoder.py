"""The encoder in numpy reads as BERT does, and packs into 8 bits with little loss."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fluvial.guard.encoder import BEGIN, END, HEADS, LAYERS, Encoder
from tests.guard.small import WIDTH, WORDS, write_classifier


@pytest.fixture
def encoder(tmp_path: Path) -> Encoder:
    return Encoder(tensors=load_file(write_classifier(tmp_path).with_name("minilm.safetensors")))


def test_reads_as_the_reference_does(encoder: Encoder) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=2 * WIDTH,
        hidden_act="gelu_new",
        max_position_embeddings=512,
    )
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    named = {
        "pieces": "embeddings.word_embeddings.weight",
        "places": "embeddings.position_embeddings.weight",
    }
    state = model.state_dict()
    for name, value in encoder.tensors.items():
        key = named.get(name, name)
        if name == "kind":
            state["embeddings.token_type_embeddings.weight"][0] = torch.tensor(value)
        else:
            is_linear = value.ndim == 2 and name not in named
            state[key] = torch.tensor(value.T.copy() if is_linear else value)
    model.load_state_dict(state)
    pieces = [3, 4, 5, 6]
    with torch.inference_mode():
        states = model(torch.tensor([[BEGIN, *pieces, END]])).last_hidden_state
    wanted = torch.nn.functional.normalize(states.mean(1))[0].numpy()
    assert np.allclose(encoder.embed([pieces])[0], wanted, atol=1e-5)


def test_texts_together_are_as_alone(encoder: Encoder) -> None:
    texts = [[3], [4, 5, 6], [7, 8], [5, 4, 3], [9] * 40, []]
    together = encoder.embed(texts)
    for row, text in enumerate(texts):
        assert np.allclose(together[row], encoder.embed([text])[0], atol=1e-5)


def test_eight_bits_lose_little(encoder: Encoder, tmp_path: Path) -> None:
    from fluvial.guard.classifier import _open, _widen
    from fluvial.guard.train import save_encoder

    path = tmp_path / "packed.safetensors"
    save_encoder(encoder, path)
    packed = Encoder(tensors=_widen(_open(path)[0]))
    assert set(packed.tensors) == set(encoder.tensors)
    texts = [[3, 4, 5], [6, 7, 8, 9]]
    alike = (packed.embed(texts) * encoder.embed(texts)).sum(1)
    assert alike.min() > 0.99
