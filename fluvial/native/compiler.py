"""Compile the native operators. Uses nothing but the standard library: `setup.py` calls it too.

Kernels are compiled once for each set of instructions (`source/kernel.h`).
"""

import hashlib
import logging
import os
import platform
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fluvial.errors import EngineError

log = logging.getLogger(__name__)

SOURCE_DIR = Path(__file__).parent / "source"

COMPILE_TIMEOUT_S = 600
KEPT_LIBRARIES = 8
# No fused or reordered arithmetic that the source does not ask for: one result on every path.
FLAGS = (
    *("-std=gnu11", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-ffp-contract=off"),
    *("-Wall", "-Wno-psabi", "-pthread"),
)
# Sessions share one operator domain, so the library stays loaded when the last of them closes.
LINK_FLAGS = (
    *("-shared", "-pthread"),
    *(("-Wl,-z,nodelete", "-Wl,-z,defs") if platform.system() == "Linux" else ()),
)
AVX2_FLAGS = ("-mavx2", "-mfma", "-mf16c")
AVX512_FLAGS = (
    *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mavx512vbmi"),
    *AVX2_FLAGS,
)
VARIANTS = {"avx512": AVX512_FLAGS, "avx2": AVX2_FLAGS, "plain": ()}


def compile_library(folder: Path, *, compiler: "Compiler | None" = None) -> Path:
    """Compile the source into `folder` and return the library's path; raises EngineError."""
    compiler = compiler or find_compiler()
    if compiler is None:
        raise EngineError(_explain_missing_compiler())
    log.info("compiling the native operators with %s (once)", shlex.join(compiler.command))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="building-", dir=folder) as fresh:
            source = _copy_source(Path(fresh))
            library = _compile(compiler, source, Path(fresh))
            content = hash_bytes(library.read_bytes())
            path = folder / f"libfluvial-{hash_source(source)}-{compiler.key}-{content}.so"
            os.replace(library, path)
        _prune(folder)
    except OSError as error:
        raise EngineError(f"the native operators can't be written to {folder}: {error}") from None
    return path


def _copy_source(folder: Path) -> Path:
    """Copy the source, so that what is compiled is what is hashed, though someone edits it."""
    source = folder / "source"
    source.mkdir()
    for path in _list_source(SOURCE_DIR):
        (source / path.name).write_bytes(path.read_bytes())
    return source


def _prune(folder: Path) -> None:
    """Delete all but the newest libraries; one that is in use stays loaded."""
    made = sorted(folder.glob("libfluvial-*.so"), key=lambda path: path.lstat().st_mtime)
    for path in made[:-KEPT_LIBRARIES]:
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Compiler:
    """A C compiler: how to call it, and a hash of what it says it is."""

    command: tuple[str, ...]
    key: str


def hash_source(folder: Path | None = None) -> str:
    """Return a hash of the C source, the flags and the kind of machine."""
    state = hashlib.sha256(
        repr((FLAGS, LINK_FLAGS, VARIANTS, platform.system(), _machine())).encode()
    )
    for path in _list_source(folder or SOURCE_DIR):
        content = path.read_bytes()
        state.update(f"{path.name} {len(content)} ".encode() + content)
    return state.hexdigest()[:24]


def _list_source(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.c"), *folder.glob("*.h")])


def hash_bytes(content: bytes) -> str:
    """Return a hash for a file's name."""
    return hashlib.sha256(content).hexdigest()[:24]


def _machine() -> str:
    return platform.machine().lower()


def find_compiler() -> Compiler | None:
    """Return the compiler that the environment's CC names, else `cc`; None when it does not run."""
    command = tuple(shlex.split(os.environ.get("CC", ""))) or ("cc",)
    try:
        version = _run([*command, "--version"], timeout_s=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return Compiler(command, hash_bytes(repr((command, version)).encode())[:12])


def _explain_missing_compiler() -> str:
    named = os.environ.get("CC")
    missing = f"CC={named} does not run" if named else "there is no C compiler (cc)"
    return (
        f"the native operators must be compiled once, and {missing}; install one (Debian, Ubuntu: "
        "apt install gcc libc6-dev; Fedora: dnf install gcc; macOS: xcode-select --install) or "
        "name one in the environment's CC"
    )


def _compile(compiler: Compiler, source: Path, folder: Path) -> Path:
    library = folder / "libfluvial.so"
    jobs = list(_list_objects(source, folder))
    objects = [str(path) for path, _ in jobs]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        done = [pool.submit(_call, compiler, *given, "-o", str(path)) for path, given in jobs]
        for one in done:
            one.result()
    _call(compiler, *LINK_FLAGS, *objects, "-lm", "-o", str(library))
    return library


def _list_objects(source: Path, folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield (object file, arguments that make it); kernels once per variant."""
    base = [*FLAGS, f'-DSOURCE_HASH="{hash_source(source)}"', f"-I{source}", "-c"]
    on_x86 = _machine() in ("x86_64", "amd64")
    variants = VARIANTS if on_x86 else {"plain": ()}
    for path in sorted(source.glob("*.c")):
        if not path.stem.startswith("kernel_"):
            yield folder / f"{path.stem}.o", [*base, str(path)]
            continue
        for name, flags in variants.items():
            yield (
                folder / f"{path.stem}.{name}.o",
                [*base, *flags, f"-DVARIANT={name}", str(path)],
            )


def _call(compiler: Compiler, *arguments: str) -> None:
    try:
        _run([*compiler.command, *arguments], timeout_s=COMPILE_TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        said = str(error.stderr).strip()[-2000:]
        raise EngineError(
            f"{shlex.join(compiler.command)} could not compile the native operators: {said}"
        ) from None
    except subprocess.SubprocessError as error:
        raise EngineError(f"the C compiler did not finish: {error}") from None


def _run(command: list[str], *, timeout_s: float) -> str:
    done = subprocess.run(  # noqa: S603 - the user's own compiler on our own source
        command, capture_output=True, text=True, check=True, timeout=timeout_s, errors="replace"
    )
    return done.stdout
