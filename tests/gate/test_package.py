"""Wheels with test data: only the right bytes, read and never run."""

from pathlib import Path

import pytest

from fluvial.errors import SourceError, UnsupportedError
from fluvial.gate.package import MAX_MEMBER_BYTES, Package, make_opener, open_package
from tests.gate.wheels import write_wheel


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip's settings name as the only place for packages."""
    folder = tmp_path / "index"
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_wheel_is_fetched_once_and_then_read_offline(index: Path, tmp_path: Path) -> None:
    package = write_wheel(index, "demo", "1.0", {"demo/a.txt": "one", "demo/b/c.txt": "three"})
    reader = open_package(package, data_dir=tmp_path / "data")
    assert reader.read("demo/a.txt") == "one"
    next(index.iterdir()).unlink()
    again = make_opener(data_dir=tmp_path / "data", offline=True)(package)
    assert again.read("demo/b/c.txt") == "three"
    assert again.list_sizes("demo/b/") == {"demo/b/c.txt": 5}


def test_other_bytes_than_the_pinned_ones_are_refused(index: Path, tmp_path: Path) -> None:
    write_wheel(index, "demo", "1.0", {"demo/a.txt": "one"})
    wrong = Package(name="demo", version="1.0", sha256="0" * 64)
    with pytest.raises(SourceError, match="another demo 1.0"):
        open_package(wrong, data_dir=tmp_path / "data")
    assert not list((tmp_path / "data" / "gate").glob("*.whl"))


def test_a_wheel_that_changed_on_the_disk_is_fetched_again(index: Path, tmp_path: Path) -> None:
    package = write_wheel(index, "demo", "1.0", {"demo/a.txt": "one"})
    kept = open_package(package, data_dir=tmp_path).path
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    assert open_package(package, data_dir=tmp_path).read("demo/a.txt") == "one"


def test_offline_without_the_wheel_says_so(tmp_path: Path) -> None:
    package = Package(name="demo", version="1.0", sha256="0" * 64)
    with pytest.raises(UnsupportedError, match="demo 1.0 is not on this machine"):
        open_package(package, data_dir=tmp_path, offline=True)


def test_a_version_that_the_index_lacks_is_an_error(index: Path, tmp_path: Path) -> None:
    write_wheel(index, "demo", "1.0", {"demo/a.txt": "one"})
    with pytest.raises(SourceError):
        open_package(Package(name="demo", version="2.0", sha256="0" * 64), data_dir=tmp_path)


def test_a_file_that_is_not_there_or_huge_is_refused(index: Path, tmp_path: Path) -> None:
    # Not of one letter: that would be refused as a bomb before.
    big = "".join(f"{number}\n" for number in range(MAX_MEMBER_BYTES // 7 + 200_000))
    package = write_wheel(index, "demo", "1.0", {"demo/big.txt": big})
    reader = open_package(package, data_dir=tmp_path)
    with pytest.raises(SourceError, match="holds no demo/none"):
        reader.read("demo/none.txt")
    with pytest.raises(SourceError, match="over the limit"):
        reader.read("demo/big.txt")
