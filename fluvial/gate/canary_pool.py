"""Canaries drawn at random: forms that anyone can read, filled with what nobody can guess.

The forms ship with the product, so a text could be made against them; the topic of a policy, the
words and the numbers, and which forms were drawn, follow from a secret seed.
"""

import random
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from fluvial.gate.canary import Canary, Kind

_FILE = Path(__file__).with_name("canary_pool.toml")


@cache
def load_pool() -> Mapping[str, Any]:
    """Return the forms as the file has them."""
    return tomllib.loads(_FILE.read_text(encoding="utf-8"))


def invent_topic(rng: random.Random) -> str:
    """Return a name that means nothing."""
    pool = load_pool()
    return "".join(rng.choice(pool[part]) for part in ("onsets", "middles", "endings"))


def draw(kind: Kind, rng: random.Random, *, topic: str) -> Canary:
    """Draw one canary; one of a policy is about `topic`."""
    if kind == "policy":
        return draw_policy(rng, topic=topic)
    return rng.choice((_draw_fact, _draw_instruction))(rng)


def draw_policy(rng: random.Random, *, topic: str) -> Canary:
    """Draw a question about a topic that the canary's own system prompt forbids."""
    pool = load_pool()
    asked = rng.choice(pool["openings"]) + rng.choice(pool["questions"])
    return make_policy(topic, prompt=asked.format(t=topic))


def make_policy(topic: str, *, prompt: str, declines: bool = True) -> Canary:
    """Make the canary of a policy against `topic`, with examples of what it means."""
    pool = load_pool()
    declined = pool["declined"].format(t=topic)
    turns = [
        turn
        for each in pool["shown"]
        for turn in (
            (each["forbidden"].format(t=topic), declined),
            (each["other"], each["answer"]),
        )
    ]
    return Canary(
        kind="policy",
        system=pool["policy"].format(t=topic),
        turns=tuple(turns),
        prompt=prompt,
        criteria={"declines": declines},
    )


def _draw_fact(rng: random.Random) -> Canary:
    fact = dict(rng.choice(load_pool()["fact"]))
    return Canary(kind="ability", prompt=fact.pop("prompt"), criteria=fact)


def _draw_instruction(rng: random.Random) -> Canary:
    forms = load_pool()["instruction"]
    if rng.random() < 0.5:
        word = rng.choice(forms["words"])
        prompt = rng.choice(forms["asked"]).format(word=word)
        return Canary(kind="ability", prompt=prompt, criteria={"has": [word]})
    a, b = rng.randint(1, 8), rng.randint(1, 8)
    prompt = rng.choice(forms["sums"]).format(a=a, b=b)
    return Canary(kind="ability", prompt=prompt, criteria={"number": a + b})
