"""Ragged steps for recurrent operators: which tokens of which sequences, at which positions."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass
class Step:
    """Sequence i gets `counts[i]` new tokens from `starts[i]` on; its states are in `slots[i]`."""

    counts: Sequence[int]
    starts: Sequence[int]
    slots: Sequence[int]
    row_of: NDArray[np.int32] = field(init=False)
    position: NDArray[np.int32] = field(init=False)
    state_slot: NDArray[np.int32] = field(init=False)

    def __post_init__(self) -> None:
        self.row_of = np.repeat(np.arange(len(self.counts)), self.counts).astype(np.int32)
        self.position = np.concatenate(
            [np.arange(s, s + c) for s, c in zip(self.starts, self.counts, strict=True)]
        ).astype(np.int32)
        self.state_slot = np.array(self.slots, np.int32)

    @property
    def inputs(self) -> dict[str, NDArray[np.int32]]:
        return {"state_slot": self.state_slot, "row_of": self.row_of, "position": self.position}


BAD_STEPS = {
    "slot too great": ({"state_slot": np.array([3], np.int32)}, "state_slot is out of range"),
    "slot negative": ({"state_slot": np.array([-1], np.int32)}, "state_slot is out of range"),
    "no slots": ({"state_slot": np.zeros(0, np.int32)}, "row_of is out of range"),
    "row too great": ({"row_of": np.array([0, 1], np.int32)}, "row_of is out of range"),
    "row negative": ({"row_of": np.array([-1, 0], np.int32)}, "row_of is out of range"),
    "row short": ({"row_of": np.array([0], np.int32)}, "must be .tokens"),
    "position negative": ({"position": np.array([-1, 0], np.int32)}, "position is negative"),
    "position jumps": ({"position": np.array([0, 2], np.int32)}, "must follow each other"),
    "position long": ({"position": np.zeros((2, 1), np.int32)}, "must be .tokens"),
    "state shared": (
        {"state_slot": np.array([1, 1], np.int32), "row_of": np.array([0, 1], np.int32)},
        "used twice",
    ),
    "row comes back": (
        {
            "state_slot": np.array([1, 2], np.int32),
            "row_of": np.array([0, 1, 0], np.int32),
            "position": np.array([0, 0, 1], np.int32),
        },
        "used twice|must be .tokens",
    ),
}
"""Changes to a step of two tokens of one sequence, in a pool of three slots, and what is said."""
