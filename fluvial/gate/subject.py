"""What a release is about: digests of all that answers are made with, taken of what was loaded.

Names and what they are the sha256 of:

    weights      the model's file as it was opened, or its folder's (`HASH  NAME` lines, sorted)
    graph        the packed graph and weights that decode, as they lie in the cache
    tokenizer    its tables: of a GGUF file the metadata read, of a folder its tokenizer's files
    template     the chat template's source, and the special tokens by role that it is given
    guard        policy and checks, as `Guard.sha256`; a fixed digest where no guard runs
    sampling     how tokens are drawn where a request says nothing, and limits on what is read
    adaptation   how weights may change: the rule, the drift budget, the canary set

None is copied from a record of an installed model. The program's own code is not among them.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from fluvial.config import Settings
from fluvial.errors import ModelError
from fluvial.gate.digest import hash_json, make_canonical
from fluvial.model.opening import AnyCheckpoint
from fluvial.types import Sampling

Subjects = Mapping[str, str]
"""From the name of a part to its sha256, 64 hexadecimal digits."""

NO_GUARD = hash_json({"guard": None})

TOKENIZER_PREFIX, TEMPLATE_KEY = "tokenizer.", "tokenizer.chat_template"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "config.json",
)
"""What reading a folder's tokenizer looks at: the last two name tokens that end an answer."""


def digest_tokenizer(checkpoint: AnyCheckpoint) -> str:
    """Return the digest of a model's tokenizer. Raises ModelError where a file can't be read."""
    if checkpoint.path.is_dir():
        return _hash_files(checkpoint.path)
    whole = hashlib.sha256()
    for key, value in sorted(checkpoint.metadata.items()):
        if key.startswith(TOKENIZER_PREFIX) and key != TEMPLATE_KEY:
            whole.update(make_canonical([key, _flatten(value)]))
    return whole.hexdigest()


def digest_sampling(settings: Settings) -> str:
    """Return the digest of what decides answers beside the model, where a request says nothing."""
    return hash_json(
        {
            "sampling": asdict(Sampling()),
            "answer_tokens": settings.answer_tokens,
            "context_tokens": settings.context_tokens,
            "document_context_tokens": settings.document_context_tokens,
            "weights": settings.weights,
            "cache_bits": settings.cache_bits,
        }
    )


def digest_adaptation(
    *, rule: Mapping[str, object], settings: Settings, canary_sha256: str | None
) -> str:
    """Return the digest of how weights may change. `rule` is the learner's, field by field."""
    return hash_json(
        {
            "learning": settings.learning,
            "rule": dict(rule) if settings.learning else None,
            "calibrate": settings.calibrate,
            "version_tokens": settings.version_tokens,
            "drift_budget": settings.drift_budget,
            "canary": canary_sha256,
        }
    )


def _flatten(value: object) -> object:
    """Return a value of a GGUF file's metadata as JSON holds it."""
    if isinstance(value, np.ndarray):
        data = np.ascontiguousarray(value)
        return [data.dtype.str, hashlib.sha256(data.tobytes()).hexdigest()]
    return value


def _hash_files(folder: Path) -> str:
    whole = hashlib.sha256()
    for name in TOKENIZER_FILES:
        try:
            with (folder / name).open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            whole.update(f"{sha256}  {name}\n".encode())
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ModelError(f"{folder / name} can't be read: {error.strerror}") from None
    return whole.hexdigest()
