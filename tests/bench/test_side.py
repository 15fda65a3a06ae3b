"""The two sides themselves: ours against a double of the decoder, the peer as it is, in a child."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fluvial.bench import ours
from fluvial.bench.ours import Ours, draw_adapter, find_losses
from fluvial.bench.process import open_side
from fluvial.bench.roofline import count_bytes, measure_reading
from fluvial.errors import EngineError
from fluvial.model.checkpoint import open_checkpoint
from tests.bench.double import SuccessorDecoder

PROMPT = [5, 6, 7, 8]


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> SuccessorDecoder:
    double = SuccessorDecoder()
    monkeypatch.setattr(ours, "open_decoder", lambda *_, **__: double)
    return double


@pytest.fixture
def side(decoder: SuccessorDecoder, tiny_model: Path, tmp_path: Path) -> Ours:
    loaded = Ours(
        str(tiny_model), threads=1, context_tokens=2048, graph_dir=str(tmp_path), chunk_tokens=3
    )
    decoder.steps.clear()
    return loaded


def test_decoding_reads_the_prompt_then_steps_by_one_token(
    side: Ours, decoder: SuccessorDecoder
) -> None:
    assert side.decode(PROMPT, tokens=5) > 0
    assert decoder.steps == [[(3, None, ())], *[[(1, None, (0,))]] * 5]
    assert decoder.open == set()


def test_the_adapter_is_used_for_prompt_and_answer(side: Ours, decoder: SuccessorDecoder) -> None:
    side.decode(PROMPT, tokens=2, adapter=True)
    assert {key for step in decoder.steps for _, key, _ in step} == {"bench/0"}


def test_a_kept_prompt_is_read_once(side: Ours, decoder: SuccessorDecoder) -> None:
    for _ in range(3):
        side.decode(PROMPT, tokens=2, kept=True)
    assert [step[0][0] for step in decoder.steps] == [3, 1, 1, 1, 1, 1, 1]
    (cache,) = decoder.open
    assert cache.tokens == PROMPT[:-1]
    side.decode([9, 9], tokens=2, kept=True)
    assert len(decoder.open) == 1, "another prompt takes the place of the one before"


def test_prefill_goes_in_chunks_and_wants_the_last_token_alone(
    side: Ours, decoder: SuccessorDecoder
) -> None:
    assert side.prefill([1, 2, 3, 4, 5, 6, 7]) > 0
    assert decoder.steps == [[(3, None, ())], [(3, None, ())], [(1, None, (0,))]]
    assert decoder.open == set()


def test_a_batch_steps_all_sequences_at_once_each_with_its_own_adapter(
    side: Ours, decoder: SuccessorDecoder
) -> None:
    side.batch([[n, n] for n in range(1, 9)], tokens=2, adapters=True)
    together = [step for step in decoder.steps if len(step) == 8]
    assert len(together) == 2
    assert {key for _, key, _ in together[0]} == {f"bench/{n}" for n in range(8)}
    assert decoder.open == set()


def test_scores_are_the_same_in_chunks_and_by_hand(side: Ours, decoder: SuccessorDecoder) -> None:
    hit = np.log(np.exp(3) + decoder.vocab_size - 1) - 3
    first, second = side.score([[1, 2, 3, 4, 5], [1, 2, 9]])
    assert first == pytest.approx([hit] * 4)
    assert second == pytest.approx([hit, hit + 3])


def test_a_cache_without_room_is_told(side: Ours) -> None:
    with pytest.raises(EngineError, match="no room for 3000"):
        side.prefill([1] * 3000)


def test_losses_hold_for_large_logits() -> None:
    logits = np.array([[1000, 1000, -1000], [0, 0, 0]], np.float32)
    assert find_losses(logits, [0, 2]) == pytest.approx([np.log(2), np.log(3)])


def test_a_drawn_adapter_changes_something_everywhere(tiny_model: Path) -> None:
    declaration = open_checkpoint(tiny_model).declaration
    first, second = (draw_adapter(declaration, seed=seed) for seed in (0, 1))
    assert first.key != second.key
    assert all(tensor.any() for tensor in first.tensors.values())
    assert all((first.tensors[n] != second.tensors[n]).any() for n in first.tensors)


def test_bytes_of_a_token_are_those_of_all_weights(tiny_model: Path) -> None:
    checkpoint = open_checkpoint(tiny_model)
    assert 0.5 < count_bytes(checkpoint) / tiny_model.stat().st_size < 1


def test_reading_is_measured_on_any_number_of_threads() -> None:
    assert measure_reading(threads=3, array_bytes=1000) > 0


@pytest.fixture(scope="module")
def peer_settings(tiny_model: Path) -> dict[str, Any]:
    pytest.importorskip("xllamacpp")
    return {"path": str(tiny_model), "threads": 1, "context_tokens": 512, "sequences": 2}


def test_the_peer_answers_every_request(peer_settings: dict[str, Any], tiny_model: Path) -> None:
    windows = [[0, 10, 11, 12], [0, 20, 21]]
    with open_side("peer", peer_settings) as peer:
        assert peer.loaded["load_s"] > 0
        assert peer.ask("decode", prompt=PROMPT, tokens=4)["value"] > 0
        assert peer.ask("prefill", prompt=PROMPT * 8)["value"] > 0
        assert peer.ask("batch", prompts=[PROMPT, PROMPT], tokens=4)["value"] > 0
        scores = peer.ask("score", windows=windows)["value"]
        assert peer.ask("measure_memory")["rss_mb"] > 1
        with pytest.raises(EngineError, match="context size"):
            peer.ask("prefill", prompt=[5] * 600)
        with pytest.raises(EngineError, match="no adapters"):
            peer.ask("decode", prompt=PROMPT, tokens=4, adapter=True)
    with open_side("reference", {"path": str(tiny_model), "threads": 1}) as reference:
        exact = reference.ask("score", windows=windows)["value"]
    for found, expected in zip(scores, exact, strict=True):
        assert found == pytest.approx(expected, rel=0.05), "the same ids, and all of them"


def test_a_side_is_asleep_unless_it_is_asked() -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs /proc")
    with open_side("reading", {}) as side:
        assert read_state(side.pid) == "T"
        assert side.ask("measure", threads=1, array_bytes=800)["value"] > 0
        assert read_state(side.pid) == "T"
    assert not Path(f"/proc/{side.pid}").exists()


def test_a_model_that_can_not_be_loaded_is_told(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="reference could not load: ModelError: there is no"):
        open_side("reference", {"path": str(tmp_path / "none.gguf"), "threads": 1})


def test_a_side_that_dies_is_told() -> None:
    with open_side("reading", {}) as side:
        os.kill(side.pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="reading died while asked to measure"):
            side.ask("measure", threads=1, array_bytes=800)


def test_sides_end_when_the_benchmark_is_killed() -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs /proc")
    code = (
        "import time; from fluvial.bench.process import open_side; "
        "side = open_side('reading', {}); print(side.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(200):
        if not Path(f"/proc/{pid}").exists() or read_state(pid) == "Z":
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("a stopped side was left behind")


def read_state(pid: int) -> str:
    """Return the one letter that the system gives a process: T is stopped."""
    for _ in range(200):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state in ("T", "Z"):
            break
        time.sleep(0.01)
    return state


def test_our_own_side_answers_every_request(tiny_model: Path, tmp_path: Path) -> None:
    windows = [[0, 10, 11, 12], [0, 20, 21]]
    settings = {"path": str(tiny_model), "threads": 1, "context_tokens": 512, "sequences": 2}
    with open_side("ours", {**settings, "graph_dir": str(tmp_path), "chunk_tokens": 2}) as side:
        assert side.loaded["load_s"] > 0
        for adapter in (False, True):
            assert side.ask("decode", prompt=PROMPT, tokens=4, adapter=adapter)["value"] > 0
        for _ in range(2):
            assert side.ask("decode", prompt=PROMPT * 8, tokens=40, kept=True)["value"] > 0
        assert side.ask("prefill", prompt=PROMPT * 8)["value"] > 0
        pair = {"prompts": [PROMPT, PROMPT], "tokens": 4, "adapters": True}
        assert side.ask("batch", **pair)["value"] > 0
        scores = side.ask("score", windows=windows)["value"]
    with open_side("reference", {"path": str(tiny_model), "threads": 1}) as reference:
        exact = reference.ask("score", windows=windows)["value"]
    for found, expected in zip(scores, exact, strict=True):
        assert found == pytest.approx(expected, rel=0.05)
