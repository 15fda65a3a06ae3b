from fluvial.retrieve.term import terms


def test_words_are_folded_and_fillers_left_out() -> None:
    assert list(terms("What is the QUEUE of the Straße?")) == ["queue", "strasse"]


def test_plurals_meet_their_singular() -> None:
    assert list(terms("queues policies class status")) == ["queue", "policy", "class", "status"]


def test_chinese_becomes_pairs_of_characters() -> None:
    assert list(terms("软件源")) == ["软件", "件源"]


def test_chinese_fillers_part_the_pairs() -> None:
    assert list(terms("什么是软件的来源?")) == ["软件", "来源"]
    assert list(terms("你是谁?")) == []


def test_mixed_scripts_and_full_width_letters() -> None:
    assert list(terms("安装ＡＰＴ工具v2")) == ["安装", "apt", "工具", "v2"]


def test_a_single_character_is_a_term() -> None:
    assert list(terms("水 x")) == ["水", "x"]
