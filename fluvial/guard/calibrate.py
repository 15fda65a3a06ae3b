"""Thresholds with a promise: at most so many false blocks, at a stated confidence.

Learn-Then-Test (Angelopoulos et al. 2021, fixed-sequence testing): thresholds are tried from the
strictest down; each is a hypothesis "its rate of false blocks is over the stated one", rejected
when the exact binomial p-value of the blocks counted on benign texts is at most `delta`. The last
one before the first that is not rejected keeps the promise with probability 1 - delta, for texts
drawn as the calibration texts were; for others it promises nothing.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fluvial.errors import InputError
from fluvial.guard.check import TextKind

MAX_LINES = 1_000_000
MAX_LINE_CHARS = 1_000_000
STEPS = 200
"""Thresholds tried: quantiles of the scores, from the highest down."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """One line of a labelled file."""

    text: str
    label: int
    kind: TextKind


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """What calibration found. `value` blocks `blocked` of `count` benign texts."""

    value: float
    blocked: int
    count: int
    rate: float
    delta: float


def choose_threshold(
    scores: Sequence[float] | NDArray[np.float64], *, rate: float, delta: float = 0.05
) -> Threshold:
    """Return the lowest threshold whose false blocks are at most `rate`, 1 - `delta` surely.

    `scores` are those of benign texts, each drawn on its own. Raises InputError when they are too
    few to promise anything: even no block at all needs ln(delta) / ln(1 - rate) of them.
    """
    from scipy.stats import binom

    values = np.sort(np.asarray(scores, dtype=np.float64))
    if not 0 < rate < 1 or not 0 < delta < 1:
        raise InputError("rate and delta lie between 0 and 1, both excluded")
    if not len(values) or not np.isfinite(values).all():
        raise InputError("calibration needs scores of benign texts, all of them numbers")
    chosen: tuple[float, int] | None = None
    for value in _list_candidates(values):
        blocked = int(len(values) - np.searchsorted(values, value, side="left"))
        if float(binom.cdf(blocked, len(values), rate)) > delta:
            break
        chosen = (value, blocked)
    if chosen is None:
        need = int(np.ceil(np.log(delta) / np.log1p(-rate)))
        raise InputError(
            f"{len(values)} benign texts can't promise a false-block rate of {rate:.2%}: "
            f"at least {need} are needed"
        )
    return Threshold(value=chosen[0], blocked=chosen[1], count=len(values), rate=rate, delta=delta)


def _list_candidates(values: NDArray[np.float64]) -> list[float]:
    """List thresholds from one that blocks nothing down.

    They are taken from the scores themselves. That is sound as the rate only grows while the
    threshold falls: for a wrong promise the test must err at the one place where the true rate
    crosses the stated one (Bates et al. 2021, theorem 1).
    """
    places = np.unique(np.linspace(0, len(values) - 1, STEPS).astype(int))[::-1]
    above = float(np.nextafter(values[-1], np.inf))
    finest = values[::-1][: STEPS // 2]
    return [above, *sorted({*map(float, finest), *map(float, values[places])}, reverse=True)]


def read_labelled(path: Path) -> list[Labelled]:
    """Read a file of lines {"text", "label": 0 or 1, "kind": "prompt" or "answer"}.

    Raises InputError naming the line that is not of this form, and what is wrong with it.
    """
    found: list[Labelled] = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if number > MAX_LINES or len(line) > MAX_LINE_CHARS:
                    raise InputError(
                        f"{path.name}: line {number}: at most {MAX_LINES:,} lines of "
                        f"{MAX_LINE_CHARS:,} characters are read"
                    )
                if line.strip():
                    found.append(_read_line(line, f"{path.name}: line {number}"))
    except UnicodeDecodeError:
        raise InputError(f"{path.name}: line {len(found) + 1} or later is not UTF-8") from None
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from None
    if not found:
        raise InputError(f"{path.name} holds no lines")
    return found


def _read_line(line: str, place: str) -> Labelled:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise InputError(f"{place}: it is not JSON") from None
    if not isinstance(row, dict):
        raise InputError(f"{place}: an object is needed, like {_FORM}")
    table = cast("dict[str, Any]", row)
    text, label, kind = (table.get(name) for name in ("text", "label", "kind"))
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{place}: 'text' must be words, like {_FORM}")
    if isinstance(label, bool) or label not in (0, 1):
        raise InputError(f"{place}: 'label' must be 0 (benign) or 1 (harmful), not {label!r}")
    if kind not in ("prompt", "answer"):
        raise InputError(f'{place}: \'kind\' must be "prompt" or "answer", not {kind!r}')
    return Labelled(text=text, label=int(label), kind=kind)


_FORM = '{"text": "How do I bake bread?", "label": 0, "kind": "prompt"}'
