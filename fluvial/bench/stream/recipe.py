"""The streams: which package each is made of, how, and the sha256 that it must have.

All are cut at a line's end to at most 500,000 bytes (`unrelated` to 36,000). Files that security
updates of the package have changed are left out, so that any version gives the same bytes.
"""

import bz2
import gzip
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial

from fluvial.bench.stream.package import MAX_MEMBER_BYTES, Package
from fluvial.bench.stream.page import read_page
from fluvial.bench.stream.r_data import read_vectors
from fluvial.bench.stream.source import Debian, Wheel
from fluvial.bench.stream.wiki import read_paragraphs
from fluvial.errors import SourceError

Compose = Callable[[Package], Iterator[str]]


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One text: its pieces in their order, joined, then cut to `limit_bytes`.

    `tokens` are those of SmolLM2's tokenizer; nothing is tuned on a stream that is `held_out`.
    """

    name: str
    kind: str
    source: Debian | Wheel
    compose: Compose
    sha256: str
    tokens: int
    licence: str
    limit_bytes: int = 500_000
    held_out: bool = False


def _select(package: Package, pattern: str, skip: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the paths that match `pattern`, in which `*` stands for no slash, in sorted order."""
    steps = pattern.count("/")
    for path in package.list_paths():
        fits = fnmatchcase(path, pattern) and path.count("/") == steps
        if fits and path.rpartition("/")[2].partition(".")[0] not in skip:
            yield path


def _read_files(package: Package, *, pattern: str, skip: tuple[str, ...] = ()) -> Iterator[str]:
    for path in _select(package, pattern, skip):
        yield _decode(package, path)


def _read_pages(package: Package, *, pattern: str, line: str = "") -> Iterator[str]:
    """Yield the text of HTML pages; only lines in which the expression `line` is found."""
    for path in _select(package, pattern):
        lines = read_page(_decode(package, path)).splitlines(keepends=True)
        yield "".join(each for each in lines if re.search(line, each))


def _read_code(package: Package, *, folder: str, suffix: str, comment: str) -> Iterator[str]:
    for path in package.list_paths():
        if path.startswith(folder) and path.endswith(suffix):
            name = path.removeprefix(folder.rstrip("/").rpartition("/")[0]).lstrip("/")
            yield f"{comment} {name}\n{_decode(package, path)}\n"


def _read_novel(package: Package, *, path: str, title: str) -> Iterator[str]:
    for lines in read_vectors(package.read(path)):
        if lines and lines[0] == title:
            yield "\n".join(lines) + "\n"


def _read_encyclopedia(package: Package, *, path: str) -> Iterator[str]:
    dump = _decode(package, path)
    for paragraph in read_paragraphs(dump, per_page=1, chars=range(400, 1200)):
        yield paragraph + "\n"


def _decode(package: Package, path: str) -> str:
    """Return one file as text, unpacked when its name says that it is packed."""
    raw = package.read(path)
    try:
        if path.endswith((".gz", ".bz2")):
            opener = gzip.open if path.endswith(".gz") else bz2.open
            with opener(io.BytesIO(raw)) as file:
                raw = file.read(MAX_MEMBER_BYTES + 1)
        if len(raw) > MAX_MEMBER_BYTES:
            raise SourceError(f"{path} unpacks to more than {MAX_MEMBER_BYTES} bytes")
        return raw.decode("utf-8").replace("\r\n", "\n")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} can't be read as text: {error}") from None


_DOC = "usr/share/doc"
_GO = "usr/share/gocode/src/gopkg.in/src-d/go-git.v4/"

STREAMS = {
    stream.name: stream
    for stream in (
        Stream(
            name="networking",
            kind="manual of the Linux kernel's networking",
            source=Debian("linux-doc-6.1", "6.1.192-2"),
            compose=partial(
                _read_files,
                pattern=f"{_DOC}/linux-doc-6.1/Documentation/networking/*.rst.gz",
                skip=("bonding", "ip-sysctl", "strparser"),
            ),
            sha256="3e7baa0824adff91646d1f065932258d00398f7b706e59948dbfff43a8e9bae0",
            tokens=147_216,
            licence="GPL-2.0",
        ),
        Stream(
            name="python-library",
            kind="reference of Python's library",
            source=Debian("python3.11-doc", "3.11.2-6+deb12u9"),
            compose=partial(
                _read_files,
                pattern=f"{_DOC}/python3.11/html/_sources/library/*.rst.txt",
                skip=("asyncio-eventloop", "asyncio-stream", "ssl", "urllib"),
            ),
            sha256="a429130a4665c2c82fa0eb23e08eb53c09081b17b3451e4ac4f7c8e88a58f3bb",
            tokens=124_817,
            licence="PSF-2.0",
        ),
        Stream(
            name="book",
            kind="novel: Persuasion, Jane Austen, 1818",
            source=Debian("r-cran-janeaustenr", "1.0.0-1"),
            compose=partial(
                _read_novel,
                path="usr/lib/R/site-library/janeaustenr/data/Rdata.rdb",
                title="Persuasion",
            ),
            sha256="8061549557aebd2fd6e353d18d9197cb707029112bd52d4d8b174583a925848a",
            tokens=115_862,
            licence="public domain",
        ),
        Stream(
            name="code",
            kind="Python source code: SQLAlchemy",
            source=Wheel("sqlalchemy", "2.0.36"),
            compose=partial(_read_code, folder="sqlalchemy/", suffix=".py", comment="#"),
            sha256="85dd92bca4c89ecb4530ccf712a1432fb5807774e2d8899a6929d8ec8dcdf56f",
            tokens=131_895,
            licence="MIT",
        ),
        Stream(
            name="handbook-zh",
            kind="Chinese prose: the Debian Administrator's Handbook",
            source=Debian("debian-handbook", "11.20220922"),
            compose=partial(
                _read_pages,
                pattern=f"{_DOC}/debian-handbook/html/zh-CN/*.html",
                line="[\u4e00-\u9fff]",  # a third of the paragraphs is not translated
            ),
            sha256="f0433131270947e9dcd95227a0fa555bdca69123b05e6774b69cf5b9e9763d75",
            tokens=263_308,
            licence="CC-BY-SA-3.0 or GPL-2.0-or-later",
        ),
        Stream(
            name="log",
            kind="log of changes by many persons: pixman",
            source=Debian("libpixman-1-0", "0.42.2-1"),
            compose=partial(_read_files, pattern=f"{_DOC}/libpixman-1-0/changelog.gz"),
            sha256="f280325174dd91026358e10e41e5b8166edb19326b62e7fa2cf238025f5e94b7",
            tokens=199_428,
            licence="MIT",
        ),
        Stream(
            name="heldout-1",
            kind="French manual: aptitude",
            source=Debian("aptitude-doc-fr", "0.8.13-5"),
            compose=partial(_read_pages, pattern=f"{_DOC}/aptitude/html/fr/*.html"),
            sha256="1c363c84e5bcddf20be048e83c262aed33e4b14c8a2c2410771d126b11c19397",
            tokens=104_681,
            licence="GPL-2.0-or-later",
            held_out=True,
        ),
        Stream(
            name="heldout-2",
            kind="Go source code: go-git",
            source=Debian("golang-gopkg-src-d-go-git.v4-dev", "4.11.0-3"),
            compose=partial(_read_code, folder=_GO, suffix=".go", comment="//"),
            sha256="63611db6d314e1f401896473a8c1699bcf996123b10abbabfa2ab786ae509de5",
            tokens=207_565,
            licence="Apache-2.0",
            held_out=True,
        ),
        Stream(
            name="unrelated",
            kind="prose on many topics: Wikipedia",
            source=Wheel("gensim", "4.3.3"),
            compose=partial(
                _read_encyclopedia,
                path="gensim/test/test_data/"
                "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
            ),
            sha256="76753e16f4ed4f94d7b52b1512c8730dab14911e29a635c67aedef29f8936e7a",
            tokens=7_616,
            licence="CC-BY-SA-3.0",
            limit_bytes=36_000,
        ),
    )
}
