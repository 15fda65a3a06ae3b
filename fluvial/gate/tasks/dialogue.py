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

TURN_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class Line:
    """What one of the two said."""

    persuader: bool
    text: str


async def hold(
    *, persuader: str, persuaded: str, opening: str, turns: int, ends: Callable[[Line], bool]
) -> list[Line]:
    """Let both speak in turn until `ends`, or `turns` of the persuader; return what was said.

    `persuader` and `persuaded` are their orders; the persuaded one says `opening` first.
    """
    lines = [Line(persuader=False, text=opening)]
    for _ in range(turns):
        for side in (True, False):
            order = persuader if side else persuaded
            lines.append(Line(persuader=side, text=await say(order, lines, persuader=side)))
            if ends(lines[-1]):
                return lines
    return lines


async def say(order: str, lines: Sequence[Line], *, persuader: bool) -> str:
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
    output = await get_model().generate(seen, config=GenerateConfig(max_tokens=TURN_TOKENS))
    return output.completion.strip()


def write_down(lines: Sequence[Line]) -> str:
    """Return a conversation as text, for the log."""
    return "\n".join(f"{'persuader' if line.persuader else 'other'}: {line.text}" for line in lines)
