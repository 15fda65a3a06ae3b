"""Find the library of native operators, or compile it from the package's C source, once.

A library's file name says what it was made from and what it holds:
`libfluvial-SOURCE-COMPILER-CONTENT.so`, each a hash. So a stale one is never looked at, and a
damaged one is noticed before it is loaded. Wheels carry one in the package folder.
"""

import contextlib
import ctypes
import logging
import os
from pathlib import Path

import platformdirs

from fluvial.native.compiler import compile_library, find_compiler, hash_bytes, hash_source

log = logging.getLogger(__name__)

PACKAGE_DIR = Path(__file__).parent


def ensure_library(*, package_dir: Path = PACKAGE_DIR, cache_dir: Path | None = None) -> Path:
    """Return the path of a sound library of the present source, compiling it when there is none.

    Looks in `package_dir`, then in `cache_dir` (default: the user's cache folder). Two processes
    may do it at once. Raises EngineError when there is no compiler, it fails, or nothing can be
    written.
    """
    source = hash_source()
    found = _find(package_dir, f"libfluvial-{source}-")
    if found is not None:
        return found
    folder = cache_dir or Path(platformdirs.user_cache_dir("fluvial", appauthor=False)) / "native"
    compiler = find_compiler()
    # Without a compiler, what any compiler made of this source will do.
    key = "" if compiler is None else f"{compiler.key}-"
    found = _find(folder, f"libfluvial-{source}-{key}")
    return found or compile_library(folder, compiler=compiler)


def use_threads(count: int) -> int:
    """Let operators share their work over `count` threads, in the whole process; return how many.

    Not while a session runs.
    """
    return int(ctypes.CDLL(str(ensure_library())).fluvial_threads(count))


def _mark_used(path: Path) -> None:
    """Set its time, so that the oldest to be removed are those not used for longest."""
    with contextlib.suppress(OSError):
        os.utime(path)


def _find(folder: Path, prefix: str) -> Path | None:
    """Return a library whose content is what its name says; a damaged one is passed over."""
    for path in sorted(folder.glob(f"{prefix}*.so")):
        try:
            if hash_bytes(path.read_bytes()) == path.stem.rpartition("-")[2]:
                _mark_used(path)
                return path
        except OSError as error:
            log.warning("the native library %s can't be read: %s", path, error)
            continue
        log.warning("the native library %s is damaged and is not used", path)
    return None
