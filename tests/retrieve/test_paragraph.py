from fluvial.retrieve.paragraph import join_lines

WIDE = "This line is as wide as the text of the page ever gets, more or less"


def test_full_lines_of_a_paragraph_are_joined() -> None:
    assert join_lines([f"{WIDE}\n{WIDE}\nand ends."]) == f"{WIDE} {WIDE} and ends.\n"


def test_short_lines_stay_apart() -> None:
    page = f"A heading\n{WIDE}\nend.\nx = 1\ny = 2"
    assert join_lines([page]) == f"A heading\n{WIDE} end.\nx = 1\ny = 2\n"


def test_list_items_and_indented_lines_begin_anew() -> None:
    for start in ("- item", "• item", "3. item", "(a) item", "1.2 Heading", "  indented"):
        assert join_lines([f"{WIDE}\n{start}"]) == f"{WIDE}\n{start}\n"


def test_blank_lines_part_paragraphs() -> None:
    assert join_lines([f"{WIDE}\n\n\n\n{WIDE}"]) == f"{WIDE}\n\n{WIDE}\n"


def test_a_word_broken_at_the_line_end_is_mended() -> None:
    assert "of consequences here" in join_lines([f"{WIDE} of conse-\nquences here"])


def test_a_soft_hyphen_at_the_line_end_goes() -> None:
    assert join_lines(["conse\xad\nquences"]) == "consequences\n"


def test_a_compound_that_stands_elsewhere_keeps_its_hyphen() -> None:
    text = join_lines([f"{WIDE} is low-\nrank here\nA low-rank word."])
    assert "is low-rank here" in text


def test_a_hyphen_before_a_capital_or_a_number_stays() -> None:
    assert "Debian-Handbook" in join_lines([f"{WIDE} Debian-\nHandbook"])


def test_chinese_lines_are_joined_without_a_space() -> None:
    line = "这一行文字和页面上其他的行一样宽"
    assert join_lines([f"{line}\n{line}\n完。"]) == f"{line}{line}完。\n"


def test_ligatures_become_letters() -> None:
    assert join_lines(["eﬃcient ﬁles ﬂow"]) == "efficient files flow\n"


def test_pages_are_set_apart_and_nothing_is_lost() -> None:
    pages = [f"Page {n}\n{WIDE}\n{WIDE}" for n in range(3)]
    joined = join_lines(pages)
    assert joined.split() == " ".join(pages).split()
    assert joined.count("\n\nPage") == 2
