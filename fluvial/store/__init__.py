"""What Fluvial keeps: sessions, messages, readings, evidence and versions.

Rows in SQLite, and files beside it.
Start at `Store`. `write_atomically` is for whoever writes a version's tensors.
"""

from fluvial.store.file import write_atomically
from fluvial.store.message import UNSET, Unset
from fluvial.store.store import Store

__all__ = ["UNSET", "Store", "Unset", "write_atomically"]
