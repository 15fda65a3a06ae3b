"""Downloads: resumed, checked, bounded; and what a bad server gets."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from fluvial.errors import SourceError, StorageError
from fluvial.model.source.base import ask
from fluvial.model.source.disk import guard_disk, name_bytes, require_space
from fluvial.model.source.transfer import Item, download, redact
from tests.model.web import Blob, Recorder, Stub, digest, run_stub

DATA = bytes(range(256)) * 4096


@pytest.fixture
def stub() -> Iterator[Stub]:
    with run_stub() as server:
        yield server


def fetch(stub: Stub, to: Path, **promised: object) -> tuple[str, Recorder]:
    progress = Recorder()
    promised = {"size_bytes": len(DATA), "sha256": digest(DATA)} | promised
    item = Item(url=f"{stub.url}/file", **promised)  # type: ignore[arg-type]
    with httpx2.Client() as client:
        return download(client, item, to=to, progress=progress, pause_s=0), progress


def test_download_delivers_the_file_and_its_hash(stub: Stub, tmp_path: Path) -> None:
    stub.blobs["/file"] = Blob(DATA)
    sha256, progress = fetch(stub, tmp_path / "f")
    assert sha256 == digest(DATA)
    assert (tmp_path / "f").read_bytes() == DATA
    assert progress.done_bytes == len(DATA)


def test_what_an_earlier_call_left_is_kept(stub: Stub, tmp_path: Path) -> None:
    stub.blobs["/file"] = Blob(DATA)
    (tmp_path / "f").write_bytes(DATA[:300_000])
    _, progress = fetch(stub, tmp_path / "f")
    assert stub.requests == [("GET", "/file", "bytes=300000-")]
    assert (tmp_path / "f").read_bytes() == DATA
    assert progress.done_bytes == len(DATA)


def test_a_broken_connection_is_taken_up_where_it_broke(stub: Stub, tmp_path: Path) -> None:
    stub.blobs["/file"] = Blob(DATA, cuts=[100_000, 200_000])
    fetch(stub, tmp_path / "f")
    assert [asked for *_, asked in stub.requests] == [None, "bytes=100000-", "bytes=300000-"]
    assert (tmp_path / "f").read_bytes() == DATA


def test_a_server_error_is_tried_again(stub: Stub, tmp_path: Path) -> None:
    stub.blobs["/file"] = Blob(DATA, statuses=[503, 200])
    fetch(stub, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == DATA


def test_a_file_that_always_breaks_off_says_so_and_keeps_its_part(
    stub: Stub, tmp_path: Path
) -> None:
    stub.blobs["/file"] = Blob(DATA, cuts=[1000, 0, 0, 0, 0, 0])
    with pytest.raises(SourceError, match=f"broke off after 1000 of {len(DATA)} bytes"):
        fetch(stub, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == DATA[:1000]


def test_a_server_without_ranges_starts_over(stub: Stub, tmp_path: Path) -> None:
    stub.blobs["/file"] = Blob(DATA, ranges=False)
    (tmp_path / "f").write_bytes(DATA[:300_000])
    _, progress = fetch(stub, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == DATA
    assert progress.done_bytes == len(DATA)


def test_a_kept_part_that_does_not_fit_is_thrown_away_once(stub: Stub, tmp_path: Path) -> None:
    stub.blobs["/file"] = Blob(DATA)
    (tmp_path / "f").write_bytes(b"\0" * 5000)
    _, progress = fetch(stub, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == DATA
    assert "starting over" in progress.notes[0]
    assert progress.done_bytes == len(DATA)


def test_a_kept_part_longer_than_the_file_does_no_harm(stub: Stub, tmp_path: Path) -> None:
    stub.blobs["/file"] = Blob(DATA)
    (tmp_path / "f").write_bytes(DATA + b"more")
    fetch(stub, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == DATA


def test_a_kept_part_longer_than_an_unknown_size_starts_over(stub: Stub, tmp_path: Path) -> None:
    stub.blobs["/file"] = Blob(DATA)
    (tmp_path / "f").write_bytes(DATA + b"more")
    fetch(stub, tmp_path / "f", size_bytes=None)
    assert (tmp_path / "f").read_bytes() == DATA


def test_a_wrong_hash_is_an_error_and_leaves_no_file(stub: Stub, tmp_path: Path) -> None:
    stub.blobs["/file"] = Blob(DATA)
    with pytest.raises(SourceError, match="0000 was promised"):
        fetch(stub, tmp_path / "f", sha256="0" * 64)
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_an_error_with_its_number(stub: Stub, tmp_path: Path, status: int) -> None:
    stub.blobs["/file"] = Blob(b"no", status=status)
    with pytest.raises(SourceError, match=f"HTTP {status}"):
        fetch(stub, tmp_path / "f")
    assert len(stub.requests) == 1


def test_another_length_than_promised_is_refused_at_once(stub: Stub, tmp_path: Path) -> None:
    stub.blobs["/file"] = Blob(DATA * 2)
    with pytest.raises(SourceError, match=f"is {2 * len(DATA)} bytes long"):
        fetch(stub, tmp_path / "f")
    assert (tmp_path / "f").stat().st_size == 0


def test_an_endless_answer_is_cut_at_the_promised_size(tmp_path: Path) -> None:
    def endless(request: httpx2.Request) -> httpx2.Response:
        def body() -> Iterator[bytes]:
            while True:
                yield bytes(65_536)

        return httpx2.Response(200, content=body())

    item = Item(url="http://bad.test/file", size_bytes=100_000)
    with (
        httpx2.Client(transport=httpx2.MockTransport(endless)) as client,
        pytest.raises(SourceError, match="more than the 100000 bytes promised"),
    ):
        download(client, item, to=tmp_path / "f", progress=Recorder(), pause_s=0)
    assert (tmp_path / "f").stat().st_size == 0


@pytest.mark.parametrize(
    ("headers", "complaint"),
    [
        ({"Content-Range": "bytes 7-8/9"}, "went on from byte 7, not 4"),
        ({"Content-Range": "nonsense"}, "without saying which"),
        ({}, "without saying which"),
        ({"Content-Range": "bytes 4-8/9", "Content-Encoding": "gzip"}, "compressed"),
    ],
)
def test_a_part_that_is_not_the_one_asked_for_is_refused(
    tmp_path: Path, headers: dict[str, str], complaint: str
) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        assert request.headers["Range"] == "bytes=4-"
        return httpx2.Response(206, headers=headers, stream=httpx2.ByteStream(b"12345"))

    (tmp_path / "f").write_bytes(b"0123")
    item = Item(url="http://bad.test/file", size_bytes=9)
    with (
        httpx2.Client(transport=httpx2.MockTransport(answer)) as client,
        pytest.raises(SourceError, match=complaint),
    ):
        download(client, item, to=tmp_path / "f", progress=Recorder(), pause_s=0)


def test_a_full_disk_is_a_storage_error(tmp_path: Path) -> None:
    def write() -> None:
        with guard_disk(tmp_path), Path("/dev/full").open("wb") as file:
            file.write(b"x")

    with pytest.raises(StorageError, match="No space left"):
        write()


def test_space_is_checked_and_named(tmp_path: Path) -> None:
    require_space(tmp_path, needed_bytes=1)
    with pytest.raises(StorageError, match=r"1000000\.0 TB needed, .* free"):
        require_space(tmp_path, needed_bytes=10**18)


def test_a_question_is_left_when_it_takes_too_long() -> None:
    import threading

    never = threading.Event()
    with pytest.raises(SourceError, match=r"the oracle did not answer within 0\.05 s"):
        ask(never.wait, of="the oracle", limit_s=0.05)
    never.set()


def test_an_answer_or_its_error_comes_through() -> None:
    assert ask(lambda: 42, of="the oracle") == 42
    with pytest.raises(KeyError):
        ask(lambda: {}["x"], of="the oracle")


def test_credentials_stay_out_of_messages() -> None:
    assert redact("https://me:secret@host:1/simple/x?token=1#f") == "https://host:1/simple/x"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (98_362_432, "98 MB"), (10**15, "1000.0 TB")],
)
def test_sizes_are_written_for_people(count: int, text: str) -> None:
    assert name_bytes(count) == text
