"""Keys that sign releases: Ed25519, in PEM files. The private one is never on the server."""

from pathlib import Path
from typing import TYPE_CHECKING

from fluvial.errors import ConflictError, InputError
from fluvial.gate.document import read_bytes, write_new

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, SSlibKey  # pyright: ignore[reportPrivateImportUsage]

MAX_KEY_BYTES = 2**14


def generate(path: Path, *, passphrase: str | None = None) -> Path:
    """Make a pair of keys: the private one at `path`, mode 600, and `path`.pub; return the latter.

    Raises ConflictError where there is a file already, StorageError.
    """
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    lock = form.BestAvailableEncryption(passphrase.encode()) if passphrase else form.NoEncryption()
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, lock)
    public = key.public_key().public_bytes(
        form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo
    )
    beside = path.with_name(path.name + ".pub")
    if beside.exists():
        raise ConflictError(f"{beside} exists already; a key is never written over")
    write_new(path, private, what="a key", mode=0o600)
    write_new(beside, public, what="a key")
    return beside


def load_private(path: Path, *, passphrase: str | None = None) -> "CryptoSigner":
    """Read a private key. Raises InputError for what is none, or needs another passphrase."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner  # pyright: ignore[reportPrivateImportUsage]

    data = read_bytes(path, limit_bytes=MAX_KEY_BYTES)
    try:
        key = load_pem_private_key(data, passphrase.encode() if passphrase else None)
    except TypeError:
        raise InputError(
            f"{path.name} is locked by a passphrase"
            if passphrase is None
            else f"{path.name} is not locked; leave the passphrase out",
            code="passphrase_needed" if passphrase is None else None,
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise InputError(f"{path.name} is no private key, or not by this passphrase") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path.name} is no Ed25519 key")
    return CryptoSigner(key)


def load_public(path: Path) -> "SSlibKey":
    """Read a public key. Raises InputError for what is none; so a private one is refused."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey  # pyright: ignore[reportPrivateImportUsage]

    data = read_bytes(path, limit_bytes=MAX_KEY_BYTES)
    if b"PRIVATE KEY" in data:
        raise InputError(f"{path.name} is a private key; give the public one, {path.name}.pub")
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise InputError(f"{path.name} is no public key") from None
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{path.name} is no Ed25519 key")
    return SSlibKey.from_crypto(key)
