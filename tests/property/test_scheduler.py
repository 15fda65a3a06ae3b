"""Anything that callers do, at any time: no slot leaks, no streams mix, nobody starves."""

import logging
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.engine.world import POISON, VOCAB, World

LANES = st.integers(0, 4)


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    """Keep thousands of faults that are made on purpose out of the log."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class Callers(RuleBasedStateMachine):
    """Requests, cancels, deadlines, new versions, forgotten sessions and faults, in any order."""

    @initialize(
        recurrent=st.booleans(),
        copies_late=st.booleans(),
        pages=st.integers(4, 24),
        spill=st.booleans(),
        batch_limit=st.integers(1, 5),
        step_tokens=st.integers(1, 20),
        fault_rate=st.sampled_from([0.0, 0.05]),
    )
    def begin(self, **options: object) -> None:
        self.world = World(page_tokens=3, context=40, queue_limit=6, **options)

    @rule(
        lane=LANES,
        prompt=st.lists(st.integers(1, VOCAB - 1), min_size=1, max_size=20),
        goes_on=st.booleans(),
        limit=st.integers(1, 30),
        n=st.sampled_from([1, 1, 1, 3]),
        seed=st.none() | st.integers(0, 3),
        shared=st.booleans(),
        deadline_s=st.none() | st.integers(1, 30),
        poison=st.sampled_from([False, False, False, False, True]),
    )
    def ask(
        self,
        lane: int,
        prompt: list[int],
        goes_on: bool,
        limit: int,
        n: int,
        seed: int | None,
        shared: bool,
        deadline_s: int | None,
        poison: bool,
    ) -> None:
        world = self.world
        owner = "everyone" if shared else None
        name = f"lane {lane}"
        if goes_on:
            prompt = [*world.spoken.get(owner or name, []), *prompt]
        prompt = prompt[: world.capacity - 1]
        if poison:
            prompt = [*prompt[:-1], POISON]
        limit = min(limit, world.capacity - len(prompt))
        world.ask(
            prompt, lane=name, limit=limit, n=n, seed=seed, owner=owner, deadline_s=deadline_s
        )

    @precondition(lambda self: self.world.alive)
    @rule(which=st.integers(0, 100))
    def cancel(self, which: int) -> None:
        self.world.cancel(self.world.alive[which % len(self.world.alive)])

    @rule(lane=LANES)
    def forget(self, lane: int) -> None:
        self.world.forget(f"lane {lane}")

    @rule(lane=LANES)
    def learn(self, lane: int) -> None:
        self.world.versions[f"lane {lane}"] += 1

    @rule(count=st.integers(1, 12))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.world.step()

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "world"):
            self.world.batch.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.settle()


TestCallers = Callers.TestCase
TestCallers.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def simulate(world: World, *, requests: int) -> None:
    """Let callers come and go at random until `requests` have ended."""
    rng = world.random
    while world.ended < requests:
        for _ in range(rng.choice((0, 0, 1, 1, 2))):
            lane = rng.choice(world.lanes)
            owner = "everyone" if rng.random() < 0.1 else None
            prompt = [rng.randrange(1, VOCAB) for _ in range(rng.randint(1, 20))]
            if rng.random() < 0.4:
                prompt = [*world.spoken.get(owner or lane, []), *prompt]
            prompt = prompt[: world.capacity - rng.randint(1, 6)]
            if rng.random() < 0.01:
                prompt[rng.randrange(len(prompt))] = POISON
            world.ask(
                prompt,
                lane=lane,
                owner=owner,
                limit=min(rng.randint(1, 12), world.capacity - len(prompt)),
                n=3 if rng.random() < 0.03 else 1,
                seed=rng.randrange(5) if rng.random() < 0.3 else None,
                deadline_s=rng.randint(1, 60) if rng.random() < 0.05 else None,
            )
        chance = rng.random()
        if chance < 0.05 and world.alive:
            world.cancel(rng.choice(world.alive))
        elif chance < 0.06:
            world.forget(rng.choice(world.lanes))
        elif chance < 0.08:
            world.versions[rng.choice(world.lanes)] += 1
        world.step()
    world.settle()


KINDS = [
    {"recurrent": recurrent, "copies_late": late, "spill": spill, "pages": pages, "seed": seed}
    for seed, (recurrent, late, spill, pages) in enumerate(
        [
            (False, True, False, 24),
            (False, False, True, 40),
            (True, True, True, 24),
            (True, False, False, 17),
        ]
    )
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_two_thousand_random_callers_each(kind: dict[str, int]) -> None:
    world = World(fault_rate=0.002, **kind)
    simulate(world, requests=2000)
    assert world.finishes.keys() >= {"stop", "length", "cancelled", "deadline", "error"}
    assert world.cached_tokens > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_two_hundred_thousand_random_callers(kind: dict[str, int]) -> None:
    world = World(fault_rate=0.0005, **(kind | {"seed": 100 + kind["seed"]}))
    simulate(world, requests=50_000)
    assert world.ended >= 50_000


def test_lone_long_prompt_does_not_hold_up_answers() -> None:
    """While one document of a lane is read, each answer of others goes on in every step."""
    world = World(pages=100, context=400, page_tokens=4, step_tokens=16)
    quick = world.ask([1, 2, 3], lane="lane 1", limit=60, seed=1)[0]
    world.step()
    world.ask([1 + n % 9 for n in range(300)], lane="lane 0", limit=1)
    counts = []
    for _ in range(10):
        world.step()
        if quick.generation.ended:
            break
        counts.append(len(quick.generation._deltas))
    assert all(later == earlier + 1 for earlier, later in pairwise(counts))


@pytest.mark.parametrize("recurrent", [False, True])
def test_large_request_is_not_starved_by_a_stream_of_small_ones(recurrent: bool) -> None:
    """It needs nearly all pages; small ones keep coming, more than can ever run."""
    world = World(pages=10, page_tokens=4, context=40, lanes=3, recurrent=recurrent)
    for _ in range(20):
        world.ask([1, 2, 3], lane="lane 1", limit=12, seed=world.steps)
        world.step()
    large = world.ask([3 + n % 5 for n in range(34)], lane="lane 0", limit=5)[0]
    steps = 0
    while not large.generation.ended:
        while world.ask([1, 2, 3], lane=f"lane {1 + steps % 2}", limit=12, seed=world.steps):
            pass
        world.step()
        steps += 1
        assert steps < 200
    world.settle()


def test_running_out_of_pages_never_stops_the_oldest() -> None:
    world = World(pages=12, page_tokens=4, context=48, batch_limit=4, step_tokens=16)
    asked = [world.ask([n + 1] * 5, lane=f"lane {n}", limit=40, seed=n)[0] for n in range(4)]
    done: list[int] = []
    while world.alive:
        before = {id(row.generation): row.cache is not None for row in world.batch.rows}
        world.step()
        running = [row for row in world.batch.rows if id(row.generation) in before]
        assert not running or running[0].cache is not None
        done += [n for n, each in enumerate(asked) if each.generation.ended and n not in done]
    assert len(done) == 4
    world.settle()
