from pathlib import Path

import pytest

from fluvial.bench.stream.source import Debian, Wheel
from fluvial.errors import SourceError, UnsupportedError
from fluvial.model.source.base import Silent
from tests.bench.stream.packages import (
    list_asked,
    make_programs,
    make_tar,
    make_wheel,
    put_first_on_path,
)

FILES = {"usr/a.txt": b"text"}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def test_the_version_asked_for_is_taken(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_programs(tmp_path, tar=make_tar(tmp_path / "t", FILES))
    monkeypatch.setenv("PATH", put_first_on_path(tmp_path))
    package = Debian("some", "1-2").open(work, progress=Silent())
    assert package.read("usr/a.txt") == b"text"
    assert list_asked(tmp_path) == ["some=1-2"]
    package.close()


def test_another_version_is_taken_when_that_one_is_gone(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_programs(tmp_path, tar=make_tar(tmp_path / "t", FILES), refused="*=*")
    monkeypatch.setenv("PATH", put_first_on_path(tmp_path))
    Debian("some", "1-2").open(work, progress=Silent()).close()
    assert list_asked(tmp_path) == ["some=1-2", "some"]


def test_apt_s_own_words_are_passed_on(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_programs(tmp_path, tar=make_tar(tmp_path / "t", FILES), refused="*")
    monkeypatch.setenv("PATH", put_first_on_path(tmp_path))
    with pytest.raises(SourceError, match="Unable to locate package some.*Debian 12"):
        Debian("some", "1").open(work, progress=Silent())


def test_no_apt_is_told(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(work))
    with pytest.raises(UnsupportedError, match="apt-get is not on this machine"):
        Debian("some", "1").open(work, progress=Silent())


def test_a_wheel_comes_from_where_pip_looks(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(tmp_path, {"some/a.py": b"text"})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    package = Wheel("some", "1.0").open(work, progress=Silent())
    assert package.read("some/a.py") == b"text"
    with pytest.raises(SourceError, match=r"no wheel of some 2\.0"):
        Wheel("some", "2.0").open(work, progress=Silent())
