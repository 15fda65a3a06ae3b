"""A classifier behind HTTP: OpenAI's moderation endpoint, or any that takes and gives plain JSON.

Only to https, or this machine itself; no redirects, no proxies of the environment, bounded in time
and size. The key comes from an environment variable and is in no message, log or digest.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any, cast, final

import httpx2

from fluvial.errors import GuardError, InputError
from fluvial.guard.check import Finding, TextKind
from fluvial.guard.policy import DEFAULT_CATEGORY, HttpProvider

MAX_ANSWER_BYTES = 256 * 1024
MAX_SCORES = 1000
Scores = Iterator[tuple[str, float]]


@final
class HttpCheck:
    """Asks a classifier about a text as a whole. Safe to call from any thread; `close` it."""

    def __init__(self, name: str, provider: HttpProvider) -> None:
        """Ask as `provider` says; `name` is the check's in the policy, "http.NAME".

        Raises InputError where the environment variable of the key is not set.
        """
        self.name = name
        self._provider = provider
        self._client = httpx2.Client(
            timeout=provider.timeout_ms / 1000,
            follow_redirects=False,
            trust_env=False,
            headers={"accept": "application/json", "accept-encoding": "identity"},
        )
        self._key = _read_key(provider.key_env)
        parts = ["http 1", provider.model_dump(mode="json")]
        self.sha256 = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def find(self, text: str, *, kind: TextKind, context: str = "") -> list[Finding]:
        """Return what the classifier scores; the policy's thresholds say what counts.

        `kind` and `context` are not sent. Raises GuardError when there is no sound answer in time.
        """
        answer = self._ask(text)
        scores = _read_openai(answer) if self._provider.format == "openai" else self._read(answer)
        return [
            Finding(category=self._name(category), score=score, check=self.name)
            for category, score in scores
        ]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _ask(self, text: str) -> Any:
        headers = {"authorization": f"Bearer {self._key}"} if self._key else {}
        end_s = time.monotonic() + self._provider.timeout_ms / 1000
        try:
            with self._client.stream(
                "POST", self._provider.url, json=self._make_body(text), headers=headers
            ) as answer:
                if answer.status_code != 200:
                    raise GuardError(f"it answered with status {answer.status_code}")
                return json.loads(_read_bounded(answer.iter_bytes(), end_s=end_s))
        except httpx2.HTTPError as error:
            # The message of some of these holds the address: say the kind only.
            raise GuardError(f"no answer ({type(error).__name__})") from None
        except (ValueError, RecursionError):
            raise GuardError("its answer is not JSON") from None

    def _make_body(self, text: str) -> dict[str, str]:
        if self._provider.format == "json":
            return {self._provider.text_field: text}
        model = {"model": self._provider.model} if self._provider.model else {}
        return {"input": text, **model}

    def _read(self, answer: Any) -> Scores:
        found = answer
        for part in self._provider.scores_field.split("."):
            if not isinstance(found, dict) or part not in found:
                raise GuardError(f"its answer has no {self._provider.scores_field}")
            found = cast("dict[str, Any]", found)[part]
        if isinstance(found, dict):
            return _read_scores(cast("dict[str, Any]", found))
        return iter([(DEFAULT_CATEGORY, _read_score(found))])

    def _name(self, category: str) -> str:
        return self._provider.categories.get(category, DEFAULT_CATEGORY)


def _read_openai(answer: Any) -> Scores:
    """Read the one result of a moderation: its scores, or where it has none, its flags."""
    try:
        (result,) = answer["results"]
        flags: dict[str, Any] = result["categories"]
        scores: dict[str, Any] = result.get("category_scores") or flags
        flagged = bool(result["flagged"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise GuardError("its answer is no moderation") from None
    found = list(_read_scores(scores))
    if flagged and not any(flags.values()):
        found.append((DEFAULT_CATEGORY, 1.0))
    return iter(found)


def _read_scores(scores: Mapping[str, Any]) -> Scores:
    if len(scores) > MAX_SCORES:
        raise GuardError(f"its answer has {len(scores)} scores; at most {MAX_SCORES} are read")
    return iter([(name, _read_score(score)) for name, score in scores.items()])


def _read_score(score: Any) -> float:
    if not isinstance(score, int | float) or not math.isfinite(score) or not 0 <= score <= 1:
        raise GuardError("a score of its answer is not in 0 to 1")
    return float(score)


def _read_bounded(pieces: Iterator[bytes], *, end_s: float) -> bytes:
    """Read a body of limited size; a timeout of the client counts from piece to piece only."""
    data = bytearray()
    for piece in pieces:
        data += piece
        if len(data) > MAX_ANSWER_BYTES:
            raise GuardError(f"its answer is over {MAX_ANSWER_BYTES} bytes")
        if time.monotonic() > end_s:
            raise GuardError("its answer took too long")
    return bytes(data)


def _read_key(variable: str) -> str:
    if not variable:
        return ""
    key = os.environ.get(variable, "")
    if not key or not key.isascii() or not key.isprintable():
        raise InputError(f"the guard's policy needs the environment variable {variable}")
    return key
