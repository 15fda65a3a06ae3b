"""What answers share: beginnings that were computed before, within an owner and never across."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluvial.config import load
from fluvial.model.checkpoint import open_checkpoint
from fluvial.service.start import open_engine
from fluvial.service.turn import Turn
from fluvial.testing import Rig, make_rig
from fluvial.types import Message, Sampling

RULES = Message(role="system", content="Rivers carry what they meet; say where it goes. " * 4)
SAMPLING = Sampling(temperature=0, max_tokens=3)


@pytest.fixture
def rig(tmp_path: Path, tiny_model: Path) -> Iterator[Rig]:
    """A service on the engine itself, with the tiny model."""
    settings = load(overrides={"data_dir": tmp_path, "threads": 1, "learning": False})
    engine = open_engine(open_checkpoint(tiny_model), name="scripted", settings=settings)
    rig = make_rig(tmp_path / "rig", settings=settings, running=engine)
    yield rig
    rig.service.close()


async def count_cached(turn: Turn) -> int:
    usage = [delta async for delta in turn][-1].usage
    assert usage is not None
    return usage.cached_tokens


async def ask_session(rig: Rig, text: str, *, owner: str) -> int:
    session = await asyncio.to_thread(rig.service.create_session, owner=owner)
    messages = [RULES, Message(role="user", content=text)]
    return await count_cached(await rig.service.answer(session, messages, sampling=SAMPLING))


async def ask_alone(rig: Rig, text: str, *, owner: str, user: str) -> int:
    messages = [RULES, Message(role="user", content=text)]
    turns = await rig.service.answer_alone(
        messages, sampling=SAMPLING, owner=owner, lane=f"{owner}/{user}"
    )
    return await count_cached(turns[0])


def test_sessions_of_one_owner_share_their_system_prompt_and_owners_never_do(rig: Rig) -> None:
    async def ask() -> None:
        assert await ask_session(rig, "Where does sand go?", owner="ada") == 0
        shared = await ask_session(rig, "And a leaf?", owner="ada")
        assert shared > len(RULES.content.split())
        assert await ask_session(rig, "Where does sand go?", owner="bob") == 0
        assert await ask_session(rig, "And a leaf?", owner="bob") == shared

    asyncio.run(ask())


def test_answers_outside_of_sessions_share_with_those_inside_but_not_with_other_owners(
    rig: Rig,
) -> None:
    async def ask() -> None:
        assert await ask_session(rig, "Where does sand go?", owner="ada") == 0
        assert await ask_alone(rig, "Where does sand go?", owner="bob", user="x") == 0
        shared = await ask_alone(rig, "And a leaf?", owner="ada", user="x")
        assert shared > len(RULES.content.split())
        assert await ask_alone(rig, "And a leaf?", owner="ada", user="y") > shared

    asyncio.run(ask())


def test_what_a_deleted_session_left_speeds_nothing_up(rig: Rig) -> None:
    async def ask() -> None:
        session = await asyncio.to_thread(rig.service.create_session, owner="ada")
        messages = [RULES, Message(role="user", content="Where does sand go?")]
        await count_cached(await rig.service.answer(session, messages, sampling=SAMPLING))
        await rig.service.delete_session(session)
        assert await ask_session(rig, "Where does sand go?", owner="ada") == 0

    asyncio.run(ask())
