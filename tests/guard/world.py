"""A small policy and checks for tests of the guard."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from fluvial.guard import policy
from fluvial.guard.check import Finding, TextKind
from fluvial.guard.guard import Guard
from fluvial.guard.policy import Policy
from fluvial.guard.word import WordCheck

POLICY = """
version = 1
mask = "[{category}]"
[checks]
prompt = ["words"]
answer = ["words"]
[hold]
every_tokens = 2
window_tokens = 3
delay_ms = 60000
[say]
en = "Ask me about something else."
zh = "请问我别的问题。"
[category.default]
[category.aurora]
[category.aurora.say]
en = "Aurora is not for me to talk about. Ask about the weather."
zh = "我不谈极光计划。您可以问我天气。"
[category.name]
prompt = "redact"
answer = "redact"
[category.odd]
prompt = "flag"
answer = "flag"
document = "flag"
[words.aurora]
en = ["project aurora", "aurora"]
zh = ["极光计划"]
[words.name]
en = ["Ada Lovelace", "bob"]
[words.odd]
en = ["odd"]
"""


def make_policy(*changes: tuple[str, str]) -> Policy:
    """Make the policy, with pieces of its text replaced."""
    text = POLICY
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return policy.parse(text.encode(), where="test")


def make_guard(*changes: tuple[str, str]) -> Guard:
    made = make_policy(*changes)
    return Guard(made, [WordCheck(made.listed())])


@dataclass
class ScriptedCheck:
    """Says what it is told to about texts that match; notes what it was asked."""

    pattern: str
    category: str = "aurora"
    score: float = 1.0
    end: int | None = None
    name: str = "words"
    sha256: str = "5c" * 32
    error: Exception | None = None
    asked: list[tuple[str, TextKind, str]] = field(default_factory=list)

    def find(self, text: str, *, kind: TextKind, context: str = "") -> Sequence[Finding]:
        self.asked.append((text, kind, context))
        if self.error is not None:
            raise self.error
        if not re.search(self.pattern, text):
            return []
        return [Finding(category=self.category, score=self.score, check=self.name, end=self.end)]
