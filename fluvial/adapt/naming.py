"""What a version is called: a digest of what it is.

    sha256 of ["fluvial-version-1", base checkpoint's sha256, rule as JSON text, adapter's sha256]

as JSON without blanks. So two versions with one id are the same base, learned by the same rule to
the same adapter. Older databases were given such names by a migration: never change the form.
"""

import hashlib
import json

SHORT_CHARS = 12
"""Length of the short form, for people."""


def name_version(*, checkpoint: str, rule: str, sha256: str) -> str:
    """Return the id of a version: 64 hexadecimal digits. `rule` is canonical, "" if unknown."""
    content = ["fluvial-version-1", checkpoint, rule, sha256]
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def make_canonical(rule: object) -> str:
    """Write a rule, or the recipe of a merge, as JSON that is the same for equal ones."""
    return json.dumps(rule, sort_keys=True, separators=(",", ":"), allow_nan=False)
