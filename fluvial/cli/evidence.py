"""What scores say, in sums: surprise frozen and adapted, what was left out, and the cost."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

REASONS = {
    "": "for no reason noted",
    "frozen": "learning was frozen",
    "short": "too short",
    "unsurprising": "left out by the rule",
    "not_finite": "not finite",
}


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Sums over chunks. Bits per byte are weighted by bytes; `seconds` None: not known for all."""

    chunks: int
    frozen_bpb: float
    adapted_bpb: float
    left_out: Counter[str]
    seconds: float | None

    @property
    def gain(self) -> float:
        """The share of the frozen model's surprise that learning removed."""
        return 1 - self.adapted_bpb / self.frozen_bpb if self.frozen_bpb else 0.0

    def explain_left_out(self) -> str:
        """Say how many chunks were not learned from, and why; "" where there were none."""
        if not self.left_out:
            return ""
        reasons = [
            f"{count} {REASONS.get(reason, reason)}"
            for reason, count in self.left_out.most_common()
        ]
        count = self.left_out.total()
        return f"{count} of {self.chunks} chunks not learned from: {', '.join(reasons)}"


def order_scores(scores: Sequence[Json]) -> list[Json]:
    """Keep the newest score of each place, since work lost in a crash is scored again; in order."""
    places = {(score["reading"], score["start"]): score for score in _sort(scores)}
    return _sort([*places.values()])


def sum_up(scores: Sequence[Json]) -> Evidence | None:
    """Add scores up; None where there is no byte to compare."""
    size = sum(score["bytes"] for score in scores)
    if not size:
        return None
    costs: list[float | None] = [score["seconds"] for score in scores]
    known = [cost for cost in costs if cost is not None]
    return Evidence(
        chunks=len(scores),
        frozen_bpb=sum(score["frozen_bits_per_byte"] * score["bytes"] for score in scores) / size,
        adapted_bpb=sum(score["adapted_bits_per_byte"] * score["bytes"] for score in scores) / size,
        left_out=Counter(score["reason"] for score in scores if not score["learned"]),
        seconds=sum(known) if len(known) == len(costs) else None,
    )


def _sort(scores: Sequence[Json]) -> list[Json]:
    return sorted(scores, key=lambda score: score["index"])
