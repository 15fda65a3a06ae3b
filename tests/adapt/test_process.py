"""The learner process: frames without pickle, errors as errors, and a death that is survived."""

import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluvial.adapt.learner import Learner
from fluvial.adapt.process import LearnerProcess
from fluvial.adapt.rule import Rule
from fluvial.adapt.worker import NICENESS
from fluvial.errors import LearnerError
from fluvial.frame import ClosedError, read_frame, write_frame
from fluvial.model.checkpoint import open_checkpoint

RULE = Rule(rank=4, chunk_tokens=64)
CHUNK = list(range(3, 67))


@pytest.fixture
def process(tiny_model: Path) -> Iterator[LearnerProcess]:
    sha256 = open_checkpoint(tiny_model).sha256
    process = LearnerProcess(tiny_model, sha256=sha256, rule=RULE, threads=1)
    process.start()
    yield process
    process.close()


def test_it_answers_what_a_learner_in_this_process_would(
    process: LearnerProcess, tiny_model: Path
) -> None:
    process.load("s", None)
    there = [process.read("s", context=[0], chunk=CHUNK, learn=True) for _ in range(2)]
    learner = Learner(open_checkpoint(tiny_model), rule=RULE)
    learner.use_threads(1)
    learner.load("s", None)
    here = [learner.read("s", context=[0], chunk=CHUNK, learn=True) for _ in range(2)]
    assert [r.adapted_nats for r in there] == pytest.approx([r.adapted_nats for r in here])
    assert process.export("s").keys() == learner.export("s").keys()
    assert process.state == "ready"


def test_an_unknown_session_is_an_error_and_the_process_goes_on(process: LearnerProcess) -> None:
    with pytest.raises(LearnerError, match="could not read"):
        process.read("nobody", context=[0], chunk=CHUNK, learn=False)
    process.load("s", None)
    assert process.generation == 1


def test_a_killed_process_is_replaced_at_the_next_request(process: LearnerProcess) -> None:
    process.load("s", None)
    assert process._process is not None
    os.kill(process._process.pid, signal.SIGKILL)
    with pytest.raises(LearnerError, match="goes on from the last version"):
        process.read("s", context=[0], chunk=CHUNK, learn=True)
    assert process.state == "restarting"
    process.load("s", None)
    assert process.state == "ready"
    assert process.generation == 2


@pytest.mark.skipif(not hasattr(os, "getsid"), reason="sessions are POSIX's")
def test_it_steps_back_within_the_session_of_its_parent(process: LearnerProcess) -> None:
    process.load("s", None)
    assert process._process is not None
    pid = process._process.pid
    assert os.getsid(pid) == os.getsid(0), "Linux compares priorities inside a session only"
    assert os.getpgid(pid) == pid, "an interrupt at the terminal is not for it"
    assert os.getpriority(os.PRIO_PROCESS, pid) == min(19, os.nice(0) + NICENESS)


def test_a_damaged_model_is_a_learner_error(tiny_model: Path) -> None:
    process = LearnerProcess(tiny_model, sha256="0" * 64, rule=RULE, threads=1)
    process.start()
    with pytest.raises(LearnerError):
        process.load("s", None)
    process.close()


def test_frames_come_back_whole() -> None:
    stream = io.BytesIO()
    write_frame(stream, {"do": "x", "ids": [1, 2]}, b"\0\xff" * 1000)
    stream.seek(0)
    assert read_frame(stream) == ({"do": "x", "ids": [1, 2]}, b"\0\xff" * 1000)
    with pytest.raises(ClosedError):
        read_frame(stream)


def test_a_frame_out_of_bounds_is_refused_before_it_is_read() -> None:
    with pytest.raises(ValueError, match="out of bounds"):
        read_frame(io.BytesIO(b"\xff" * 12))
