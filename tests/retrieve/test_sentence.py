import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluvial.retrieve.sentence import passages, sentences, weight


def cut(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text, 0, len(text))]


def test_sentences_end_at_stops_followed_by_a_space() -> None:
    assert cut('One 1.5 two. "Three!" Four?') == ["One 1.5 two.", '"Three!"', "Four?"]


def test_chinese_sentences_need_no_space() -> None:
    assert cut("第一句。第二句！第三句") == ["第一句。", "第二句！", "第三句"]


def test_a_line_end_inside_a_sentence_is_no_border() -> None:
    assert cut("A sentence that goes\non here.") == ["A sentence that goes\non here."]


def test_blank_lines_list_items_and_headings_are_borders() -> None:
    assert cut("para\n\npara\n- item\n# Head") == ["para", "para", "- item", "# Head"]


def test_a_passage_holds_whole_sentences_up_to_120_words() -> None:
    text = " ".join(f"Sentence number {n} has exactly seven words." for n in range(60))
    pieces = [text[start:end] for start, end in passages(text)]
    assert all(piece.startswith("Sentence") and piece.endswith("words.") for piece in pieces)
    assert all(len(piece.split()) == 119 for piece in pieces[:-1])
    assert " ".join(pieces) == text


def test_a_passage_ends_with_its_paragraph() -> None:
    first, second = "one " * 60, "two " * 80
    text = f"{first.strip()}\n\n{second.strip()}"
    assert [text[start:end] for start, end in passages(text)] == [first.strip(), second.strip()]


@pytest.mark.parametrize(
    "text",
    [
        "word " * 5000,
        "字" * 5000,
        "x" * 50_000,
        "-" * 50_000,
        "a" + " " * 50_000 + "b",
        "a.b/" * 9000,
    ],
    ids=["words", "cjk", "one word", "rule", "gap", "address"],
)
def test_no_text_makes_an_endless_passage(text: str) -> None:
    spans = list(passages(text))
    assert max(end - start for start, end in spans) <= 4000


@given(st.text(alphabet="ab 字。.!\n-#\t\u3000x", max_size=400) | st.text(max_size=200))
def test_passages_cover_every_word_once(text: str) -> None:
    spans = list(passages(text))
    assert all(weight(text, start, end) <= 1 + 1e-9 for start, end in spans)
    assert all(text[start:end].strip() == text[start:end] != "" for start, end in spans)
    assert all(left[1] <= right[0] for left, right in zip(spans, spans[1:], strict=False))
    kept = "".join(text[start:end] for start, end in spans)
    assert [c for c in kept if c.isalnum()] == [c for c in text if c.isalnum()]
