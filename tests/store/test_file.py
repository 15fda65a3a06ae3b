import errno
import os
from pathlib import Path

import pytest

from fluvial.errors import InputError, NotFoundError, StorageError
from fluvial.store import write_atomically
from fluvial.store.file import SessionFolder, check_text, is_id, make_id, remove_file


def test_write_makes_folders_and_private_files(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.bin"
    write_atomically(path, b"one")
    assert path.read_bytes() == b"one"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    write_atomically(path, b"")
    assert path.read_bytes() == b""
    assert os.listdir(path.parent) == ["c.bin"]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "storage_full"),
        (errno.EDQUOT, "storage_full"),
        (errno.EIO, "storage_failed"),
        (errno.EROFS, "storage_failed"),
    ],
)
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_refusal_keeps_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int, code: str
) -> None:
    path = tmp_path / "x.bin"
    write_atomically(path, b"old")

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), refuse)
    with pytest.raises(StorageError, match=r"writing x\.bin") as caught:
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert caught.value.code == code
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.bin"]


def test_interrupt_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "x.bin", b"new")
    assert os.listdir(tmp_path) == []


def test_data_is_synced_before_the_rename_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    sync, replace = os.fsync, Path.replace

    def note_sync(descriptor: int) -> None:
        steps.append("folder" if Path(f"/proc/self/fd/{descriptor}").resolve().is_dir() else "data")
        sync(descriptor)

    def note_replace(source: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_replace)
    write_atomically(tmp_path / "x.bin", b"new")
    assert steps == ["data", "rename", "folder"]


def test_a_file_in_the_way_of_a_folder_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(StorageError):
        write_atomically(tmp_path / "a" / "x.bin", b"new")


def test_remove_is_harmless_twice(tmp_path: Path) -> None:
    write_atomically(tmp_path / "x.bin", b"x")
    remove_file(tmp_path / "x.bin")
    remove_file(tmp_path / "x.bin")
    assert os.listdir(tmp_path) == []


def test_ids_are_recognised_exactly() -> None:
    id = make_id("sess")
    assert is_id(id, prefix="sess")
    assert len({make_id("sess") for _ in range(1000)}) == 1000
    for wrong in (f"{id}\n", f" {id}", id.upper(), id[:-1], f"{id}0", id.replace("sess", "read")):
        assert not is_id(wrong, prefix="sess")
    assert not is_id("sess_" + "٣" * 24, prefix="sess")


@pytest.mark.parametrize("id", ["", "..", "sess_..", "/etc", "sess_" + "0" * 23 + "/"])
def test_paths_never_leave_the_folder(tmp_path: Path, id: str) -> None:
    with pytest.raises(NotFoundError):
        SessionFolder(tmp_path, id)
    with pytest.raises(NotFoundError):
        SessionFolder(tmp_path, make_id("sess")).reading_path(id)


def test_check_text_names_the_field_and_the_place() -> None:
    assert check_text("é", param="title") == b"\xc3\xa9"
    with pytest.raises(InputError, match="title .* character 2") as caught:
        check_text("ab\ud800", param="title")
    assert caught.value.param == "title"
