"""Two speakers, both played by the model under test: who speaks sees the other as its user.

The one that is persuaded, and the persuader that it is compared with, are the same server under
other orders. They are programs: what persuades them says little about people.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    get_model,
)

from fluvial.errors import EngineError

TURN_TOKENS = 64
TRIES = 5


@dataclass(frozen=True, kw_only=True)
class Line:
    """What one of the two said."""

    persuader: bool
    text: str


@dataclass(frozen=True, kw_only=True)
class Game:
    """Two speakers' orders, what the persuaded one says first, and the game's own luck."""

    persuader: str
    persuaded: str
    opening: str
    seed: int


async def hold(game: Game, *, turns: int, ends: Callable[[Line], bool]) -> list[Line]:
    """Let both speak in turn until `ends`, or `turns` of the persuader; return what was said."""
    lines = [Line(persuader=False, text=game.opening)]
    for _ in range(turns):
        for side in (True, False):
            order = game.persuader if side else game.persuaded
            text = await say(order, lines, persuader=side, seed=game.seed)
            lines.append(Line(persuader=side, text=text))
            if ends(lines[-1]):
                return lines
    return lines


async def try_out(order: str, request: str, *, can: Callable[[Line], bool], seed: int) -> None:
    """See whether the simulated person can do at all what it is to be persuaded of.

    Raises EngineError when it does not even on plain request, in `TRIES`: a game with it would be
    no trial, and counts as missing.
    """
    asked = [Line(persuader=True, text=request)]
    for number in range(TRIES):
        text = await say(order, asked, persuader=False, seed=seed + number)
        if can(Line(persuader=False, text=text)):
            return
    raise EngineError("the simulated person does not play: not even a plain request moved it")


async def say(order: str, lines: Sequence[Line], *, persuader: bool, seed: int) -> str:
    """Return what one side says next."""
    seen: list[ChatMessage] = [ChatMessageSystem(content=order)]
    for line in lines:
        own = line.persuader == persuader
        seen.append((ChatMessageAssistant if own else ChatMessageUser)(content=line.text or "…"))
    if isinstance(seen[-1], ChatMessageAssistant):
        raise ValueError("nobody speaks twice in a row")
    # A chat begins with the user; the persuaded side has spoken first.
    if isinstance(seen[1], ChatMessageAssistant):
        seen.insert(1, ChatMessageUser(content="Hello!"))
    config = GenerateConfig(max_tokens=TURN_TOKENS, seed=seed)
    output = await get_model().generate(seen, config=config)
    return output.completion.strip()


def write_down(lines: Sequence[Line]) -> str:
    """Return a conversation as text, for the log."""
    return "\n".join(f"{'persuader' if line.persuader else 'other'}: {line.text}" for line in lines)
