"""Alpha is spent over the attempts of one lineage, so testing until it passes does not work.

Attempt k of a lineage may be wrong with probability alpha * 6 / (pi^2 k^2). Over all attempts, how
many there ever are, that sums to alpha.
"""

import math

from fluvial.errors import InputError
from fluvial.gate.plan import Plan
from fluvial.gate.statistics import check_share

MAX_ATTEMPTS = 10_000


def spend_alpha(alpha: float, *, attempt: int) -> float:
    """Return the part of alpha that attempt number `attempt`, from 1, may use. InputError."""
    check_share(alpha, name="alpha")
    if type(attempt) is not int or not 1 <= attempt <= MAX_ATTEMPTS:
        raise InputError(
            f"attempt is {attempt!r:.80}; a whole number from 1 to {MAX_ATTEMPTS} is due",
            param="attempt",
        )
    return alpha * 6 / (math.pi**2 * attempt**2)


def find_alpha(plan: Plan) -> float:
    """Return the alpha of each risk of a plan: what its confidence leaves, spent over attempts.

    Each risk has all of it. A release needs every risk to pass, so a model over any one bar is
    released only when that one test errs: with more risks that grows no likelier.
    """
    return spend_alpha(1 - plan.confidence, attempt=plan.attempt)
