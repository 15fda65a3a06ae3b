"""Texts that the audit log speaks of: keyed digests always, the texts themselves only if asked for.

The key keeps short texts from being guessed back from their digests. Texts are kept in files beside
the chain, not in it, so that deleting a session can delete its texts and the chain stays whole.
"""

import contextlib
import hmac
import logging
import shutil
from pathlib import Path
from typing import final

from fluvial.store.fault import translate_os
from fluvial.store.file import is_id, write_atomically

NO_SESSION = "none"
GRACE_S = 60.0
"""A text is kept before its entry is written, by no more than this."""

_log = logging.getLogger(__name__)


@final
class Texts:
    """Digests under `key`; with `keep`, texts below `folder`, a folder a session. Thread-safe."""

    def __init__(self, folder: Path, *, key: bytes, keep: bool) -> None:
        self._folder = folder
        self._key = key
        self._keep = keep

    def describe(self, text: str, *, session: str | None) -> dict[str, str | int]:
        """Return what may be said of a text; keeps it where texts are kept. Raises StorageError."""
        data = text.encode(errors="surrogatepass")
        digest = self._hash(data)
        if self._keep:
            write_atomically(self._path(session) / f"{digest}.txt", data)
        return {"text_hmac": digest, "text_chars": len(text)}

    def digest(self, text: str) -> str:
        """Return the keyed digest of a text, 64 hexadecimal digits."""
        return self._hash(text.encode(errors="surrogatepass"))

    def read(self, digest: str, *, session: str | None) -> str | None:
        """Return a text that was kept and is still what its digest says, else None."""
        try:
            data = (self._path(session) / f"{digest}.txt").read_bytes()
        except OSError:
            return None
        same = hmac.compare_digest(self._hash(data), digest)
        return data.decode(errors="surrogatepass") if same else None

    def forget(self, session: str) -> None:
        """Remove the texts of a session. Raises StorageError when one stays."""
        folder = self._path(session)
        with translate_os(f"removing texts of {session}"):
            if is_id(session, prefix="sess") and folder.exists():
                shutil.rmtree(folder)

    def drop_before(self, time_s: float) -> None:
        """Remove texts whose entries are gone, the oldest one left being of this time."""
        for path in self._folder.glob("*/*.txt"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < time_s - GRACE_S:
                    path.unlink()

    def _path(self, session: str | None) -> Path:
        known = session is not None and is_id(session, prefix="sess")
        return self._folder / (session if session is not None and known else NO_SESSION)

    def _hash(self, data: bytes) -> str:
        return hmac.digest(self._key, data, "sha256").hex()
