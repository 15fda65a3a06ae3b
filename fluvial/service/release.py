"""Whether this server may answer: in production only under a release for exactly what it loaded.

In development there is no release: the server listens on loopback alone, and says so. In production
a valid one is needed to start, and its end stops answers while the server runs.
"""

import contextlib
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Literal, final

from fluvial.config import Settings
from fluvial.errors import (
    ConflictError,
    FluvialError,
    InputError,
    ReleaseEndedError,
    ReleaseError,
)
from fluvial.gate import key, release
from fluvial.gate.release import Release
from fluvial.gate.subject import Subjects
from fluvial.service.protocol import Audit
from fluvial.service.record import SYSTEM
from fluvial.types import Version

Mode = Literal["development", "production"]
Adapting = Mapping[str, float | str | None]

_ROUNDING = 1 + 1e-6
"""A version that was scaled to its budget may lie above it by the rounding of its tensors."""


@final
class Clock:
    """The machine's clock, which while we run never goes back: a release ends when it ends."""

    def __init__(self) -> None:
        self._started_s, self._begun_s = time.time(), time.monotonic()

    def now(self) -> float:
        """Return seconds since the epoch."""
        return max(time.time(), self._started_s + time.monotonic() - self._begun_s)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What people are told of the release. Times are seconds since the epoch."""

    mode: Mode
    released: bool
    reason: str
    expires_at: float | None
    plan: str | None


@final
class Clearance:
    """Lets answers begin, or not. `subjects` are the digests of what was loaded. Thread-safe."""

    def __init__(
        self,
        *,
        subjects: Subjects,
        adaptation: Adapting | None = None,
        held: Release | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Join what was loaded with its release.

        `held` is a release that was verified for `subjects`; None: development. `adaptation` is
        what a release must say of versions that learned: `drift_budget` and `canary_sha256`.
        """
        self.subjects = dict(subjects)
        self.adaptation = dict(adaptation or {})
        self._held = held
        self._clock = clock or Clock()

    @property
    def is_bounded(self) -> bool:
        """Whether versions must be covered by a release."""
        return self._held is not None

    def require(self) -> None:
        """Raise ReleaseEndedError when the release has come to its end."""
        if self._held is not None and self._clock.now() >= self._held.terms.expires_at:
            raise ReleaseEndedError(
                "the release of this model has expired, so it answers no longer; its operator "
                "must test and sign it again"
            )

    def require_covered(self, version: Version) -> None:
        """Raise ConflictError `version_not_covered` where the release says nothing of a version.

        It covers those inside its drift budget, and none where it has no budget.
        """
        if self._held is None:
            return
        budget = self._held.terms.adaptation.drift_budget
        if budget is None:
            why = "the release covers the base alone"
        elif version.drift is None:
            why = "how far it drifted from the base was never measured"
        elif not version.drift <= budget * _ROUNDING:  # nor what is no number
            why = f"its drift of {version.drift:.4f} is over the {budget:.4f} that was tested"
        else:
            return
        raise ConflictError(
            f"version {version.number} may not answer here: {why}. Restore another one, or the "
            "base (0)",
            code="version_not_covered",
        )

    def tell(self) -> Standing:
        """Return what people are told."""
        if self._held is None:
            return Standing(
                mode="development",
                released=False,
                reason="not released: nobody has shown that this model keeps to its bars; it "
                "serves this machine alone",
                expires_at=None,
                plan=None,
            )
        terms = self._held.terms
        ended = self._clock.now() >= terms.expires_at
        reason = "the release has expired" if ended else f"passed the plan {terms.plan_name}"
        return Standing(
            mode="production",
            released=not ended,
            reason=reason,
            expires_at=terms.expires_at,
            plan=terms.plan_name,
        )


def read_release(settings: Settings, *, now: float) -> Release | None:
    """Return the release that the settings name, verified and passed; None in development.

    Whether it is for what is served, `clear` tells. Raises InputError where a setting is missing,
    NotFoundError where a file is, and ReleaseError for what is no valid release.
    """
    if settings.mode == "development":
        return None
    require_settings(settings)
    assert settings.release is not None  # noqa: S101 - `require_settings` has looked
    assert settings.release_key is not None  # noqa: S101
    trusted = key.load_public(settings.release_key)
    found = release.verify(release.load(settings.release), keys=[trusted], now=now)
    release.require_pass(found)
    return found


def require_settings(settings: Settings) -> None:
    """Raise InputError where production is asked for without a release, or without its key."""
    if settings.mode == "development":
        return
    for name in ("release", "release_key"):
        if getattr(settings, name) is None:
            raise InputError(
                f"mode is production, which needs the setting {name}: a signed release of what is "
                "served, and the public key of who signs. `fluvial gate` makes them; without, "
                "leave mode at development, which serves this machine alone",
                param=name,
            )


def clear(
    held: Release | None,
    *,
    subjects: Subjects,
    adaptation: Adapting | None = None,
    clock: Clock | None = None,
) -> Clearance:
    """Return the clearance of a release for what was loaded.

    Raises ReleaseError `release_other_subjects` naming what differs.
    """
    if held is not None:
        differing = compare(held.subjects, subjects)
        if differing:
            raise ReleaseError(
                f"the release is for something else than what is served: {'; '.join(differing)}. "
                "Test and sign what is served, or serve what was released",
                code="release_other_subjects",
            )
    return Clearance(subjects=subjects, adaptation=adaptation, held=held, clock=clock)


def compare(released: Mapping[str, str], loaded: Mapping[str, str]) -> list[str]:
    """List what differs between a release's subjects and what was loaded, by name."""
    differing: list[str] = []
    for name in sorted(released.keys() | loaded.keys()):
        if name not in loaded:
            differing.append(f"{name[:40]} was released, but is nothing that is served here")
        elif name not in released:
            differing.append(f"{name} is served, but was not released")
        elif released[name] != loaded[name]:
            differing.append(f"{name} is {loaded[name][:12]}…, {released[name][:12]}… was released")
    return differing


@contextlib.contextmanager
def recording(audit: Audit, settings: Settings) -> Generator[None]:
    """Put on record why a release was refused inside the block; the error goes on."""
    try:
        yield
    except FluvialError as error:
        detail = {"code": error.code, "why": error.message[:1000]}
        audit.append("release.refused", actor=SYSTEM, subject=_name(settings), detail=detail)
        raise


def record_accepted(audit: Audit, settings: Settings, clearance: Clearance) -> None:
    """Put on record what is served under a release; nothing in development."""
    if settings.mode == "development":
        return
    standing = clearance.tell()
    detail = {"plan": standing.plan, "expires_at": standing.expires_at, **clearance.subjects}
    audit.append("release.accepted", actor=SYSTEM, subject=_name(settings), detail=detail)


def say_adaptation(settings: Settings, *, canary_sha256: str | None = None) -> Adapting:
    """Return what a release of this server must say of versions that learned."""
    return {"drift_budget": settings.drift_budget, "canary_sha256": canary_sha256}


def _name(settings: Settings) -> str:
    return "" if settings.release is None else settings.release.name[:200]
