"""From settings to a guard: the policy, and the checks that it uses."""

from collections.abc import Callable, Mapping
from typing import cast

from fluvial.config import Settings
from fluvial.guard import policy as policies
from fluvial.guard.check import Check
from fluvial.guard.guard import Guard
from fluvial.guard.pattern import PatternCheck
from fluvial.guard.policy import Policy
from fluvial.guard.word import WordCheck

Maker = Callable[[Policy], Check]


def load_policy(settings: Settings) -> Policy:
    """Read the policy that the settings name. Raises InputError naming what is wrong."""
    policy = policies.load(settings.guard_policy)
    return policy.with_hold(
        window_tokens=settings.guard_window_tokens, delay_ms=settings.guard_delay_ms
    )


def open_guard(policy: Policy, *, models: Mapping[str, Check] | None = None) -> Guard:
    """Make a guard of a policy and the checks that it uses; `models` are its guard models.

    Raises InputError where a check is not there, GuardError where one can't be opened.
    """
    checks = [_open(name, policy) for name in policy.checks.names() if name in _MAKERS]
    return Guard(policy, [*checks, *(models or {}).values()])


def _open(name: str, policy: Policy) -> Check:
    return _MAKERS[name](policy)


def _open_words(policy: Policy) -> Check:
    return WordCheck(policy.listed())


def _open_patterns(policy: Policy) -> Check:
    check = PatternCheck()
    # Its libraries take long to load: now, and not with the first question.
    check.find("", kind="prompt")
    # A cached property keeps the promise of a property; only the type checker does not know.
    return cast("Check", check)


_MAKERS: dict[str, Maker] = {"words": _open_words, "patterns": _open_patterns}
