"""A document's bytes become text: PDF, HTML, Markdown and plain text.

Decoding happens here. PDF and HTML, whose parsers are large, are parsed in a child process that can
neither write files nor take more than its share of memory and time (`parser.py`).
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import fluvial
from fluvial.errors import InputError, TooLargeError

FORMATS = "PDF, HTML, Markdown and plain text (UTF-8, or UTF-16 with a byte order mark)"

WALL_TIMEOUT_S = 180
"""The child may take 120 s of processor time; on a busy machine it waits for that a little."""

_SNIFF_BYTES = 1024
_HTML_SUFFIXES = (".html", ".htm", ".xhtml")
_HTML_START = re.compile(
    rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|html)\b", re.I | re.S
)
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.I)
_SIGNATURES = (
    (b"%PDF-", "a PDF"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"PK\x03\x04", "a ZIP archive or an Office document"),
    (b"\xd0\xcf\x11\xe0", "an old Office document"),
    (b"{\\rtf", "an RTF document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"GGUF", "a model file"),
    (b"\x7fELF", "a program"),
)
_BYTE_ORDER_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
# What an HTML page may declare, as browsers understand it: Latin-1 means Windows-1252 to them.
_HTML_CHARSETS = {
    "us-ascii": "cp1252",
    "iso-8859-1": "cp1252",
    "latin1": "cp1252",
    "iso-8859-15": "iso-8859-15",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "gb18030": "gb18030",
    "big5": "big5hkscs",
    "shift_jis": "cp932",
    "euc-jp": "euc_jp",
    "euc-kr": "cp949",
    "koi8-r": "koi8_r",
} | {f"windows-{page}": f"cp{page}" for page in range(1250, 1259)}


def extract(data: bytes, *, name: str, limit_bytes: int) -> str:
    """Turn a document into text with `\\n` line ends and no control characters but tab.

    `name` is the file's name; its suffix tells HTML from text and is held against the content.
    `limit_bytes` bounds both the document and the text taken from it, in UTF-8.

    Raises InputError when the document is not what its name says, is damaged, encrypted, empty,
    binary or in an unknown encoding; TooLargeError when it or its text is over the limit. Blocks
    for as long as parsing takes: at most WALL_TIMEOUT_S.
    """
    if len(data) > limit_bytes:
        raise TooLargeError(f"{name!r} has {len(data):,} bytes; at most {limit_bytes:,} are read")
    if not data.strip():
        raise InputError(f"{name!r} is empty; give {FORMATS}")
    text = _parse(data, name=name, limit_bytes=limit_bytes)
    if len(text.encode()) > limit_bytes:
        raise TooLargeError(f"the text of {name!r} is over the limit of {limit_bytes:,} bytes")
    if not text.strip():
        raise InputError(f"{name!r} holds no text")
    return text


def _parse(data: bytes, *, name: str, limit_bytes: int) -> str:
    suffix = Path(name).suffix.lower()
    # The signature may follow a few bytes of rubbish, as every PDF reader allows.
    if suffix == ".pdf" or data.startswith(b"%PDF-"):
        if b"%PDF-" not in data[:_SNIFF_BYTES]:
            raise InputError(f"{name!r} is not a PDF{_looks_like(data)}; Fluvial reads {FORMATS}")
        return _parse_in_child("pdf", data, name=name, limit_bytes=limit_bytes)
    if suffix in _HTML_SUFFIXES or (not suffix and _HTML_START.match(data[:_SNIFF_BYTES])):
        page = _decode(data, name=name, charset=_declared_charset(data))
        return _parse_in_child("html", page.encode(), name=name, limit_bytes=limit_bytes)
    return _decode(data, name=name)


def _decode(data: bytes, *, name: str, charset: str = "utf-8") -> str:
    encoding = next((codec for mark, codec in _BYTE_ORDER_MARKS if data.startswith(mark)), charset)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name!r} is not {encoding} text{_looks_like(data)}: byte 0x{data[error.start]:02x} "
            f"at offset {error.start:,} is invalid; Fluvial reads {FORMATS}"
        ) from None
    nul = text.find("\0")
    if nul >= 0:
        raise InputError(
            f"{name!r} is not text{_looks_like(data)}: it has a NUL character after {nul:,} "
            f"others; Fluvial reads {FORMATS}"
        )
    return tidy(text)


def tidy(text: str) -> str:
    """Make line ends `\\n`, page breaks a line end, and drop other control characters and marks."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n").replace("\ufeff", "")
    return _CONTROLS.sub("", text)


_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")


def _declared_charset(data: bytes) -> str:
    declared = _META_CHARSET.search(data[: 4 * _SNIFF_BYTES])
    if declared is None:
        return "utf-8"
    return _HTML_CHARSETS.get(declared[1].decode("ascii").lower(), "utf-8")


def _looks_like(data: bytes) -> str:
    kind = next((kind for start, kind in _SIGNATURES if data.startswith(start)), None)
    return f" but looks like {kind}" if kind else ""


def _parse_in_child(kind: str, data: bytes, *, name: str, limit_bytes: int) -> str:
    command = [sys.executable, "-P", "-m", "fluvial.retrieve.parser", kind, str(limit_bytes)]
    try:
        child = subprocess.run(  # noqa: S603 - our own module, no shell, no text of the document
            command,
            input=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_child_environment(),
            timeout=WALL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InputError(
            f"{name!r} took longer than {WALL_TIMEOUT_S} s to parse; split it and read the parts"
        ) from None
    if child.returncode != 0:
        raise InputError(
            f"{name!r} can't be parsed within 120 s and 1.5 GB (the parser ended with "
            f"{child.returncode}); split it, or save it as plain text"
        )
    answer = json.loads(child.stdout)
    if "too_large" in answer:
        raise TooLargeError(f"the text of {name!r} is over the limit of {limit_bytes:,} bytes")
    if "problem" in answer:
        raise InputError(f"{name!r} {answer['problem']}")
    return tidy(answer["text"])


def _child_environment() -> dict[str, str]:
    # Nothing else of ours goes along: a parser that was taken over finds no secret there.
    root = Path(fluvial.__file__).parent.parent
    kept = {key: os.environ[key] for key in ("SYSTEMROOT",) if key in os.environ}
    return kept | {"PYTHONPATH": str(root), "PYTHONUTF8": "1"}
