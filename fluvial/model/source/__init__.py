"""Where model files come from: one module per scheme (`pypi:`, `hf:`, `file:`).

Every source keeps the same promises: a transfer that stopped is taken up again where it stopped,
bytes are hashed while they pass, nothing a server says decides a path or an unbounded size, and
whatever goes wrong is a SourceError that says what. What is delivered is not yet installed: see
`fluvial.model.registry`.
"""

from fluvial.errors import InputError
from fluvial.model.source.base import Delivery, Plan, Progress, Silent, Source
from fluvial.model.source.file import FileSource
from fluvial.model.source.hf import HubSource
from fluvial.model.source.pypi import IndexSource

__all__ = ["SCHEMES", "Delivery", "Plan", "Progress", "Silent", "Source", "is_spec", "parse"]

SCHEMES = ("pypi", "hf", "file")


def is_spec(text: str) -> bool:
    """Tell whether `text` is a source (`pypi:…`, `hf:…`, `file:…`), not a catalogue name."""
    return text.partition(":")[0] in SCHEMES and ":" in text


def parse(spec: str, *, link: bool = False) -> Source:
    """Make the source that `spec` describes; `link` asks `file:` for a hard link instead of a copy.

    Raises InputError when the text is not a well-formed spec.
    """
    scheme, _, rest = spec.partition(":")
    if link and scheme != "file":
        raise InputError("only a file: source can be hard-linked; leave out --link")
    match scheme:
        case "pypi":
            return IndexSource.parse(rest)
        case "hf":
            return HubSource.parse(rest)
        case "file":
            return FileSource.parse(rest, link=link)
        case _:
            raise InputError(f"{spec!r} is not a source; write pypi:…, hf:… or file:…")
