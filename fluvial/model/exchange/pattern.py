"""The keys of PEFT's rank_pattern and alpha_pattern, without running a stranger's expressions.

PEFT matches `(.*\\.)?(KEY)$` from the beginning of a module's name. Keys in use are names or ends
of names; as in an expression, a dot stands for any character unless a backslash is before it.
Any other syntax is refused: a few characters of it can keep a matcher busy for ever.
"""

import re
from dataclasses import dataclass

from fluvial.errors import UnsupportedError

_MAX_CHARACTERS = 256
_KEY = re.compile(r"\^?(?:[A-Za-z0-9_-]|\\?\.)+")


@dataclass(frozen=True)
class Pattern:
    """A key: its characters, None for any; `whole` when it must be the whole name."""

    characters: tuple[str | None, ...]
    whole: bool

    def matches(self, name: str) -> bool:
        """Say whether the key is the name, or its end after a dot."""
        start = len(name) - len(self.characters)
        if start < 0 or (start and (self.whole or name[start - 1] != ".")):
            return False
        pairs = zip(self.characters, name[start:], strict=True)
        return all(wanted is None or wanted == found for wanted, found in pairs)


def parse_pattern(key: str) -> Pattern:
    """Parse a key; raises UnsupportedError for one that is more than a name."""
    if len(key) > _MAX_CHARACTERS or not _KEY.fullmatch(key):
        raise UnsupportedError(
            f"the pattern {key!r:.100} is an expression; only names of modules "
            f"of up to {_MAX_CHARACTERS} characters, or their ends, are supported"
        )
    body = key.removeprefix("^").replace("\\.", "\0").replace(".", "\1").replace("\0", ".")
    return Pattern(tuple(None if c == "\1" else c for c in body), whole=key.startswith("^"))
