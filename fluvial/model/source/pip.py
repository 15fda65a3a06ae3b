"""Read pip's configuration, so that models come from the same index as packages do.

The same places in the same order as pip itself: system files, user files, the virtual
environment's, the file named by PIP_CONFIG_FILE, then PIP_* variables. `[download]` goes over
`[global]`. pip need not be installed. Source: https://pip.pypa.io/en/stable/topics/configuration/
"""

import configparser
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fluvial.errors import SourceError

DEFAULT_INDEX_URL = "https://pypi.org/simple"
_KEYS = ("index-url", "extra-index-url", "no-index", "find-links", "cert", "proxy")


@dataclass(frozen=True, kw_only=True)
class PipSettings:
    """What of pip's settings concerns a download. Credentials may be inside the addresses."""

    index_urls: tuple[str, ...]
    find_links: tuple[str, ...] = ()
    cert: str | None = None
    proxy: str | None = None


def read_settings(environ: Mapping[str, str] | None = None) -> PipSettings:
    """Read what pip would use here. Raises SourceError when a file can't be parsed."""
    environ = os.environ if environ is None else environ
    values: dict[str, str] = {}
    for file in _files(environ):
        values |= _read_file(file)
    for key in _KEYS:
        if value := environ.get("PIP_" + key.upper().replace("-", "_")):
            values[key] = value
    return _settle(values)


def _settle(values: Mapping[str, str]) -> PipSettings:
    urls = [
        values.get("index-url") or DEFAULT_INDEX_URL,
        *values.get("extra-index-url", "").split(),
    ]
    if values.get("no-index", "").strip().lower() in ("1", "true", "yes", "on", "y", "t"):
        urls = []
    return PipSettings(
        index_urls=tuple(url.strip().rstrip("/") for url in urls),
        find_links=tuple(values.get("find-links", "").split()),
        cert=values.get("cert") or None,
        proxy=values.get("proxy") or None,
    )


def _files(environ: Mapping[str, str]) -> Iterator[Path]:
    chosen = environ.get("PIP_CONFIG_FILE")
    if chosen == os.devnull:
        return
    home = Path(environ.get("HOME") or Path.home())
    if sys.platform == "win32":
        name = "pip.ini"
        yield Path(environ.get("PROGRAMDATA", "C:/ProgramData")) / "pip" / name
        yield Path(environ.get("APPDATA", str(home))) / "pip" / name
    else:
        name = "pip.conf"
        for folder in reversed((environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")):
            yield Path(folder) / "pip" / name
        yield Path("/etc") / name
        yield home / ".pip" / name
        if sys.platform == "darwin":
            yield home / "Library/Application Support/pip" / name
        yield Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / name
    yield Path(sys.prefix) / name
    if chosen:
        yield Path(chosen)


def _read_file(file: Path) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    try:
        with file.open(encoding="utf-8") as text:
            parser.read_file(text)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return {}
    except (configparser.Error, UnicodeDecodeError) as error:
        summary = str(error).splitlines()[0]
        raise SourceError(f"pip's configuration {file} can't be read: {summary}") from None
    found: dict[str, str] = {}
    for section in ("global", "download"):
        if parser.has_section(section):
            pairs = ((key.replace("_", "-"), value) for key, value in parser.items(section))
            found |= {key: value for key, value in pairs if key in _KEYS}
    return found
