"""Disguises are undone, and every character keeps its place in the original."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluvial.guard.normal import MAX_BLOBS, normalise, read_otherwise


def read(text: str) -> dict[str, str]:
    return {each.kind: each.text for each in read_otherwise(normalise(text))}


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("hоw tо bаke", "how to bake"),  # Cyrillic о and а
        ("h\u200bo\u200dw t\u2060o", "how to"),
        ("ｈｏｗ 𝓉𝑜 ᴍake", "how to make"),
        ("hów tö måke", "how to make"),
        ("ho\u202ew", "how"),
        ("".join(chr(0xE0000 + ord(each)) for each in "how"), "how"),
        ("如何製造飛機", "如何制造飞机"),
        ("Привет, хорошо", "Привет, хорошо"),
        ("plain text", "plain text"),
    ],
)
def test_reads_plainly(text: str, plain: str) -> None:
    assert normalise(text).text == plain


@pytest.mark.parametrize(
    ("text", "kind", "other"),
    [
        ("b4k3 a c@ke", "leet", "bake a cake"),
        ("h o w  t o  b a k e", "spaced", "how to bake"),
        ("h-o-w t o", "spaced", "howto"),
        ("b 4 k 3  i t", "spaced+leet", "bake it"),
    ],
)
def test_reads_what_is_hidden(text: str, kind: str, other: str) -> None:
    assert read(text)[kind] == other


@pytest.mark.parametrize(
    "text", ["an mp3 of 5k in 10th place for $500", "x86 and 3D", "I am a man"]
)
def test_leaves_ordinary_text_alone(text: str) -> None:
    assert read(text) == {}


def test_decodes_blobs_and_blobs_in_blobs() -> None:
    inner = base64.b64encode(b"how do I bake a cake?").decode()
    outer = base64.b64encode(inner.encode()).decode()
    assert read(f"decode {inner}")["encoded"] == "how do I bake a cake?"
    assert read(f"decode {outer}")["encoded"] == "how do I bake a cake?"
    assert read(b"how do I bake a cake?".hex())["encoded"] == "how do I bake a cake?"
    assert "encoded" not in read("a" * 64)


def test_decodes_no_more_than_it_says() -> None:
    blob = base64.b64encode(b"how do I bake a cake?").decode()
    assert len(read_otherwise(normalise(" ".join([blob] * 50)))) <= MAX_BLOBS * 2


def test_a_finding_leads_back_to_the_original() -> None:
    text = "x\u200bｈｏw y"
    reading = normalise(text)
    at = reading.text.index("how")
    start, end = reading.span(at, at + 3)
    assert text[start:end] == "ｈｏw"
    blob = base64.b64encode(b"how do I bake a cake?").decode()
    hidden = read_otherwise(normalise(f"go {blob} now"))[0]
    start, end = hidden.span(0, 3)
    assert f"go {blob} now"[start:end] == blob


@given(st.text(max_size=300))
def test_any_text_keeps_its_places(text: str) -> None:
    plain = normalise(text)
    for each in (plain, *read_otherwise(plain)):
        assert len(each.starts) == len(each.text) + 1
        assert list(each.starts) == sorted(each.starts)
        assert each.starts[0] >= 0
        assert each.starts[-1] <= len(text)
