"""Writes real PDF files for tests: text in Helvetica, one string a page, lines kept as given."""

import zlib
from collections.abc import Sequence
from pathlib import Path

_FONT = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"


def write_pdf(path: Path, pages: Sequence[str]) -> Path:
    """Write `pages` to `path` and return it. Characters outside Windows-1252 are an error."""
    path.write_bytes(pdf_bytes(pages))
    return path


def pdf_bytes(pages: Sequence[str]) -> bytes:
    """Make a PDF: catalog 1, page tree 2, font 3, then a page and its content for each string."""
    kids = b" ".join(b"%d 0 R" % (4 + 2 * index) for index in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(pages)),
        _FONT,
    ]
    for index, text in enumerate(pages):
        content = zlib.compress(_drawing(text))
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R >> >> >>" % (5 + 2 * index)
        )
        objects.append(
            b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream"
            % (len(content), content)
        )
    return _assemble(objects)


def _drawing(text: str) -> bytes:
    lines = text.encode("cp1252").split(b"\n")
    escaped = (
        line.replace(b"\\", rb"\\").replace(b"(", rb"\(").replace(b")", rb"\)") for line in lines
    )
    shown = b"".join(b"(%s) Tj T*\n" % line for line in escaped)
    return b"BT /F1 10 Tf 12 TL 50 800 Td\n" + shown + b"ET"


def _assemble(objects: Sequence[bytes]) -> bytes:
    data = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"
    offsets: list[int] = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    return data + (
        b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R >>\n"
        b"startxref\n%d\n%%%%EOF\n" % (size, table, size, len(data))
    )
