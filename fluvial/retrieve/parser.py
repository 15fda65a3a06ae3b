"""Parses one document inside a limited process: `python -m fluvial.retrieve.parser KIND LIMIT`.

KIND is `pdf` or `html`, LIMIT the most bytes of text. The document comes on standard input. One
JSON object goes to standard output: `{"text"}`, or `{"problem"}` (a phrase that follows the
document's name), or `{"too_large": true}`. Imports only what it needs: every
document starts it anew.
"""

import io
import json
import os
import re
import sys
from typing import Any

MEMORY_BYTES = 1536 * 2**20
CPU_S = 120


class DocumentError(Exception):
    """What is wrong with the document, as a phrase that follows its name."""


class TextTooLargeError(Exception):
    """The text taken out passed its limit."""


def main() -> None:
    """Read a document from standard input and answer on standard output."""
    kind, limit_bytes = sys.argv[1], int(sys.argv[2])
    _limit_process()
    data = sys.stdin.buffer.read()
    sys.stdout.write(json.dumps(_answer(kind, data, limit_bytes=limit_bytes)))


def _answer(kind: str, data: bytes, *, limit_bytes: int) -> dict[str, Any]:
    parse = {"pdf": parse_pdf, "html": parse_html}[kind]
    try:
        return {"text": _whole_characters(parse(data, limit_bytes=limit_bytes))}
    except DocumentError as error:
        return {"problem": str(error)}
    except TextTooLargeError:
        return {"too_large": True}
    except RecursionError:
        return {"problem": "is nested too deeply; save it as plain text"}
    except MemoryError:
        return {"problem": f"needs more than {MEMORY_BYTES:,} bytes of memory to parse; split it"}


def _limit_process() -> None:
    """Give up memory, processor time, file writing and priority, before any document is seen."""
    if sys.platform == "win32":
        return
    import resource

    limits = {
        resource.RLIMIT_CPU: CPU_S,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    if sys.platform == "linux":
        limits[resource.RLIMIT_AS] = MEMORY_BYTES
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))
    os.nice(10)


def parse_pdf(data: bytes, *, limit_bytes: int) -> str:
    """Take the text layer out of a PDF, page by page. Raises DocumentError, TextTooLargeError."""
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, FileNotDecryptedError

    from fluvial.retrieve.paragraph import join_lines

    _check_end(data)
    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise DocumentError("is encrypted with a password; save it without one")
        pages = _page_texts(reader, limit_bytes=limit_bytes)
    except (DependencyError, FileNotDecryptedError):
        raise DocumentError("is encrypted; save it without a password") from None
    except (DocumentError, TextTooLargeError, RecursionError, MemoryError):
        raise
    except Exception as error:  # pypdf raises nearly anything on a damaged file
        raise DocumentError(f"is a damaged PDF ({type(error).__name__}: {error})"[:300]) from None
    if not any(page.strip() for page in pages):
        raise DocumentError(
            f"has {len(pages)} pages but no text layer (scanned?); run text recognition on it first"
        )
    return join_lines(pages)


def _check_end(data: bytes) -> None:
    """Refuse a file that was cut off: pypdf would take the part that is there for the whole."""
    end = data.rfind(b"%%EOF")
    if end < 0 or re.search(rb"\d\s+\d+\s+obj\b", data[end:]):
        raise DocumentError("is a PDF that was cut off: its end is missing; fetch it again")


def _page_texts(reader: Any, *, limit_bytes: int) -> list[str]:
    texts: list[str] = []
    taken_bytes = 0
    for page in reader.pages:
        texts.append(page.extract_text())
        taken_bytes += len(texts[-1].encode(errors="replace"))
        if taken_bytes > limit_bytes:
            raise TextTooLargeError
    if not texts:
        raise DocumentError("is a PDF without pages")
    return texts


def parse_html(data: bytes, *, limit_bytes: int) -> str:
    """Render an HTML page (UTF-8) as text, layout kept. Raises DocumentError, TextTooLargeError."""
    from inscriptis import Inscriptis
    from lxml import etree, html  # pyright: ignore[reportAttributeAccessIssue] - a C module

    parser = html.HTMLParser(
        encoding="utf-8", no_network=True, remove_comments=True, remove_pis=True, huge_tree=False
    )
    try:
        tree = html.document_fromstring(data, parser=parser)
    except (etree.ParserError, etree.XMLSyntaxError) as error:
        raise DocumentError(f"is an HTML page without content ({error})"[:300]) from None
    # lxml recovers from nearly all that pages get wrong. What it gives up on, it cuts off.
    fatal = [entry.message for entry in parser.error_log if entry.level_name == "FATAL"]
    if fatal:
        raise DocumentError(
            f"is an HTML page that can't be parsed whole ({fatal[0].strip()})"[:300]
        )
    text = Inscriptis(tree).get_text()
    if len(text) > 4 * limit_bytes:
        raise TextTooLargeError
    # Table cells are padded to their column's width; the model needs only the gap.
    lines = (re.sub(r"(?<=\S) {3,}", "  ", line.rstrip()) for line in text.splitlines())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n") + "\n"


def _whole_characters(text: str) -> str:
    """Join surrogate pairs and replace lone halves, which no file could hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


if __name__ == "__main__":
    main()
