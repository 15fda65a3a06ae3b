"""Keys in files: private ones stay private, and only Ed25519 is taken."""

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519

from fluvial.errors import ConflictError, InputError, NotFoundError, StorageError, TooLargeError
from fluvial.gate.key import generate, load_private, load_public


def test_a_pair_belongs_together_and_only_its_owner_reads_the_private_one(tmp_path: Path) -> None:
    public = generate(tmp_path / "key")
    assert public == tmp_path / "key.pub"
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    signer = load_private(tmp_path / "key")
    assert load_public(public).keyid == signer.public_key.keyid
    load_public(public).verify_signature(signer.sign(b"x"), b"x")


def test_two_pairs_differ(tmp_path: Path) -> None:
    ids = {load_public(generate(tmp_path / name)).keyid for name in ("a", "b")}
    assert len(ids) == 2


def test_keys_are_never_written_over(tmp_path: Path) -> None:
    generate(tmp_path / "key")
    before = (tmp_path / "key").read_bytes()
    with pytest.raises(ConflictError):
        generate(tmp_path / "key")
    (tmp_path / "key.pub").unlink()
    with pytest.raises(ConflictError):
        generate(tmp_path / "key")
    assert (tmp_path / "key").read_bytes() == before
    assert not (tmp_path / "key.pub").exists()


def test_a_passphrase_locks(tmp_path: Path) -> None:
    generate(tmp_path / "key", passphrase="open sesame")
    assert b"ENCRYPTED" in (tmp_path / "key").read_bytes()
    assert load_private(tmp_path / "key", passphrase="open sesame")
    with pytest.raises(InputError) as caught:
        load_private(tmp_path / "key")
    assert caught.value.code == "passphrase_needed"
    with pytest.raises(InputError, match="not by this passphrase"):
        load_private(tmp_path / "key", passphrase="wrong")
    generate(tmp_path / "plain")
    with pytest.raises(InputError, match="not locked"):
        load_private(tmp_path / "plain", passphrase="x")


def test_the_halves_are_not_mistaken_for_each_other(tmp_path: Path) -> None:
    public = generate(tmp_path / "key")
    with pytest.raises(InputError, match=r"is a private key; give the public one, key\.pub"):
        load_public(tmp_path / "key")
    with pytest.raises(InputError, match="no private key"):
        load_private(public)


def test_keys_of_other_kinds_are_refused(tmp_path: Path) -> None:
    for key in (ec.generate_private_key(ec.SECP256R1()), x25519.X25519PrivateKey.generate()):
        (tmp_path / "key").write_bytes(
            key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
        )
        (tmp_path / "pub").write_bytes(
            key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
        )
        with pytest.raises(InputError, match="no Ed25519 key"):
            load_private(tmp_path / "key")
        with pytest.raises(InputError, match="no Ed25519 key"):
            load_public(tmp_path / "pub")


def test_keys_of_others_are_taken(tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    (tmp_path / "key").write_bytes(
        key.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption())
    )
    with pytest.raises(InputError):
        load_private(tmp_path / "key")
    (tmp_path / "key").write_bytes(
        key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    )
    assert load_private(tmp_path / "key").public_key.keyid


@pytest.mark.parametrize("data", [b"", b"\xff" * 99, b"-----BEGIN PUBLIC KEY-----\nAAAA\n"])
def test_what_is_no_key(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "key").write_bytes(data)
    for load in (load_private, load_public):
        with pytest.raises(InputError):
            load(tmp_path / "key")


def test_files_that_can_not_be_keys(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        load_public(tmp_path / "none")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(100_000_000)
    with pytest.raises(TooLargeError):
        load_private(tmp_path / "large")
    with pytest.raises(StorageError):
        generate(tmp_path / "no" / "key")
