"""`file:`, copied or linked, saying which."""

from pathlib import Path

import pytest

from fluvial.errors import InputError, SourceError
from fluvial.model.source import is_spec, parse
from fluvial.model.source.base import Delivery, Source
from tests.model.web import Recorder, digest

DATA = b"weights" * 1000


def deliver(source: Source, work: Path) -> tuple[Delivery, Recorder]:
    progress = Recorder()
    work.mkdir()
    source.contact()
    return source.deliver(work, progress=progress), progress


def test_a_file_is_copied_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "my.gguf").write_bytes(DATA)
    delivery, progress = deliver(parse(f"file:{tmp_path}/my.gguf"), tmp_path / "work")
    model = delivery.folder / "model.gguf"
    assert delivery.sha256 == digest(DATA)
    assert model.read_bytes() == DATA
    assert model.stat().st_ino != (tmp_path / "my.gguf").stat().st_ino
    assert progress.notes[0].startswith("copied")
    assert progress.done_bytes == len(DATA)


def test_a_file_is_linked_when_asked_to(tmp_path: Path) -> None:
    (tmp_path / "my.gguf").write_bytes(DATA)
    source = parse(f"file:{tmp_path}/my.gguf", link=True)
    assert source.contact().content_bytes == 0
    delivery, progress = deliver(source, tmp_path / "work")
    model = delivery.folder / "model.gguf"
    assert model.stat().st_ino == (tmp_path / "my.gguf").stat().st_ino
    assert delivery.sha256 == digest(DATA)
    assert progress.notes[0].startswith("hard-linked")


def test_a_folder_brings_its_safetensors_and_no_code(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "evil.py", "w.bin", ".x"):
        (folder / name).write_bytes(DATA)
    delivery, _ = deliver(parse(f"file:{folder}"), tmp_path / "work")
    names = {file.name for file in delivery.folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json"}
    assert delivery.sha256 is None


def test_a_file_url_is_understood(tmp_path: Path) -> None:
    (tmp_path / "my model.gguf").write_bytes(DATA)
    assert parse((tmp_path / "my model.gguf").as_uri()).contact().content_bytes == len(DATA)


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no file or folder"):
        parse(f"file:{tmp_path}/none.gguf").contact()
    with pytest.raises(SourceError, match="holds no safetensors model"):
        parse(f"file:{tmp_path}").contact()


@pytest.mark.parametrize("spec", ["file:", "file://host/x", "file:a\0b", "ftp:x", "x", "", "pypi:"])
def test_a_malformed_spec_is_an_input_error(spec: str) -> None:
    with pytest.raises(InputError):
        parse(spec)


def test_only_a_file_can_be_linked() -> None:
    with pytest.raises(InputError, match="leave out --link"):
        parse("pypi:a==1/b", link=True)


def test_specs_are_told_from_names() -> None:
    assert is_spec("pypi:a==1/b")
    assert is_spec("hf:a/b")
    assert not is_spec("qwen2.5-coder-0.5b-instruct")
    assert not is_spec("pypi")
