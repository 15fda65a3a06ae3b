"""The loader: compiles once, notices damage, and says what to do when it can't."""

import ctypes
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fluvial.errors import EngineError
from fluvial.native import compiler, library
from fluvial.native.compiler import compile_library
from fluvial.native.library import ensure_library

SOURCES = {
    "one.h": "int answer(void);\n",
    "one.c": '#include "one.h"\nint answer(void) { return 42; }\n'
    '__attribute__((visibility("default"))) int ask(void) { return answer(); }\n',
    "kernel_one.c": "#define JOIN_(a) name_##a\n#define JOIN(a) JOIN_(a)\n"
    "int JOIN(VARIANT)(void) { return 1; }\n",
}


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small source in place of the package's."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name, text in SOURCES.items():
        (folder / name).write_text(text)
    monkeypatch.setattr(compiler, "SOURCE_DIR", folder)
    return folder


def ensure(tmp_path: Path) -> Path:
    (tmp_path / "package").mkdir(exist_ok=True)
    return ensure_library(package_dir=tmp_path / "package", cache_dir=tmp_path / "cache")


def list_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_compiles_once(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ensure(tmp_path)
    assert ctypes.CDLL(str(path)).ask() == 42
    assert list_files(tmp_path / "cache") == [path.name]
    monkeypatch.setattr(library, "compile_library", None)
    assert ensure(tmp_path) == path


@pytest.mark.parametrize("name", ["one.c", "one.h"])
def test_changed_source_is_compiled_again(source: Path, tmp_path: Path, name: str) -> None:
    first = ensure(tmp_path)
    (source / name).write_text(SOURCES[name] + "/* changed */\n")
    assert ensure(tmp_path) != first


@pytest.mark.parametrize("content", [b"", b"\x7fELF", None])
def test_damaged_library_is_compiled_again(
    source: Path, tmp_path: Path, content: bytes | None
) -> None:
    path = ensure(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"\x01" if content is None else content)
    again = ensure(tmp_path)
    assert ctypes.CDLL(str(again)).ask() == 42
    assert ensure(tmp_path) == again


def test_unreadable_cache_entry_is_passed_over(source: Path, tmp_path: Path) -> None:
    path = ensure(tmp_path)
    folder = path.with_name(path.stem.rpartition("-")[0] + "-0000.so")
    folder.mkdir()
    assert ensure(tmp_path) == path


def test_library_in_the_package_is_taken_first(source: Path, tmp_path: Path) -> None:
    path = compile_library(tmp_path / "package")
    assert ensure(tmp_path) == path
    assert not (tmp_path / "cache").exists()


def test_stale_or_damaged_library_in_the_package_is_not_taken(source: Path, tmp_path: Path) -> None:
    path = compile_library(tmp_path / "package")
    path.write_bytes(path.read_bytes()[:100])
    assert ensure(tmp_path).parent == tmp_path / "cache"
    (source / "one.c").write_text(SOURCES["one.c"] + "\n")
    assert ensure(tmp_path).parent == tmp_path / "cache"


def test_library_that_is_there_needs_no_compiler(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ensure(tmp_path)
    monkeypatch.setenv("CC", str(tmp_path / "missing-compiler"))
    assert ensure(tmp_path) == path


def test_no_compiler_says_what_to_install(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match=r"no C compiler \(cc\); install one .*apt install gcc"):
        ensure(tmp_path)
    monkeypatch.setenv("CC", "missing-compiler --flag")
    with pytest.raises(EngineError, match="CC=missing-compiler --flag does not run"):
        ensure(tmp_path)


def test_compiler_is_taken_from_the_environment(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ensure(tmp_path)
    program = tmp_path / "my cc"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> "{tmp_path}/calls"\nexec {shutil.which("cc")} "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("CC", f"'{program}' -g")
    assert ensure(tmp_path) != first
    assert "-g -std=gnu11" in (tmp_path / "calls").read_text()


def test_source_that_does_not_compile_says_why(source: Path, tmp_path: Path) -> None:
    (source / "one.c").write_text("int ask(void) { return answer(; }\n")
    with pytest.raises(EngineError, match="could not compile the native operators: (.|\n)*one.c:1"):
        ensure(tmp_path)
    assert list_files(tmp_path / "cache") == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_cannot_be_written_says_so(source: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(EngineError, match="can't be written"):
        ensure(tmp_path)


def test_cache_that_is_a_file_says_so(source: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(EngineError, match="can't be written"):
        ensure(tmp_path)


def test_unresolved_name_is_an_error_of_the_compiler(source: Path, tmp_path: Path) -> None:
    (source / "one.c").write_text("int answer(void);\nint ask(void) { return answer(); }\n")
    with pytest.raises(EngineError, match="undefined reference"):
        ensure(tmp_path)


def test_old_libraries_go(source: Path, tmp_path: Path) -> None:
    for number in range(compiler.KEPT_LIBRARIES + 2):
        (source / "one.h").write_text(f"int answer(void); /* {number} */\n")
        newest = ensure(tmp_path)
    names = list_files(tmp_path / "cache")
    assert len(names) == compiler.KEPT_LIBRARIES
    assert newest.name in names


def test_two_processes_may_compile_at_once(source: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from fluvial.native import compiler, library\n"
        "compiler.SOURCE_DIR = Path(sys.argv[1])\n"
        "print(library.ensure_library(package_dir=Path(sys.argv[1]), cache_dir=Path(sys.argv[2])))"
    )
    command = [sys.executable, "-c", program, str(source), str(tmp_path / "cache")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0].strip() for process in running]
    assert all(ctypes.CDLL(path).ask() == 42 for path in said)
    assert set(list_files(tmp_path / "cache")) == {Path(path).name for path in said}


@pytest.mark.slow
def test_real_source_compiles_without_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(compiler, "FLAGS", (*compiler.FLAGS, "-Wextra", "-Werror"))
    assert compile_library(tmp_path).exists()
