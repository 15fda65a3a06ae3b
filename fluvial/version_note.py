"""Why a version is not as usual: one class for each kind of note, with the figures it carries."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class PlainNote:
    """Words of an older Fluvial, from before notes had codes."""

    text: str
    code: Literal["plain"] = field(default="plain", init=False)


@dataclass(frozen=True, kw_only=True)
class OldDrift:
    """It is older than today's measure of drift, which was then the `change` in weights."""

    change: float
    code: Literal["old_drift"] = field(default="old_drift", init=False)


@dataclass(frozen=True, kw_only=True)
class ParentDeleted:
    """Its parent was deleted before parents had names."""

    code: Literal["parent_deleted"] = field(default="parent_deleted", init=False)


@dataclass(frozen=True, kw_only=True)
class Unmeasured:
    """The version's drift could not be measured."""

    code: Literal["unmeasured"] = field(default="unmeasured", init=False)


@dataclass(frozen=True, kw_only=True)
class ScaledBack:
    """It was made smaller to stay in its budget; `drift` before that, None if it was not finite."""

    drift: float | None
    budget: float
    code: Literal["scaled_back"] = field(default="scaled_back", init=False)


@dataclass(frozen=True, kw_only=True)
class OverBudget:
    """Its drift stayed over the budget at any scale: it is the version before again."""

    budget: float
    code: Literal["over_budget"] = field(default="over_budget", init=False)


@dataclass(frozen=True, kw_only=True)
class NotFinite:
    """The adapter was not finite: it is the version before again."""

    code: Literal["not_finite"] = field(default="not_finite", init=False)


@dataclass(frozen=True, kw_only=True)
class ChunkNotFinite:
    """A chunk's loss or gradient was not finite: learning went back to the version before."""

    code: Literal["chunk_not_finite"] = field(default="chunk_not_finite", init=False)


@dataclass(frozen=True, kw_only=True)
class ReadsWorse:
    """Its loss was `excess` times the base's over it (0.12: 12 %): it is the version before again.

    `halved`: that one read so from the first chunk on, and half of it was kept.
    """

    excess: float
    halved: bool = False
    code: Literal["reads_worse"] = field(default="reads_worse", init=False)


@dataclass(frozen=True, kw_only=True)
class Compressed:
    """Brought down to `rank`, from `from_rank` where that is known; `loss`: the share lost."""

    rank: int
    loss: float
    from_rank: int | None = None
    code: Literal["compressed"] = field(default="compressed", init=False)


@dataclass(frozen=True, kw_only=True)
class Imported:
    """It came from a file of this format."""

    format: str
    code: Literal["imported"] = field(default="imported", init=False)


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """It is a copy of what was published under this name."""

    name: str
    code: Literal["adopted"] = field(default="adopted", init=False)


@dataclass(frozen=True, kw_only=True)
class CanaryFailed:
    """It failed `failed` of the `counted` canaries that its base passes.

    `back_to`: the version that was put in force again, and learning frozen; None where this one was
    not in force any more.
    """

    failed: int
    counted: int
    back_to: int | None
    code: Literal["canary_failed"] = field(default="canary_failed", init=False)


VersionNote = (
    PlainNote
    | OldDrift
    | ParentDeleted
    | Unmeasured
    | ScaledBack
    | OverBudget
    | NotFinite
    | ChunkNotFinite
    | ReadsWorse
    | Compressed
    | Imported
    | Adopted
    | CanaryFailed
)
"""Why a version is not as usual. `code` is stable; `fluvial.note` has the words and the JSON."""
