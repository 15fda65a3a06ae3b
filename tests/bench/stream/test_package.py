import zipfile
from pathlib import Path

import pytest

from fluvial.bench.stream import package
from fluvial.bench.stream.package import TarPackage, WheelPackage
from fluvial.errors import SourceError
from tests.bench.stream.packages import make_tar, make_wheel


def test_a_wheel_lists_what_its_record_says_and_reads_it(tmp_path: Path) -> None:
    wheel = WheelPackage(make_wheel(tmp_path, {"b/x.py": b"x", '"a,1.py"': b""}))
    assert wheel.list_paths() == ["a,1.py", "b/x.py"]
    assert wheel.read("b/x.py") == b"x"
    with pytest.raises(SourceError, match="holds no c"):
        wheel.read("c")


def test_a_debian_archive_has_plain_files_only(tmp_path: Path) -> None:
    tar = TarPackage(make_tar(tmp_path / "some.tar", {"usr/b": b"2", "usr/a": b"1"}))
    assert tar.list_paths() == ["usr/a", "usr/b"]
    assert tar.read("usr/b") == b"2"
    with pytest.raises(SourceError, match=r"some\.tar holds no link\.txt"):
        tar.read("link.txt")
    tar.close()


@pytest.mark.parametrize("content", [b"", b"no archive at all" * 100])
def test_damaged_archives_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "some.tar"
    path.write_bytes(content)
    with pytest.raises(SourceError, match="no readable archive"):
        TarPackage(path)
    (tmp_path / "some-1.0-py3-none-any.whl").write_bytes(content)
    with pytest.raises(SourceError, match="damaged"):
        WheelPackage(tmp_path / "some-1.0-py3-none-any.whl").list_paths()


def test_a_cut_off_archive_is_refused(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "some.tar", {"a": b"x" * 5000})
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(SourceError, match="no readable archive"):
        TarPackage(path)


def test_files_over_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "MAX_MEMBER_BYTES", 9)
    tar = TarPackage(make_tar(tmp_path / "some.tar", {"a": b"1234567890"}))
    with pytest.raises(SourceError, match="at most 9"):
        tar.read("a")
    tar.close()
    path = tmp_path / "some-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"1234567890")
    with pytest.raises(SourceError, match="at most 9"):
        WheelPackage(path).read("a")
