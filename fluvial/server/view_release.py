"""What people are told of the release: in `/v1/models`, in `/healthz`, on the page."""

from collections.abc import Mapping
from typing import Any

from fluvial.service.release import Clearance, Standing

BRIEF_CHARS = 12


def view_clearance(clearance: Clearance) -> dict[str, Any]:
    """Make what the object of the model served says: its release, and digests of what was loaded.

    `adaptation` is what a release must name, so that versions that learned are covered.
    """
    return {
        "release": view_standing(clearance.tell()),
        "subjects": dict(clearance.subjects),
        "adaptation": dict(clearance.adaptation),
    }


def view_standing(standing: Standing) -> dict[str, Any]:
    """Make a release object."""
    return {
        "mode": standing.mode,
        "status": "released" if standing.released else "not released",
        "reason": standing.reason,
        "expires_at": standing.expires_at,
        "plan": standing.plan,
    }


def view_briefly(subjects: Mapping[str, str]) -> dict[str, str]:
    """Shorten digests to what people compare at a glance."""
    return {name: sha256[:BRIEF_CHARS] for name, sha256 in subjects.items()}
