"""What every check of the guard has in common: text in, findings out.

A check only finds; what is done about a finding is the policy's (`policy.py`). Checks know nothing
of streams: `hold.py` gives them ever longer beginnings of an answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

TextKind = Literal["prompt", "answer"]
Action = Literal["allow", "flag", "redact", "refuse", "stop"]
"""From the mildest to the strictest. `refuse` is for prompts, `stop` for answers."""

ACTIONS: tuple[Action, ...] = ("allow", "flag", "redact", "refuse", "stop")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that a check saw.

    `category` is a name of the policy, such as "violence" or "email"; `score` is in 0 to 1, the
    higher the surer; `check` names who found it. `start` and `end` are characters of the text that
    was checked, `end` None where the finding is about the text as a whole.
    """

    category: str
    score: float
    check: str
    start: int = 0
    end: int | None = None


class Check(Protocol):
    """One way to look at a text. Implementations are immutable and safe to call from any thread."""

    @property
    def name(self) -> str:
        """The name in the policy, such as "patterns" or "classifier"."""
        ...

    @property
    def sha256(self) -> str:
        """A digest of everything that decides its findings: weights, patterns, settings."""
        ...

    def find(self, text: str, *, kind: TextKind, context: str = "") -> Sequence[Finding]:
        """Return what is found in `text`; blocks, and belongs in a worker thread.

        `context` is what was said before: the prompt of an answer, earlier turns of a prompt.
        Raises GuardError when the check itself fails: the caller then shows nothing more.
        """
        ...
