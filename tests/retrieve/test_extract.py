import subprocess
import sys
from pathlib import Path

import pytest

from fluvial.errors import InputError, TooLargeError
from fluvial.retrieve import extract as module
from fluvial.retrieve.extract import extract
from tests.pdf import pdf_bytes

LIMIT = 4 * 2**20


def taken(data: bytes, name: str) -> str:
    return extract(data, name=name, limit_bytes=LIMIT)


# --- plain text -----------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_with_and_without_byte_order_mark(encoding: str) -> None:
    text = "Grüße, 世界 🌊\nsecond line\n"
    assert taken(text.encode(encoding), "a.txt") == text


@pytest.mark.parametrize(
    ("mark", "encoding"), [(b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")]
)
def test_utf16_in_either_byte_order(mark: bytes, encoding: str) -> None:
    assert taken(mark + "流".encode(encoding), "a.md") == "流"


def test_line_ends_become_newlines_and_controls_go() -> None:
    assert taken(b"a\r\nb\rc\fd\te\x07f\x1b", "a.txt") == "a\nb\nc\nd\tef"


def test_invalid_utf8_names_the_byte_and_its_offset() -> None:
    with pytest.raises(InputError, match=r"'a\.txt' is not utf-8 text: byte 0xff at offset 3 "):
        taken(b"abc\xffdef", "a.txt")


def test_utf16_cut_in_half_is_an_error() -> None:
    with pytest.raises(InputError, match="utf-16"):
        taken(b"\xff\xfea", "a.txt")


def test_text_with_a_nul_is_not_text() -> None:
    with pytest.raises(InputError, match=r"NUL character after 4 others; .*PDF, HTML, Markdown"):
        taken(b"abcd\0efg", "a.txt")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"PK\x03\x04\x14\x00\x06\x00", "a ZIP archive or an Office document"),
        (b"\x89PNG\r\n\x1a\n", "a PNG image"),
        (b"GGUF\x03\x00\x00\x00", "a model file"),
    ],
)
def test_a_known_binary_is_named(data: bytes, kind: str) -> None:
    with pytest.raises(InputError, match=f"looks like {kind}"):
        taken(data, "report.docx")


@pytest.mark.parametrize("data", [b"", b" \n\t\r\n"])
@pytest.mark.parametrize("name", ["a.txt", "a.pdf", "a.html"])
def test_nothing_is_an_error(data: bytes, name: str) -> None:
    with pytest.raises(InputError, match="is empty"):
        taken(data, name)


def test_a_byte_order_mark_alone_holds_no_text() -> None:
    with pytest.raises(InputError, match="holds no text"):
        taken(b"\xef\xbb\xbf", "a.txt")


def test_a_document_at_the_limit_passes_and_one_byte_more_does_not() -> None:
    assert extract(b"x" * 100, name="a", limit_bytes=100) == "x" * 100
    with pytest.raises(TooLargeError, match="101 bytes; at most 100"):
        extract(b"x" * 101, name="a", limit_bytes=100)


def test_markdown_and_html_inside_text_stay_as_they_are() -> None:
    source = "# Title\n\n<b>not a page</b> & `<html>`\n"
    assert taken(source.encode(), "a.md") == source


# --- PDF ------------------------------------------------------------------------------------------


def test_pages_of_a_pdf_in_order() -> None:
    text = taken(pdf_bytes([f"Page number {n} (of \\ three)." for n in (1, 2, 3)]), "a.pdf")
    assert text == "\n\n".join(f"Page number {n} (of \\ three)." for n in (1, 2, 3)) + "\n"


def test_a_pdf_is_known_by_its_content_too() -> None:
    assert taken(pdf_bytes(["Hello"]), "download") == "Hello\n"
    assert taken(b"\n\n" + pdf_bytes(["Hello"]), "a.PDF") == "Hello\n"


def test_a_pdf_that_is_a_png() -> None:
    with pytest.raises(InputError, match=r"'x\.pdf' is not a PDF but looks like a PNG image"):
        taken(b"\x89PNG\r\n\x1a\n" + bytes(64), "x.pdf")


def test_a_pdf_that_is_text() -> None:
    with pytest.raises(InputError, match="is not a PDF; Fluvial reads PDF, HTML"):
        taken(b"just words", "x.pdf")


def test_a_scanned_pdf_has_no_text_layer() -> None:
    with pytest.raises(InputError, match=r"has 2 pages but no text layer"):
        taken(pdf_bytes(["", ""]), "scan.pdf")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.99])
def test_a_pdf_cut_off_anywhere(kept: float) -> None:
    whole = pdf_bytes([f"Page {n}" for n in range(20)])
    with pytest.raises(InputError, match="cut off"):
        taken(whole[: int(len(whole) * kept)], "a.pdf")


def test_a_pdf_cut_off_after_an_end_mark_inside_it() -> None:
    # A linearised file, or one that was changed in place, has an end mark before its last objects.
    whole = pdf_bytes(["Old"]) + b"7 0 obj\n<< /Type /Page"
    with pytest.raises(InputError, match="cut off"):
        taken(whole, "a.pdf")


def test_a_pdf_of_rubbish_between_its_marks() -> None:
    with pytest.raises(InputError, match="damaged PDF"):
        taken(b"%PDF-1.7\n" + b"rubbish " * 50 + b"\n%%EOF\n", "a.pdf")


def test_bit_flips_in_a_pdf_give_text_or_a_typed_error() -> None:
    whole = bytearray(pdf_bytes(["Some words of text"]))
    outcomes: set[str] = set()
    for position in range(40, len(whole), len(whole) // 12):
        flipped = bytearray(whole)
        flipped[position] ^= 0x55
        try:
            outcomes.add(type(taken(bytes(flipped), "a.pdf")).__name__)
        except InputError as error:
            outcomes.add(type(error).__name__)
    assert outcomes <= {"str", "InputError"}


def encrypted(password: str) -> bytes:
    import io

    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf_bytes(["Secret words"]))))
    writer.encrypt(password, "owner", algorithm="RC4-128")
    stream = io.BytesIO()
    writer.write(stream)
    return stream.getvalue()


def test_an_encrypted_pdf_asks_for_one_without_password() -> None:
    with pytest.raises(InputError, match="encrypted with a password; save it without"):
        taken(encrypted("hush"), "a.pdf")


def test_a_pdf_that_only_restricts_printing_is_read() -> None:
    assert taken(encrypted(""), "a.pdf") == "Secret words\n"


def test_text_of_a_pdf_over_the_limit() -> None:
    # Compression makes the file far smaller than its text.
    data = pdf_bytes(["\n".join(["the same line again and again"] * 60)] * 40)
    assert len(data) < 40_000
    with pytest.raises(TooLargeError, match="the text of 'a.pdf' is over the limit of 40,000"):
        extract(data, name="a.pdf", limit_bytes=40_000)


def test_a_page_tree_that_contains_itself() -> None:
    looped = pdf_bytes(["Hello"]).replace(b"/Kids [4 0 R]", b"/Kids [2 0 R]")
    with pytest.raises(InputError, match=r"a\.pdf"):
        taken(looped, "a.pdf")


# --- HTML -----------------------------------------------------------------------------------------


def test_html_keeps_its_words_and_lists_and_drops_scripts() -> None:
    page = (
        b"<html><head><title>T</title><style>p{}</style></head><body><h1>Head</h1>"
        b"<p>Some <b>bold</b>\nwords &amp; &eacute;<script>alert(1)</script><!-- note -->"
        b"<ul><li>one<li>two</ul></body></html>"
    )
    text = taken(page, "a.html")
    assert text.startswith("Head\n")
    assert "Some bold words & é" in text
    assert "* one\n" in text
    for gone in ("alert", "note", "p{}"):
        assert gone not in text


def test_html_table_cells_are_not_padded() -> None:
    row = "<tr><td>{}</td><td>{}</td></tr>"
    page = "<table>" + row.format("x", "first") + row.format("y" * 80, "second") + "</table>"
    assert "x  first\n" in taken(page.encode(), "a.html")


def test_html_without_a_suffix_is_known_by_its_start() -> None:
    assert taken(b"\n<!DOCTYPE html><p>Hello", "download") == "Hello\n"


@pytest.mark.parametrize("charset", ["gbk", "GB2312", "big5", "gb18030"])
def test_a_declared_charset_is_used(charset: str) -> None:
    page = f'<meta http-equiv="Content-Type" content="text/html; charset={charset}"><p>中文'
    assert taken(page.encode(charset), "a.htm") == "中文\n"


def test_undeclared_bytes_are_not_guessed() -> None:
    with pytest.raises(InputError, match="not utf-8 text: byte"):
        taken("<p>中文".encode("gbk"), "a.html")


def test_an_unknown_charset_is_not_looked_up_among_codecs() -> None:
    assert taken(b"<meta charset=rot13><p>Hello", "a.html") == "Hello\n"


@pytest.mark.parametrize("depth", [300, 200_000])
def test_deeply_nested_html(depth: int) -> None:
    with pytest.raises(InputError, match=r"'bomb\.html' is (an HTML page that can't|nested)"):
        taken(b"<div>" * depth + b"deep" + b"</div>" * depth + b"<p>after", "bomb.html")


def test_external_entities_are_not_fetched(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hidden words")
    page = (
        f"<!DOCTYPE html [<!ENTITY x SYSTEM 'file://{secret}'>]><html><body>&x; shown</body></html>"
    )
    text = taken(page.encode(), "a.html")
    assert "shown" in text
    assert "hidden words" not in text


def test_html_without_content() -> None:
    with pytest.raises(InputError, match="without content"):
        taken(b"<!-- only a note -->", "a.html")


# --- the child process ----------------------------------------------------------------------------


def test_a_parser_that_hangs_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WALL_TIMEOUT_S", 0.001)
    with pytest.raises(InputError, match="took longer than .* split it"):
        taken(pdf_bytes(["Hello"]), "a.pdf")


def run_limited(code: str) -> subprocess.CompletedProcess[str]:
    limited = f"from fluvial.retrieve.parser import _limit_process\n_limit_process()\n{code}"
    root = Path(module.fluvial.__file__).parent.parent
    return subprocess.run(
        [sys.executable, "-c", limited], capture_output=True, text=True, check=False, cwd=root
    )


def test_the_parser_can_not_write_files(tmp_path: Path) -> None:
    file = tmp_path / "out"
    ended = run_limited(f"with open({str(file)!r}, 'w') as file: file.write('x')")
    assert ended.returncode != 0
    assert file.read_bytes() == b""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the address space")
def test_the_parser_can_not_take_all_memory() -> None:
    ended = run_limited("bytearray(2 * 2**30)")
    assert ended.returncode != 0
    assert "MemoryError" in ended.stderr


def test_the_parser_sees_none_of_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUVIAL_SECRET", "hush")
    assert "hush" not in module._child_environment().values()  # pyright: ignore[reportPrivateUsage]
