"""What adapters of many sessions share, each set in a file named by what it holds.

First factors, and how far the second may move: a leeway for each output of a linear.

A version keeps only its second factors and says which basis it stands on, so bases are data, not
cache: a file is never written again, and never deleted while versions may need it.
"""

import hashlib
import os
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from fluvial.errors import ModelError, StorageError
from fluvial.model.adapter import Tensors

FOLDER = "bases"
"""Of the data folder."""
SHIPPED = Path(__file__).parents[1] / "adapt" / "bases"
"""Those of the catalogue's models, which need not be made."""
MAX_BYTES = 2**30
KEPT = 4
_SUFFIX = ".safetensors"
_LEEWAY = ".leeway"


@dataclass(frozen=True, eq=False)
class Basis:
    """First factors by name (`layers.3.qkv.a`), float32 [inputs, rank]; `sha256` of its file.

    `leeways` by group (`layers.3.qkv`), float32 [outputs]; the oldest bases have none.
    """

    sha256: str
    tensors: Tensors
    leeways: Tensors


class Bases:
    """The bases in one folder, in files `CHECKPOINT-SHA256.safetensors` (of the former 16 digits).

    Not thread-safe beyond what its dictionary is: two threads may read one file twice.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: OrderedDict[str, Basis] = OrderedDict()

    def save(self, tensors: Tensors, *, leeways: Tensors, checkpoint: str) -> Basis:
        """Write a basis of the checkpoint (its sha256). Raises StorageError."""
        named = {f"{group}{_LEEWAY}": each for group, each in leeways.items()}
        kept = {name: _narrow(each) for name, each in {**tensors, **named}.items()}
        data = safetensors.numpy.save(kept)
        basis = Basis(hashlib.sha256(data).hexdigest(), dict(tensors), dict(leeways))
        return self._write(data, basis, checkpoint=checkpoint)

    def ship(self, *, checkpoint: str) -> None:
        """Copy those that the package has for a checkpoint. Raises ModelError, StorageError."""
        for path in sorted(SHIPPED.glob(f"{checkpoint[:16]}-*{_SUFFIX}")):
            basis = _read(path, path.stem.rpartition("-")[2])
            self._write(path.read_bytes(), basis, checkpoint=checkpoint)

    def _write(self, data: bytes, basis: Basis, *, checkpoint: str) -> Basis:
        path = self._folder / f"{checkpoint[:16]}-{basis.sha256}{_SUFFIX}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(file.name, path)
        except OSError as error:
            raise StorageError(f"a basis can't be written to {self._folder}: {error}") from None
        return self._keep(basis)

    def load(self, sha256: str) -> Basis:
        """Return one by its hash. Raises ModelError when it is missing or damaged."""
        if sha256 in self._kept:
            return self._keep(self._kept[sha256])
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise ModelError("the adapter file names a basis by what is no sha256")
        paths = sorted(self._folder.glob(f"*-{sha256}{_SUFFIX}"))
        if not paths:
            raise ModelError(
                f"the basis {sha256[:12]}… that the adapter stands on is not in {self._folder}; "
                "copy it there from where the adapter was learned, or import an exported adapter"
            )
        return self._keep(_read(paths[0], sha256))

    def list(self, checkpoint: str) -> Iterator[Basis]:
        """Give those of a checkpoint that are sound, the oldest first."""
        found = self._folder.glob(f"{checkpoint[:16]}-*{_SUFFIX}")
        for path in sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name)):
            try:
                yield self.load(path.stem.rpartition("-")[2])
            except ModelError:
                continue

    def find(self, shapes: dict[str, tuple[int, ...]], *, checkpoint: str) -> Basis | None:
        """Return the newest of a checkpoint with leeways and these shapes, None without one."""
        fitting = [
            basis
            for basis in self.list(checkpoint)
            if basis.leeways
            and {name: each.shape for name, each in basis.tensors.items()} == shapes
        ]
        return fitting[-1] if fitting else None

    def match(self, tensors: Tensors, *, checkpoint: str) -> Basis | None:
        """Return the one whose factors are all among these tensors, None when none is."""
        return next((each for each in self.list(checkpoint) if _holds(tensors, each)), None)

    def _keep(self, basis: Basis) -> Basis:
        self._kept[basis.sha256] = basis
        self._kept.move_to_end(basis.sha256)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return basis


def _holds(tensors: Tensors, basis: Basis) -> bool:
    return all(
        name in tensors and np.array_equal(tensors[name], each)
        for name, each in basis.tensors.items()
    )


def _read(path: Path, sha256: str) -> Basis:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ModelError(f"{path} is over {MAX_BYTES} bytes, which no basis is")
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"the basis {path} can't be read: {error}") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ModelError(f"the basis {path} is damaged: its checksum is not its name")
    try:
        tensors = safetensors.numpy.load(data)
    except SafetensorError as error:
        raise ModelError(f"the basis {path} is damaged: {error}") from None
    for name, each in tensors.items():
        dimensions = 2 if name.endswith(".a") else 1 if name.endswith(_LEEWAY) else None
        sound = each.dtype.name in ("float16", "float32") and each.ndim == dimensions
        if not (sound and bool(np.isfinite(each).all())):
            raise ModelError(f"the basis {path} holds {name!r}, which is no first factor or leeway")
    wide = {name: each.astype(np.float32) for name, each in tensors.items()}
    return Basis(
        sha256,
        {name: each for name, each in wide.items() if name.endswith(".a")},
        {name.removesuffix(_LEEWAY): wide[name] for name in wide if name.endswith(_LEEWAY)},
    )


def _narrow(array: NDArray[np.float32]) -> NDArray[Any]:
    half = array.astype(np.float16)
    return half if np.array_equal(half, array) else array
