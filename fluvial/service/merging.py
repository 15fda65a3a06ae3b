"""Merge versions into a new one: their weighted sum, brought down to a rank, the loss told."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fluvial.adapt.bounding import Measure, bound, find_rank
from fluvial.adapt.history import History
from fluvial.adapt.naming import make_canonical
from fluvial.config import Settings
from fluvial.errors import ConflictError, InputError
from fluvial.model.adapter import Tensors
from fluvial.model.merge import compress, merge
from fluvial.service.model import Served
from fluvial.service.version import Versions
from fluvial.store import Store
from fluvial.types import BASE_VERSION, Session, Version
from fluvial.version_note import Compressed

MAX_PARTS = 8
MAX_RANK = 64
MAX_WEIGHT = 4.0
LEAST_LOSS = 5e-5
"""What is less is 0.00 %: rounding, mostly."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One version of a merge: a `published` name, or a `version` of one's own `session`.

    `session` None is the one that is merged into.
    """

    weight: float = 1.0
    published: str | None = None
    session: str | None = None
    version: str | None = None


@dataclass(frozen=True, kw_only=True)
class Merged:
    """The new version, and the share of the sum that its rank could not hold (0: exact)."""

    version: Version
    loss: float


@dataclass(frozen=True, kw_only=True, eq=False)
class _Found:
    id: str
    tensors: Tensors
    weight: float


class Merging:
    """Merges versions of one owner, and published ones, of the same base."""

    def __init__(
        self,
        *,
        settings: Settings,
        served: Served,
        store: Store,
        history: History,
        versions: Versions,
        measure: Measure | None,
    ) -> None:
        self._budget = settings.drift_budget
        self._served = served
        self._store = store
        self._history = history
        self._versions = versions
        self._measure = measure

    def merge(self, session: Session, parts: Sequence[Part], *, rank: int | None = None) -> Merged:
        """Put the weighted sum of 2 to MAX_PARTS versions in force; readings under way stop.

        `rank` None is the highest of theirs. The sum is exact, then compressed to `rank`, then
        scaled back if its drift is over the budget. Raises NotFoundError for a version that is not
        the owner's or published, InputError, ConflictError `other_base`, `drift_over_budget` or
        `quota_reached`.
        """
        self._served.require(session)
        _check(parts, rank=rank)
        found = [self._find(session, part, index=index) for index, part in enumerate(parts)]
        rank = rank or max(find_rank(each.tensors) for each in found)
        whole = add_up([(each.tensors, each.weight) for each in found])
        compressed = compress(whole, rank)
        bounded = bound(compressed.tensors, budget=self._budget, measure=self._measure)
        loss = compressed.loss.overall
        lost = Compressed(rank=rank, from_rank=find_rank(whole), loss=loss)
        notes = (*([lost] if loss >= LEAST_LOSS else []), *bounded.notes)
        recipe = {"merge": [[each.id, each.weight] for each in found], "rank": rank}
        version = self._versions.put(
            session,
            lambda now: self._history.add(
                now,
                bounded.tensors,
                origin="merge",
                parents=[each.id for each in found],
                rule=make_canonical(recipe),
                drift=bounded.drift,
                scale=bounded.scale,
                notes=notes,
            ),
        )
        return Merged(version=version, loss=loss)

    def _find(self, session: Session, part: Part, *, index: int) -> _Found:
        if part.published is not None:
            publication = self._store.publications.find(part.published)
            tensors = self._history.open_publication(session, publication)
            return _Found(id=publication.version.id, tensors=tensors, weight=part.weight)
        source = session
        if part.session is not None:
            source = self._store.session(part.session, owner=session.owner)
        if source.checkpoint != session.checkpoint:
            raise ConflictError(
                f"{source.id} is a session of {source.model}; only versions of the same weights "
                "can be merged",
                code="other_base",
                param=f"parts[{index}].session",
            )
        number = self._versions.resolve(source, part.version or "")
        adapter = self._history.load(source, number)
        if number == BASE_VERSION or adapter is None:
            raise InputError("the base adds nothing to a merge", param=f"parts[{index}].version")
        id = self._store.version(source, number).id
        return _Found(id=id, tensors=adapter.tensors, weight=part.weight)


def add_up(parts: Sequence[tuple[Tensors, float]]) -> Tensors:
    """Return the weighted sum of adapters of one model, exact but for rounding.

    Where all have the same A, as versions learned with a fixed one do, B and gains add up alone:
    the sum is no larger than each of them. Else their ranks add up.
    """
    whole = merge(parts)  # looks at all of them first
    first = parts[0][0]
    if not all(_share_a(first, tensors) for tensors, _ in parts):
        return whole
    return {
        name: array if name.endswith(".a") else _add([(t[name], weight) for t, weight in parts])
        for name, array in first.items()
    }


def _share_a(one: Tensors, other: Tensors) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one if name.endswith(".a"))


def _add(arrays: Sequence[tuple[NDArray[np.float32], float]]) -> NDArray[np.float32]:
    total = np.zeros(arrays[0][0].shape, np.float64)
    for array, weight in arrays:
        total += weight * array.astype(np.float64)
    return total.astype(np.float32)


def _check(parts: Sequence[Part], *, rank: int | None) -> None:
    if not 2 <= len(parts) <= MAX_PARTS:
        raise InputError(
            f"a merge takes 2 to {MAX_PARTS} versions, not {len(parts)}", param="parts"
        )
    if rank is not None and not 1 <= rank <= MAX_RANK:
        raise InputError(f"rank must be 1 to {MAX_RANK}, not {rank}", param="rank")
    for index, part in enumerate(parts):
        at = f"parts[{index}]"
        if not (math.isfinite(part.weight) and 0 < abs(part.weight) <= MAX_WEIGHT):
            raise InputError(
                f"weights are up to {MAX_WEIGHT:g} by amount, and not 0", param=f"{at}.weight"
            )
        if (part.published is None) == (part.version is None):
            raise InputError("name either a version or what is published", param=at)
        if part.published is not None and part.session is not None:
            raise InputError("what is published is named without a session", param=f"{at}.session")
