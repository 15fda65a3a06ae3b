"""Read a text that a benchmark is given."""

from pathlib import Path

from fluvial.errors import InputError


def read_text(path: Path) -> str:
    """Return a file's text. Raises InputError when it is empty, not UTF-8, or can't be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InputError(f"{path} is not UTF-8: byte {error.start} is {byte:#04x}") from None
    if not text:
        raise InputError(f"{path} is empty; give a text of some thousand words")
    return text
