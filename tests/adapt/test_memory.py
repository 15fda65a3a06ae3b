"""Constant memory: a long text leaves the learner as large as a short one does."""

import gc
import os
from pathlib import Path

import pytest

from fluvial.adapt.learner import Learner
from fluvial.adapt.rule import Rule
from fluvial.model.adapter_file import encode
from fluvial.model.checkpoint import Checkpoint, open_checkpoint
from tests.adapt.stream import Stream, draw_tokens, open_learner

RULE = Rule(rank=4)
VERSION_TOKENS = 2048
MOST_GROWTH_BYTES = 4 * 2**20
"""Of the whole process, after the first part."""
STATM = Path("/proc/self/statm")


def test_a_long_text_takes_no_more_memory_than_a_short_one(
    tiny_model: Path, tmp_path: Path
) -> None:
    _read_long(open_checkpoint(tiny_model), tmp_path, tokens=60_000)


@pytest.mark.slow
def test_a_million_tokens_take_no_more_memory_than_a_few(tiny_model: Path, tmp_path: Path) -> None:
    _read_long(open_checkpoint(tiny_model), tmp_path, tokens=1_000_000)


def _read_long(checkpoint: Checkpoint, graph_dir: Path, *, tokens: int) -> None:
    learner = open_learner(checkpoint, graph_dir=graph_dir, rule=RULE)
    learner.load("s", None)
    text = draw_tokens(0, 20_000)
    live: list[int] = []
    rest: list[int] = []
    whole: list[int] = []
    for _ in range(tokens // len(text)):
        stream = Stream(learner, "s", text, rule=RULE, version_tokens=VERSION_TOKENS)
        while not stream.ended:
            stream.read()
        stream.results.clear()
        tensors = learner.export("s")
        data = encode(tensors, checkpoint=checkpoint.sha256, declaration=checkpoint.declaration)
        rest.append(len(data))
        live.append(_count_live_bytes(learner))
        gc.collect()
        whole.append(_measure_process_bytes())
    assert len(set(live)) == 1
    assert len(set(rest)) == 1
    assert max(whole[1:]) - whole[1] < MOST_GROWTH_BYTES


def _measure_process_bytes() -> int:
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if STATM.exists() else 0


def _count_live_bytes(learner: Learner) -> int:
    """Count a session's tensors: its adapter, the one to go back to, gradients, averages."""
    (state,) = learner._sessions.values()
    tensors = [
        *state.live.tensors.values(),
        *state.live._good.values(),
        *state.memory.first.values(),
        *state.memory.second.values(),
        *(each.grad for each in state.live.trained.values() if each.grad is not None),
    ]
    assert not state.windows  # a version was just made
    return sum(each.numel() * each.element_size() for each in tensors)
