"""From settings to a guard: the policy, and the checks that it uses."""

import functools
from collections.abc import Callable
from typing import cast

from fluvial.config import Settings
from fluvial.errors import InputError
from fluvial.guard import policy as policies
from fluvial.guard.check import Check
from fluvial.guard.guard import Guard
from fluvial.guard.pattern import PatternCheck
from fluvial.guard.policy import ModelProvider, Policy
from fluvial.guard.provider_http import HttpCheck
from fluvial.guard.provider_model import GuardModelCheck, Writer
from fluvial.guard.word import WordCheck

Maker = Callable[[Policy], Check]
OpenModel = Callable[[ModelProvider], Writer]


def load_policy(settings: Settings) -> Policy:
    """Read the policy that the settings name. Raises InputError naming what is wrong."""
    policy = policies.load(settings.guard_policy)
    return policy.with_hold(
        window_tokens=settings.guard_window_tokens, delay_ms=settings.guard_delay_ms
    )


def open_guard(policy: Policy, *, open_model: OpenModel | None = None) -> Guard:
    """Make a guard of a policy and the checks that it uses; `close` it.

    `open_model` runs a guard model. Raises InputError where a check is not there or can't be
    opened.
    """
    return Guard(policy, [_open(name, policy, open_model) for name in policy.checks.names()])


def _open(name: str, policy: Policy, open_model: OpenModel | None) -> Check:
    kind, _, provider = name.partition(".")
    if kind == "http":
        return HttpCheck(name, policy.http[provider])
    if kind == "model":
        if open_model is None:
            raise InputError(f"the check {name!r} needs a guard model, which does not run here")
        model = policy.model[provider]
        return GuardModelCheck(name, model, writer=open_model(model))
    if name not in _MAKERS:
        raise InputError(f"the guard's policy uses the check {name!r}, which is not there")
    return _MAKERS[name](policy)


def _open_words(policy: Policy) -> Check:
    return WordCheck(policy.listed())


def _open_patterns(policy: Policy) -> Check:
    check = PatternCheck()
    # Its libraries take long to load: now, and not with the first question.
    check.find("", kind="prompt")
    # A cached property keeps the promise of a property; only the type checker does not know.
    return cast("Check", check)


def _open_classifier(policy: Policy) -> Check:
    return _load_classifier()


@functools.cache
def _load_classifier() -> Check:
    """Open the weights once: they never change, and any number of guards may use them."""
    from fluvial.guard.classifier import ClassifierCheck

    return ClassifierCheck.load()


_MAKERS: dict[str, Maker] = {
    "words": _open_words,
    "patterns": _open_patterns,
    "classifier": _open_classifier,
}
