"""Names that people give: to sessions, and to documents."""

import re

from fluvial.errors import InputError

NAME_CHARS = 255
"""Longest name of a document, and longest title of a session."""

# What could make a name look like another one: controls, and marks that turn the writing direction.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def check_name(name: str, *, param: str) -> str:
    """Return a name on one line. Raises InputError where it is too long or not what it seems."""
    name = " ".join(name.split())
    if len(name) > NAME_CHARS:
        raise InputError(f"{param} has {len(name)} characters; at most {NAME_CHARS}", param=param)
    if _CONTROLS.search(name):
        raise InputError(f"{param} holds control characters", param=param)
    return name
