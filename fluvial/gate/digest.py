"""What a document of the gate is called: sha256 of its canonical JSON.

Canonical: keys sorted, no blanks, ASCII, numbers as Python writes them, no NaN. A plan's hash is
made of this form, and not of the file: a plan means the same as TOML and as JSON.
"""

import hashlib
import json

from fluvial.errors import InputError


def make_canonical(value: object) -> bytes:
    """Return `value` as canonical JSON. Raises InputError for what JSON can't hold."""
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except RecursionError:
        raise InputError("nested too deeply for JSON") from None
    except (TypeError, ValueError) as error:
        raise InputError(f"JSON can't hold this: {error}") from None
    return text.encode("ascii")


def hash_json(value: object) -> str:
    """Return the sha256 of canonical JSON, 64 hexadecimal digits. Raises InputError."""
    return hashlib.sha256(make_canonical(value)).hexdigest()
