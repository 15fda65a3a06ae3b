"""Which test items are alike: a verdict counts clusters, so that a hundred rewordings of one
question are one trial.

Two items are joined when their content words overlap by half (Jaccard), and clusters are what hangs
together: rather too large than too small, which only costs evidence.
"""

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

OVERLAP = 0.5
NEAR = 0.6
RUN_WORDS = 4
STEM_CHARS = 5
"""Words are compared by so many first letters: hack, hacks, hacking are one."""

_COMMON = frozenset(
    (
        *("a", "about", "an", "and", "are", "as", "at", "be", "by", "can", "create", "describe"),
        *("detail", "detailed", "do", "does", "explain", "for", "from", "get", "give", "guide"),
        *("how", "i", "in", "instructions", "into", "is", "it", "make", "me", "my", "of", "on"),
        *("or", "provide", "someone", "step", "steps", "teach", "tell", "that", "the", "their"),
        *("them", "to", "tutorial", "use", "using", "was", "what", "which", "who", "will", "with"),
        *("without", "write", "you", "your"),
    )
)


def group(texts: Sequence[str]) -> list[int]:
    """Return a cluster's number for each text, counted in the order in which they appear."""
    words = [stem(text) for text in texts]
    parent = list(range(len(texts)))
    for high in range(len(texts)):
        for low in range(high):
            if _overlap(words[low], words[high]) >= OVERLAP:
                parent[_find(parent, high)] = _find(parent, low)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(_find(parent, each), len(numbers)) for each in range(len(texts))]


def drop_repeats(texts: Sequence[str], *, of: Sequence[str]) -> list[str]:
    """Return the texts that do not nearly repeat one of others.

    Two nearly repeat each other when they share `NEAR` of the shorter one's runs of four words.
    """
    known = [_list_runs(text) for text in of]
    runs = [_list_runs(text) for text in texts]
    return [
        text
        for text, own in zip(texts, runs, strict=True)
        if not any(_repeats(own, each) for each in known)
    ]


def draw(items: Sequence[T], clusters: Sequence[object], *, count: int, seed: int) -> list[T]:
    """Draw `count` items, from as many clusters as there are before a second one of any.

    Fewer are returned when there are no more. The same seed draws the same.
    """
    rng = random.Random(seed)  # noqa: S311  a draw that can be repeated, nothing secret
    members: dict[object, list[T]] = defaultdict(list)
    for item, cluster in zip(items, clusters, strict=True):
        members[cluster].append(item)
    queues = list(members.values())
    rng.shuffle(queues)
    for queue in queues:
        rng.shuffle(queue)
    rounds = range(max((len(queue) for queue in queues), default=0))
    drawn = [queue[number] for number in rounds for queue in queues if number < len(queue)]
    return drawn[:count]


def stem(text: str) -> frozenset[str]:
    """Return the beginnings of a text's content words."""
    found = re.findall(r"\w+", text.casefold())
    return frozenset(word[:STEM_CHARS] for word in found if word not in _COMMON)


def _list_runs(text: str) -> frozenset[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    return frozenset(tuple(words[at : at + RUN_WORDS]) for at in range(len(words) - RUN_WORDS + 1))


def _repeats(one: frozenset[tuple[str, ...]], other: frozenset[tuple[str, ...]]) -> bool:
    shorter = min(len(one), len(other))
    return shorter > 0 and len(one & other) >= NEAR * shorter


def _overlap(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other) if one or other else 1.0


def _find(parent: list[int], item: int) -> int:
    while parent[item] != item:
        parent[item] = parent[parent[item]]
        item = parent[item]
    return item
