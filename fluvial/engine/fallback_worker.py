"""The process that runs a model on `transformers`: reads requests, answers, ends with its parent.

It keeps one state for each sequence, by number. A request that fails changes nothing.
"""

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.numpy

from fluvial.errors import FluvialError, ModelError
from fluvial.frame import ClosedError, read_frame, write_frame
from fluvial.model.fallback import AdapterTensors, Fallback, to_tensors
from fluvial.model.fallback_state import State, restore
from fluvial.model.outline import OutlinedCheckpoint, decode_outline

Reply = tuple[dict[str, Any], bytes]
MAX_SNAPSHOTS = 4
STEP_TOLERANCE = 0.01


class Runner:
    """The sequences of one model. Numbers are chosen by the parent."""

    def __init__(self, module: Fallback) -> None:
        self._module = module
        self._states: dict[int, State] = {}
        self._snapshots: dict[int, dict[int, State]] = {}
        self._adapters: dict[str, AdapterTensors] = {}
        self._like, two = _check_steps(module)
        self.facts = {
            "can_trim": self._like.can_trim,
            "token_bytes": two.count_bytes() - self._like.count_bytes(),
        }

    def answer(self, header: dict[str, Any], body: bytes) -> Reply:
        """Do one request; errors become an `error` in the reply."""
        try:
            return _ACTIONS[header["do"]](self, header, body)
        except (FluvialError, KeyError, ValueError, RuntimeError, IndexError, TypeError) as error:
            return {"error": f"{type(error).__name__}: {error}"}, b""

    def adapt(self, header: dict[str, Any], body: bytes) -> Reply:
        self._adapters[header["key"]] = to_tensors(safetensors.numpy.load(body))
        return {}, b""

    def forget(self, header: dict[str, Any], _: bytes) -> Reply:
        self._adapters.pop(header["key"], None)
        return {}, b""

    def step(self, header: dict[str, Any], _: bytes) -> Reply:
        fresh: dict[int, State] = {}
        logits: dict[str, np.ndarray] = {}
        for index, part in enumerate(header["parts"]):
            number, key = part["cache"], part["adapter"]
            found, fresh[number] = self._module.step(
                part["tokens"],
                past=fresh.get(number, self._states.get(number)),
                adapter=None if key is None else self._adapters[key],
                wanted=part["wanted"],
            )
            if part["wanted"]:
                logits[str(index)] = np.ascontiguousarray(found)
        self._states |= fresh
        return {}, safetensors.numpy.save(logits) if logits else b""

    def snapshot(self, header: dict[str, Any], _: bytes) -> Reply:
        state = self._states[header["cache"]]
        kept = self._snapshots.setdefault(header["cache"], {})
        kept[state.length] = state.strip()
        while len(kept) > MAX_SNAPSHOTS:
            del kept[next(iter(kept))]
        return {"lengths": [*kept]}, b""

    def fork(self, header: dict[str, Any], _: bytes) -> Reply:
        number, to, length = header["cache"], header["to"], header["length"]
        self._states[to] = self._cut(number, length)
        kept = {n: s for n, s in self._snapshots.get(number, {}).items() if n <= length}
        self._snapshots[to] = kept
        return {}, b""

    def release(self, header: dict[str, Any], _: bytes) -> Reply:
        self._states.pop(header["cache"], None)
        self._snapshots.pop(header["cache"], None)
        return {}, b""

    def export(self, header: dict[str, Any], _: bytes) -> Reply:
        return {}, safetensors.numpy.save(self._states[header["cache"]].export())

    def restore(self, header: dict[str, Any], body: bytes) -> Reply:
        tensors = safetensors.numpy.load(body)
        state = restore(self._like, tensors, length=header["length"])
        self._states[header["cache"]] = state
        return {}, b""

    def _cut(self, number: int, length: int) -> State:
        state = self._states[number]
        if length == state.length:
            return state
        if state.can_trim:
            return state.trim(length)
        return state.rewind(self._snapshots[number][length])


def _check_steps(module: Fallback) -> tuple[State, State]:
    """Return the states after one and after two tokens of a trial.

    Raises ModelError for a family whose state does not go on as the whole sequence would.
    """
    tokens = [index % module.declaration.vocab_size for index in range(1, 9)]
    whole, _ = module.step(tokens, past=None, adapter=None, wanted=range(len(tokens)))
    states: list[State] = []
    rows: list[np.ndarray] = []
    for token in tokens:
        past = states[-1] if states else None
        row, state = module.step([token], past=past, adapter=None, wanted=[0])
        rows.append(row[0])
        states.append(state)
    distance = float(np.linalg.norm(np.stack(rows) - whole) / np.linalg.norm(whole))
    if not distance < STEP_TOLERANCE:
        raise ModelError(
            f"{module.declaration.family} gives other answers token by token than at once "
            f"({distance:.1%} apart), so it can't be run"
        )
    return states[0], states[1]


_ACTIONS: dict[str, Callable[[Runner, dict[str, Any], bytes], Reply]] = {
    "adapt": Runner.adapt,
    "forget": Runner.forget,
    "step": Runner.step,
    "snapshot": Runner.snapshot,
    "fork": Runner.fork,
    "release": Runner.release,
    "export": Runner.export,
    "restore": Runner.restore,
}


def main() -> None:
    """Serve one parent until it closes the pipe."""
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not break the frames
    with contextlib.suppress(ClosedError, KeyboardInterrupt):
        _serve(requests, replies)


def _serve(requests: BinaryIO, replies: BinaryIO) -> None:
    header, _ = read_frame(requests)
    try:
        checkpoint = OutlinedCheckpoint(
            path=Path(header["path"]),
            sha256=header["sha256"],
            declaration=decode_outline(header["outline"]),
        )
        module = Fallback(checkpoint)
        module.use_threads(header["threads"])
        runner = Runner(module)
    except FluvialError as error:
        write_frame(replies, {"error": error.message})
        return
    write_frame(replies, runner.facts)
    while True:
        write_frame(replies, *runner.answer(*read_frame(requests)))


if __name__ == "__main__":
    main()
