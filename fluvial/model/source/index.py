"""Find a wheel in a Python package index: the simple API, as JSON (PEP 691) or HTML (PEP 503)."""

import html.parser
import json
import re
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import unquote, urldefrag, urljoin, urlsplit
from urllib.request import url2pathname

import httpx2

from fluvial.errors import SourceError
from fluvial.model.source.base import ask
from fluvial.model.source.pip import PipSettings
from fluvial.model.source.transfer import redact

MAX_PAGE_BYTES = 32 * 2**20
ACCEPT = (
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, "
    "text/html;q=0.1"
)
_JSON_TYPES = ("application/vnd.pypi.simple.v1+json", "application/json")
_HTML_TYPES = ("application/vnd.pypi.simple.v1+html", "text/html")
_WHEEL = re.compile(r"([A-Za-z0-9_.]+)-([A-Za-z0-9_.!+]+)(-\d[^-]*)?-[^-]+-[^-]+-([^-]+)\.whl")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A wheel in an index. Its `url` is http(s), or file: for an index on this machine."""

    filename: str
    url: str
    size_bytes: int | None = None
    sha256: str | None = None

    @property
    def path(self) -> Path | None:
        """The wheel itself when it is on this machine already."""
        return _local_path(self.url)


def open_client(settings: PipSettings) -> httpx2.Client:
    """Make the HTTP client that pip's settings ask for (certificates, proxy)."""
    verify: ssl.SSLContext | bool = True
    if settings.cert:
        try:
            is_folder = Path(settings.cert).is_dir()
            verify = ssl.create_default_context(
                cafile=None if is_folder else settings.cert,
                capath=settings.cert if is_folder else None,
            )
        except (OSError, ssl.SSLError) as error:
            raise SourceError(f"pip's certificate file {settings.cert}: {error}") from None
    timeout = httpx2.Timeout(30.0, connect=5.0)
    return httpx2.Client(verify=verify, proxy=settings.proxy, timeout=timeout)


def find_wheel(
    project: str, *, version: str, settings: PipSettings, client: httpx2.Client
) -> Wheel:
    """Return the wheel of `project` at exactly `version`, from the first index that has it.

    Raises SourceError: no index answered in time, none knows the project, or none has that version.
    """
    places = [*settings.index_urls, *settings.find_links]
    if not places:
        raise SourceError("pip is configured to use no index (no-index)")
    reasons: list[str] = []
    for place in places:
        try:
            wheels = list(_list_wheels(place, project, settings, client))
            return _choose(wheels, project, version, redact(place))
        except SourceError as error:
            reasons.append(error.message)
    raise SourceError("; ".join(reasons))


def _list_wheels(
    place: str, project: str, settings: PipSettings, client: httpx2.Client
) -> Iterable[Wheel]:
    if place in settings.find_links:
        return _list_folder(place)
    page = f"{place}/{re.sub(r'[-_.]+', '-', project).lower()}/"
    local = _local_path(page)
    if local is not None:
        return _list_local_page(local / "index.html", page)
    if urlsplit(page).scheme not in ("http", "https"):
        raise SourceError(f"pip's index {redact(place)!r} is neither http(s) nor file:")
    kind, body = ask(lambda: _fetch_page(client, page), of=redact(place))
    return _read_json(body, page) if kind == "json" else _read_html(body, page)


def _fetch_page(client: httpx2.Client, page: str) -> tuple[str, bytes]:
    where = redact(page)
    try:
        with client.stream(
            "GET", page, headers={"Accept": ACCEPT}, follow_redirects=True
        ) as response:
            if response.status_code == 404:
                raise SourceError(f"{where} does not exist (HTTP 404)")
            if response.status_code != 200:
                raise SourceError(f"{where} answered HTTP {response.status_code}")
            kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            if kind not in _JSON_TYPES + _HTML_TYPES:
                raise SourceError(
                    f"{where} answered {kind or 'no content type'}, not an index page"
                )
            body = bytearray()
            for block in response.iter_bytes():
                body += block
                if len(body) > MAX_PAGE_BYTES:
                    raise SourceError(f"{where} is over {MAX_PAGE_BYTES} bytes long")
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        why = str(error) or type(error).__name__
        raise SourceError(f"{where} can't be reached: {why}") from error
    return "json" if kind in _JSON_TYPES else "html", bytes(body)


def _read_json(body: bytes, page: str) -> list[Wheel]:
    try:
        answer = cast(Mapping[str, object], json.loads(body))
        files = cast(list[Mapping[str, object]], answer["files"])
        return [wheel for file in files if (wheel := _read_file(file, page)) is not None]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SourceError(f"{redact(page)} is not what PEP 691 describes: {error!r}") from None


def _read_file(file: Mapping[str, object], page: str) -> Wheel | None:
    name, url, size = file["filename"], file["url"], file.get("size")
    hashes = cast(Mapping[str, object], file.get("hashes") or {})
    if not isinstance(name, str) or not isinstance(url, str):
        raise TypeError("filename and url must be strings")
    if (
        isinstance(size, bool)
        or not isinstance(size, int | None)
        or (size is not None and size < 0)
    ):
        raise TypeError(f"size of {name!r} is {size!r}")
    return _make(name, url, page, sha256=hashes.get("sha256"), size_bytes=size)


def _make(
    name: str, url: str, page: str, *, sha256: object = None, size_bytes: int | None = None
) -> Wheel | None:
    """Check what an index says of one file; None when it is not a wheel."""
    if not _WHEEL.fullmatch(name):
        return None
    address = urldefrag(urljoin(page, url)).url
    allowed = {"https": ("https",), "http": ("http", "https"), "file": ("file", "http", "https")}
    if urlsplit(address).scheme not in allowed[urlsplit(page).scheme]:
        raise SourceError(f"{redact(page)} points to {redact(address)}, which is less safe")
    if sha256 is not None and not (isinstance(sha256, str) and _SHA256.fullmatch(sha256.lower())):
        raise SourceError(f"{redact(page)} gives {name} the sha256 {sha256!r}, which is none")
    digest = sha256.lower() if isinstance(sha256, str) else None
    return Wheel(filename=name, url=address, size_bytes=size_bytes, sha256=digest)


class _Links(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for key, value in attrs if tag == "a" and key == "href" and value]


def _read_html(body: bytes, page: str) -> list[Wheel]:
    parser = _Links()
    parser.feed(body.decode("utf-8", "replace"))
    links = [link for link in parser.links if re.search(r"\.(whl|tar\.gz|zip)(#|\?|$)", link)]
    if not links:
        raise SourceError(
            f"{redact(page)} is an HTML page that lists no packages (a login or error page?)"
        )
    found = [_read_link(link, page) for link in links]
    return [wheel for wheel in found if wheel is not None]


def _read_link(link: str, page: str) -> Wheel | None:
    fragment = urldefrag(link).fragment
    name = unquote(urlsplit(link).path.rpartition("/")[2])
    return _make(name, link, page, sha256=fragment.removeprefix("sha256=") or None)


def _list_local_page(file: Path, page: str) -> list[Wheel]:
    try:
        return _read_html(file.read_bytes(), page)
    except OSError:
        raise SourceError(f"{file.parent} does not exist") from None


def _list_folder(place: str) -> list[Wheel]:
    folder = _local_path(place) or Path(place)
    if not folder.is_dir():
        raise SourceError(f"{place} (pip's find-links) is not a folder on this machine")
    return [
        Wheel(filename=file.name, url=file.resolve().as_uri(), size_bytes=file.stat().st_size)
        for file in sorted(folder.glob("*.whl"))
        if _WHEEL.fullmatch(file.name)
    ]


def _local_path(url: str) -> Path | None:
    parts = urlsplit(url)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def _choose(wheels: list[Wheel], project: str, version: str, place: str) -> Wheel:
    wanted = re.sub(r"[-_.]+", "_", project).lower()
    ours: dict[str, list[Wheel]] = {}
    for wheel in wheels:
        name, has, _, platform = cast(re.Match[str], _WHEEL.fullmatch(wheel.filename)).groups()
        if re.sub(r"[-_.]+", "_", name).lower() == wanted:
            ours.setdefault(has, []).insert(0 if platform == "any" else len(ours), wheel)
    if version in ours:
        return ours[version][0]
    versions = ", ".join(list(ours)[-8:]) or "no wheels"
    raise SourceError(f"{place} has no wheel of {project} {version} (it has: {versions})")
