import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fluvial.bench.stream import preparation as module
from fluvial.bench.stream.package import Package
from fluvial.bench.stream.preparation import cut, prepare
from fluvial.bench.stream.recipe import STREAMS, Stream
from fluvial.bench.stream.source import Wheel
from fluvial.cli.main import run
from fluvial.errors import InputError, SourceError, StorageError
from fluvial.model.opening import open_tokenizer
from tests.bench.stream.packages import make_wheel

TEXT = b"one\ntwo\n"


def compose(package: Package) -> Iterator[str]:
    for path in package.list_paths():
        if path.endswith(".txt"):
            yield package.read(path).decode()


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stream:
    """The only stream there is, from a wheel on this machine."""
    links = tmp_path / "links"
    links.mkdir()
    make_wheel(links, {"some/b.txt": b"two\n", "some/a.txt": b"one\n"})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    stream = Stream(
        name="small",
        kind="test",
        source=Wheel("some", "1.0"),
        compose=compose,
        sha256=hashlib.sha256(TEXT).hexdigest(),
        tokens=2,
        licence="none",
    )
    monkeypatch.setattr(module, "STREAMS", {"small": stream})
    return stream


def test_a_stream_is_made_once_and_made_again_when_it_was_changed(
    stream: Stream, tmp_path: Path
) -> None:
    folder = tmp_path / "new" / "streams"
    assert [each.fetched for each in prepare(folder)] == [True]
    assert (folder / "small.txt").read_bytes() == TEXT
    assert [each.fetched for each in prepare(folder, names=["small", "small"])] == [False]
    (folder / "small.txt").write_bytes(b"one\n")
    assert [each.fetched for each in prepare(folder)] == [True]
    assert [path.name for path in folder.iterdir()] == ["small.txt"]


def test_other_bytes_are_refused_and_nothing_is_left(
    stream: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STREAMS", {"small": replace(stream, sha256="0" * 64)})
    with pytest.raises(SourceError, match=r"small came out with sha256 .* some 1\.0"):
        prepare(tmp_path / "streams")
    assert not list((tmp_path / "streams").iterdir())


def test_unknown_names_and_bad_folders_are_refused(stream: Stream, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'big'; there are: small"):
        prepare(tmp_path, names=["big"])
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="can't be written"):
        prepare(tmp_path / "file" / "streams")


def test_cutting_ends_at_a_line_and_takes_no_more_pieces_than_needed() -> None:
    def pieces() -> Iterator[str]:
        yield from ("诗\n", "abc\nd", "ef\n")
        raise AssertionError("asked for more than needed")

    assert cut(pieces(), limit_bytes=9) == "诗\nabc\n".encode()
    assert cut(["abc\n"], limit_bytes=4) == b"abc\n"
    assert cut(["ab"], limit_bytes=9) == b"ab"
    for nothing in ([], ["no line's end"]):
        with pytest.raises(SourceError, match="none of the expected text"):
            cut(nothing, limit_bytes=4)


def test_the_command_prints_a_table_or_json(
    stream: Stream, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", "streams", str(tmp_path / "s")]) == 0
    assert "small.txt" in capsys.readouterr().out
    assert run(["bench", "streams", str(tmp_path / "s"), "--only", "small", "--json"]) == 0
    row: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])["streams"][0]
    assert row["bytes"] == 8
    assert not row["fetched"]
    assert not row["held_out"]
    assert run(["bench", "streams", str(tmp_path / "s"), "--only", "big"]) != 0
    assert "there are: small" in capsys.readouterr().err


def test_the_table_has_enough_of_every_kind() -> None:
    read = [stream for stream in STREAMS.values() if stream.name != "unrelated"]
    assert len([stream for stream in read if not stream.held_out]) == 6
    assert len([stream for stream in read if stream.held_out]) == 2
    assert all(stream.tokens >= 64_000 for stream in read)
    assert STREAMS["unrelated"].tokens in range(7_000, 9_000)
    assert len({stream.sha256 for stream in STREAMS.values()}) == 9
    assert all(isinstance(stream.compose, partial) for stream in STREAMS.values())


@pytest.mark.slow
def test_all_streams_come_out_as_the_table_says(tmp_path: Path, small_model_path: Path) -> None:
    if shutil.which("apt-get") is None:
        pytest.skip("streams from Debian's packages need apt-get")
    from fluvial.model.checkpoint import open_checkpoint

    tokenizer = open_tokenizer(open_checkpoint(small_model_path))
    for each in prepare(tmp_path):
        text = each.path.read_text(encoding="utf-8")
        assert len(tokenizer.encode(text)) == each.stream.tokens, each.stream.name
