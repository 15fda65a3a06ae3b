"""A release: verdicts bound to the exact files they are about, signed, with an end.

An in-toto Statement (v1) in a DSSE envelope, signed with Ed25519. Its subjects are the sha256 of
all that answers were made with; its predicate, `Terms`, says what was tested and what came of it.

Sources: https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md and
https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import Field

from fluvial.errors import InputError, ReleaseError
from fluvial.gate.document import (
    STRICT,
    Label,
    Moment,
    OpenShare,
    Positive,
    Sha256,
    Share,
    Text,
    build,
    dump,
    read_bytes,
    read_table,
)
from fluvial.gate.evidence import Evidence
from fluvial.gate.plan import MAX_RISKS, Direction, Judge, Mode
from fluvial.gate.result import Adaptation, Outcome

if TYPE_CHECKING:
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import Key  # pyright: ignore[reportPrivateImportUsage]

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:fluvial:release:v1"
MAX_RELEASE_BYTES = 2**20
MAX_SUBJECTS = 256
MAX_SIGNATURES = 8
CLOCK_SKEW_S = 300.0
"""A release that was signed so little ahead of this machine's clock is taken."""


@dataclass(frozen=True, kw_only=True)
class RiskTerms:
    """One risk: what was tested, against which bar, what was seen and what follows."""

    __pydantic_config__ = STRICT

    name: Label
    task: Label
    bar: OpenShare
    direction: Direction
    data_sha256: Sha256
    judge: Judge | None
    evidence: Evidence
    bound_above: Share
    bound_below: Share
    alpha: Share
    verdict: Outcome
    reason: Text


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The predicate. Times are seconds since the epoch; the rest as in the plan and the results."""

    __pydantic_config__ = STRICT

    plan_sha256: Sha256
    plan_name: Label
    plan_created_at: Moment
    results_sha256: Sha256
    model: Label
    lineage: Label
    attempt: Positive
    confidence: Share
    mode: Mode
    risks: Annotated[tuple[RiskTerms, ...], Field(min_length=1, max_length=MAX_RISKS)]
    adaptation: Adaptation
    started_at: Moment
    ended_at: Moment
    signed_at: Moment
    expires_at: Moment
    software: Label


@dataclass(frozen=True, kw_only=True)
class Release:
    """What a release says. `key_id` names who signed it, None where nobody checked."""

    subjects: Mapping[str, str]
    terms: Terms
    key_id: str | None = None

    @property
    def passed(self) -> bool:
        """Whether every risk passed: without that, it is never valid for production."""
        return all(risk.verdict == "PASS" for risk in self.terms.risks)


def load(path: Path) -> bytes:
    """Read a release's file. Raises NotFoundError, StorageError, TooLargeError."""
    return read_bytes(path, limit_bytes=MAX_RELEASE_BYTES)


def verify(envelope: bytes, *, keys: Sequence["Key"], now: float) -> Release:
    """Return what a release says, once its signature and its time are good.

    `keys` are the public keys that are trusted, `now` seconds since the epoch. Raises ReleaseError;
    its `code` is release_too_large, release_malformed, release_unsigned, release_wrong_key,
    release_altered, release_payload_type, release_version, release_not_yet_valid or
    release_expired. Whether it passed is asked for by `require_pass`.
    """
    opened = _open(envelope)
    key_id = _check_signature(opened, keys=keys)
    found = _read_statement(opened, key_id=key_id)
    signed, expires = found.terms.signed_at, found.terms.expires_at
    if signed > now + CLOCK_SKEW_S:
        raise ReleaseError(
            "the release was signed in the future; check the clock", code="release_not_yet_valid"
        )
    if now >= expires:
        days = (now - expires) / 86_400
        raise ReleaseError(
            f"the release expired {days:.1f} days ago; test again", code="release_expired"
        )
    return found


def read_unchecked(envelope: bytes) -> Release:
    """Return what a release says, whoever wrote it: only to show. Raises ReleaseError."""
    return _read_statement(_open(envelope), key_id=None)


def require_pass(release: Release) -> None:
    """Raise ReleaseError, code release_not_passed, unless every risk passed."""
    if not release.passed:
        missed = [f"{r.name}: {r.verdict}" for r in release.terms.risks if r.verdict != "PASS"]
        raise ReleaseError(
            f"not every risk passed, so this is no release for production ({'; '.join(missed)})",
            code="release_not_passed",
        )


def view(release: Release) -> dict[str, Any]:
    """Return a release as JSON's objects."""
    return {
        "subjects": dict(release.subjects),
        "passed": release.passed,
        "key_id": release.key_id,
        **dump(Terms, release.terms),
    }


def write_statement(release: Release) -> bytes:
    """Return the in-toto Statement, as it is signed."""
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": name, "digest": {"sha256": sha256}}
            for name, sha256 in sorted(release.subjects.items())
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": dump(Terms, release.terms),
    }
    return json.dumps(statement, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _open(data: bytes) -> "Envelope":
    """Take an envelope apart, trusting nothing in it."""
    from securesystemslib.dsse import Envelope

    if len(data) > MAX_RELEASE_BYTES:
        raise ReleaseError(
            f"the release is longer than {MAX_RELEASE_BYTES} bytes", code="release_too_large"
        )
    try:
        fields = read_table(data, name="the release")
        signatures = cast(list[dict[str, Any]], fields["signatures"])
        if type(signatures) is not list or len(signatures) > MAX_SIGNATURES:
            raise ValueError(f"a list of at most {MAX_SIGNATURES} signatures is due")
        texts = [fields["payload"], fields["payloadType"]]
        texts += [each[name] for each in signatures for name in ("keyid", "sig")]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("payload, payloadType, keyid and sig are texts")
        opened = Envelope.from_dict(fields)
    except InputError as error:
        raise ReleaseError(error.message, code="release_malformed") from None
    except Exception as error:
        # Its parser was written for what is well formed, and fails in many ways on the rest.
        raise ReleaseError(
            f"the release is no DSSE envelope: {type(error).__name__}: {error}"[:300],
            code="release_malformed",
        ) from None
    return opened


def _check_signature(envelope: "Envelope", *, keys: Sequence["Key"]) -> str:
    """Return the id of a trusted key that signed this."""
    from securesystemslib.exceptions import UnverifiedSignatureError

    if not envelope.signatures:
        raise ReleaseError("the release is not signed", code="release_unsigned")
    trusted = {key.keyid: key for key in keys}
    ours = [each for key_id, each in envelope.signatures.items() if key_id in trusted]
    if not ours:
        names = ", ".join(key_id[:12] for key_id in envelope.signatures)
        raise ReleaseError(
            f"the release is signed by {names}, and none of that is trusted here "
            f"({', '.join(key_id[:12] for key_id in trusted) or 'no key is'})",
            code="release_wrong_key",
        )
    for signature in ours:
        try:
            trusted[signature.keyid].verify_signature(signature, envelope.pae())
        except UnverifiedSignatureError:
            continue
        return signature.keyid
    raise ReleaseError(
        "the signature does not fit: the release was changed after it was signed, or signed by "
        "another key under this one's name",
        code="release_altered",
    )


def _read_statement(envelope: "Envelope", *, key_id: str | None) -> Release:
    if envelope.payload_type != PAYLOAD_TYPE:
        raise ReleaseError(
            f"the envelope holds {envelope.payload_type!r:.80}, not {PAYLOAD_TYPE}",
            code="release_payload_type",
        )
    try:
        fields = read_table(envelope.payload, name="the statement")
        _check_types(fields)
        subjects = _read_subjects(fields.get("subject"))
        terms = build(Terms, fields.get("predicate"), name="the predicate")
    except InputError as error:
        raise ReleaseError(error.message, code="release_malformed") from None
    return Release(subjects=subjects, terms=terms, key_id=key_id)


def _check_types(fields: Mapping[str, Any]) -> None:
    for name, due in (("_type", STATEMENT_TYPE), ("predicateType", PREDICATE_TYPE)):
        if fields.get(name) != due:
            raise ReleaseError(
                f"its {name} is {fields.get(name)!r:.80}; this version of Fluvial reads {due}",
                code="release_version",
            )


@dataclass(frozen=True, kw_only=True)
class _Digest:
    __pydantic_config__ = STRICT

    sha256: Sha256


@dataclass(frozen=True, kw_only=True)
class _Subject:
    __pydantic_config__ = STRICT

    name: Label
    digest: _Digest


def _read_subjects(found: object) -> dict[str, str]:
    listed = build(
        cast(
            type[tuple[_Subject, ...]],
            Annotated[tuple[_Subject, ...], Field(min_length=1, max_length=MAX_SUBJECTS)],
        ),
        found,
        name="the subjects",
    )
    subjects = {each.name: each.digest.sha256 for each in listed}
    if len(subjects) != len(listed):
        raise InputError("two subjects have one name")
    return subjects
