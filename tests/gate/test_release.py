"""Releases: what is signed is what was seen, and nothing else is taken for it."""

import base64
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner

from fluvial.errors import ConflictError, FluvialError, InputError, ReleaseError, TooLargeError
from fluvial.gate import plan as plans
from fluvial.gate import release, result, signing
from fluvial.gate.release import (
    MAX_RELEASE_BYTES,
    PAYLOAD_TYPE,
    PREDICATE_TYPE,
    Release,
    require_pass,
    verify,
)
from tests.gate.made import (
    ENDED_AT,
    SUBJECTS,
    change_risk,
    make_evidence,
    make_judged_plan,
    make_plan,
    make_results,
    make_risk,
)

DAY_S = 86_400.0
SIGNER = CryptoSigner.generate_ed25519()
STRANGER = CryptoSigner.generate_ed25519()
NOW = ENDED_AT + 3600


def sign(**more: Any) -> bytes:
    results = more.pop("results", None) or make_results(make_plan())
    return signing.sign(results, **{"signer": SIGNER, "now": NOW, **more})


def check(envelope: bytes, *, now: float = NOW, signer: CryptoSigner = SIGNER) -> Release:
    return verify(envelope, keys=[signer.public_key], now=now)


def refuse(envelope: bytes, code: str, *, now: float = NOW) -> str:
    with pytest.raises(ReleaseError) as caught:
        check(envelope, now=now)
    assert caught.value.code == code
    assert caught.value.status == 403
    return caught.value.message


def resign(
    change: Any, *, signer: CryptoSigner = SIGNER, payload_type: str = PAYLOAD_TYPE
) -> bytes:
    """Sign a statement that was changed, as only who holds a key can."""
    statement = json.loads(base64.b64decode(json.loads(sign())["payload"]))
    change(statement)
    envelope = Envelope(json.dumps(statement).encode(), payload_type, {})
    envelope.sign(signer)
    return json.dumps(envelope.to_dict()).encode()


def test_a_release_says_what_was_tested_and_seen() -> None:
    plan = make_judged_plan()
    results = make_results(plan)
    found = check(sign(results=results))
    assert found.passed
    assert found.subjects == SUBJECTS
    assert found.key_id == SIGNER.public_key.keyid
    terms = found.terms
    assert terms.plan_sha256 == plans.digest(plan)
    assert terms.results_sha256 == result.digest(results)
    assert terms.expires_at == NOW + 90 * DAY_S
    assert terms.adaptation == results.adaptation
    risk = terms.risks[0]
    assert risk.evidence == results.risks[0].evidence
    assert (risk.bound_above, risk.alpha) == (results.risks[0].bound_above, results.risks[0].alpha)
    assert risk.judge == plan.judges[0]
    assert risk.data_sha256 == results.risks[0].data_sha256
    require_pass(found)


def test_the_envelope_is_an_in_toto_statement_that_others_can_read() -> None:
    envelope = json.loads(sign())
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    payload = base64.b64decode(envelope["payload"])
    statement = json.loads(payload)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == PREDICATE_TYPE
    assert statement["subject"][0] == {"name": "guard", "digest": {"sha256": "c" * 64}}
    # The signature by hand: pre-authentication encoding as DSSE's protocol writes it.
    kind = PAYLOAD_TYPE.encode()
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    signature = base64.b64decode(envelope["signatures"][0]["sig"])
    public = bytes.fromhex(SIGNER.public_key.keyval["public"])
    Ed25519PublicKey.from_public_bytes(public).verify(signature, signed)


def test_a_release_that_did_not_pass_is_never_for_production() -> None:
    plan = make_plan(make_risk(), make_risk("talk"), make_risk("floor"))
    results = make_results(plan, make_evidence(60), make_evidence(60, 30), make_evidence(60, 4))
    found = check(sign(results=results))
    assert [risk.verdict for risk in found.terms.risks] == ["PASS", "FAIL", "NOT ENOUGH EVIDENCE"]
    assert not found.passed
    with pytest.raises(ReleaseError, match="talk: FAIL; floor: NOT ENOUGH EVIDENCE") as caught:
        require_pass(found)
    assert caught.value.code == "release_not_passed"


def test_not_signed() -> None:
    envelope = json.loads(sign()) | {"signatures": []}
    assert "not signed" in refuse(json.dumps(envelope).encode(), "release_unsigned")


def test_signed_by_nobody_who_is_trusted() -> None:
    message = refuse(sign(signer=STRANGER), "release_wrong_key")
    assert STRANGER.public_key.keyid[:12] in message
    assert SIGNER.public_key.keyid[:12] in message
    with pytest.raises(ReleaseError, match="no key is"):
        verify(sign(), keys=[], now=NOW)


def test_signed_again_by_another_key() -> None:
    refuse(resign(lambda statement: None, signer=STRANGER), "release_wrong_key")


def test_signed_by_another_key_under_the_name_of_ours() -> None:
    envelope = json.loads(sign(signer=STRANGER))
    envelope["signatures"][0]["keyid"] = SIGNER.public_key.keyid
    refuse(json.dumps(envelope).encode(), "release_altered")


def test_one_of_two_signatures_is_enough() -> None:
    envelope = json.loads(sign())
    envelope["signatures"].insert(0, json.loads(sign(signer=STRANGER))["signatures"][0])
    assert check(json.dumps(envelope).encode()).key_id == SIGNER.public_key.keyid


def test_a_changed_payload() -> None:
    envelope = json.loads(sign())
    statement = base64.b64decode(envelope["payload"])
    for old, new in ((b'"PASS"', b'"FAIL"'), (b"a" * 64, b"a" * 63 + b"b"), (b":1,", b":2,")):
        assert old in statement
        changed = statement.replace(old, new, 1)
        made = envelope | {"payload": base64.b64encode(changed).decode()}
        refuse(json.dumps(made).encode(), "release_altered")


@settings(max_examples=80, deadline=None)
@given(st.integers(0), st.integers(0, 7))
def test_one_flipped_bit_is_noticed(place: int, bit: int) -> None:
    envelope = json.loads(RELEASE)
    statement = bytearray(base64.b64decode(envelope["payload"]))
    statement[place % len(statement)] ^= 1 << bit
    envelope["payload"] = base64.b64encode(statement).decode()
    refuse(json.dumps(envelope).encode(), "release_altered")


@settings(max_examples=150, deadline=None)
@given(st.integers(0), st.integers(0, 7))
def test_one_flipped_bit_of_the_file_never_says_anything_else(place: int, bit: int) -> None:
    data = bytearray(RELEASE)
    data[place % len(data)] ^= 1 << bit
    try:
        found = check(bytes(data))
    except ReleaseError:
        return
    # Blanks between fields, and bits of base64 that stand for nothing, may be anything.
    assert found == check(RELEASE)


RELEASE = sign()


def test_a_payload_type_of_something_else() -> None:
    made = resign(lambda statement: None, payload_type="application/json")
    assert "application/json" in refuse(made, "release_payload_type")
    envelope = json.loads(sign()) | {"payloadType": "application/json"}
    refuse(json.dumps(envelope).encode(), "release_altered")


@pytest.mark.parametrize("name", ["predicateType", "_type"])
@pytest.mark.parametrize("value", ["urn:fluvial:release:v2", None, 1, ["x"], "x" * 10_000])
def test_another_version_of_the_statement(name: str, value: Any) -> None:
    message = refuse(resign(lambda s: s.update({name: value})), "release_version")
    assert len(message) < 300


def test_time(tmp_path: Path) -> None:
    envelope = sign(days=1)
    assert check(envelope, now=NOW + DAY_S - 1).passed
    message = refuse(envelope, "release_expired", now=NOW + DAY_S)
    assert "expired" in message
    refuse(envelope, "release_expired", now=NOW + 400 * DAY_S)
    assert check(envelope, now=NOW - 299).passed
    refuse(envelope, "release_not_yet_valid", now=NOW - 301)


def test_a_release_that_is_too_large(tmp_path: Path) -> None:
    refuse(b" " * (MAX_RELEASE_BYTES + 1), "release_too_large")
    with (tmp_path / "release.json").open("wb") as file:
        file.truncate(100_000_000)
    with pytest.raises(TooLargeError):
        release.load(tmp_path / "release.json")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        b"{}",
        b"[" * 200_000,
        b'{"payload": 1, "payloadType": "", "signatures": []}',
        b'{"payload": "", "payloadType": null, "signatures": []}',
        b'{"payload": "", "payloadType": "", "signatures": {}}',
        b'{"payload": "", "payloadType": "", "signatures": [1]}',
        b'{"payload": "", "payloadType": "", "signatures": [{"keyid": [], "sig": ""}]}',
        b'{"payload": "", "payloadType": "", "signatures": [{"keyid": 1, "sig": ""}]}',
        b'{"payload": "\\u00e9", "payloadType": "", "signatures": []}',
        json.dumps(
            {"payload": "", "payloadType": "", "signatures": [{"keyid": "a", "sig": ""}] * 9}
        ).encode(),
        json.dumps(
            {"payload": "", "payloadType": "", "signatures": [{"keyid": "a", "sig": ""}] * 2}
        ).encode(),
    ],
)
def test_what_is_no_envelope(data: bytes) -> None:
    refuse(data, "release_malformed")
    with pytest.raises(ReleaseError):
        release.read_unchecked(data)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_refused_in_our_words(data: bytes) -> None:
    with pytest.raises(ReleaseError):
        check(data)


@pytest.mark.parametrize("key_id", ["", "x" * 500, "\x1b[31m"])
def test_signatures_that_are_nonsense(key_id: str) -> None:
    envelope = json.loads(sign())
    envelope["signatures"] = [{"keyid": key_id, "sig": "AAAA"}]
    refuse(json.dumps(envelope).encode(), "release_wrong_key")
    envelope["signatures"] = [{"keyid": SIGNER.public_key.keyid, "sig": "AAAA"}]
    refuse(json.dumps(envelope).encode(), "release_altered")


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.update(subject=[]),
        lambda s: s.update(subject=None),
        lambda s: s.update(subject=s["subject"] + s["subject"]),
        lambda s: s["subject"][0].update(digest={"sha1": "a" * 40}),
        lambda s: s["subject"][0].update(name=1),
        lambda s: s.update(predicate=None),
        lambda s: s["predicate"].update(risks=[]),
        lambda s: s["predicate"].update(extra=1),
        lambda s: s["predicate"]["risks"][0].update(verdict="ALMOST"),
        lambda s: s["predicate"].update(expires_at=1e300),
        lambda s: s["predicate"].update(expires_at=float("nan")),
        lambda s: s["predicate"].pop("plan_sha256"),
    ],
)
def test_statements_that_are_signed_and_wrong(change: Any) -> None:
    refuse(resign(change), "release_malformed")


def test_a_plan_that_changed_after_the_run_is_not_signed() -> None:
    results = make_results(make_plan())
    with pytest.raises(ConflictError, match="it was changed"):
        sign(results=replace(results, plan=make_plan(make_risk(bar=0.2))))


@pytest.mark.parametrize(
    "claim",
    [
        {"verdict": "PASS"},
        {"bound_above": 0.01},
        {"bound_below": 0.0},
        {"alpha": 0.05},
    ],
)
def test_verdicts_that_do_not_follow_from_the_counts_are_not_signed(claim: dict[str, Any]) -> None:
    honest = make_results(make_plan(), make_evidence(60, 30))
    sign(results=honest)
    with pytest.raises(ConflictError, match="the results were changed") as caught:
        sign(results=change_risk(honest, **claim))
    assert caught.value.code == "results_changed"


def test_risks_that_are_missing_or_another_s_are_not_signed() -> None:
    plan = make_plan(make_risk(), make_risk("talk"))
    results = make_results(plan)
    first, second = results.risks
    wrong = [
        (first,),
        (first, first),
        (first, second, second),
        (first, replace(second, name="else")),
        (first, replace(second, task="fluvial/easy")),
        (first, second, replace(second, name="more")),
    ]
    for risks in wrong:
        with pytest.raises(InputError):
            sign(results=replace(results, risks=risks))
    assert check(sign(results=replace(results, risks=(second, first)))).passed


@pytest.mark.parametrize("days", [0, -1, 367, float("nan"), float("inf")])
def test_days_that_are_none_or_too_many(days: float) -> None:
    with pytest.raises(InputError, match="days"):
        sign(days=days)


def test_nothing_is_released_without_subjects_or_before_it_ended() -> None:
    results = make_results(make_plan())
    with pytest.raises(InputError, match="no subject"):
        sign(results=replace(results, subjects={}))
    with pytest.raises(InputError, match="clock"):
        sign(now=results.ended_at - 10, results=results)


def test_a_release_is_never_written_over(tmp_path: Path) -> None:
    signing.save(RELEASE, tmp_path / "release.json")
    with pytest.raises(ConflictError):
        signing.save(sign(), tmp_path / "release.json")
    assert release.load(tmp_path / "release.json") == RELEASE
    with pytest.raises(FluvialError):
        signing.save(RELEASE, tmp_path / "no" / "release.json")


def test_checking_a_release_loads_no_statistics() -> None:
    """The server checks at its start, and has no time for scipy there."""
    code = (
        "import sys, fluvial.gate.release, fluvial.gate.key\n"
        "print([name for name in ('scipy', 'torch', 'inspect_ai') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
