"""How the tokens of one step are shared out among the sequences that run."""

from collections.abc import Sequence as Items
from typing import Protocol


class Share(Protocol):
    """A sequence, as far as its share goes. `lag` counts the tokens not computed yet, 1 or more."""

    @property
    def lane(self) -> str: ...

    @property
    def lag(self) -> int: ...


def share_tokens(rows: Items[Share], *, step_tokens: int, prefill_tokens: int) -> list[int]:
    """Return how many tokens each of `rows` computes in the next step, at most its lag.

    Rows that lack one token, mostly those that decode, get it first. What is left of `step_tokens`,
    at most `prefill_tokens`, is divided evenly over the lanes that still read a prompt; what a lane
    doesn't need goes to the others; within a lane the first row comes first. Invariant: all but
    the rows behind the first of their lane get at least one token, as long as `step_tokens` is at
    least the number of rows.
    """
    shares = [1 if row.lag == 1 else 0 for row in rows]
    reading = [n for n, share in enumerate(shares) if share == 0]
    lanes: dict[str, list[int]] = {}
    for n in reading:
        lanes.setdefault(rows[n].lane, []).append(n)
    left = max(len(lanes), min(step_tokens - sum(shares), prefill_tokens))
    needs = {lane: sum(rows[n].lag for n in numbers) for lane, numbers in lanes.items()}
    for given, lane in enumerate(sorted(needs, key=lambda lane: needs[lane])):
        part = min(needs[lane], left // (len(lanes) - given))
        left -= part
        for n in lanes[lane]:
            shares[n] = min(rows[n].lag, part)
            part -= shares[n]
    return shares
