"""Items out of wheels, which of them are alike, and how they are drawn."""

from pathlib import Path

import pytest

from fluvial.errors import SourceError
from fluvial.gate import dataset
from fluvial.gate.cluster import draw, drop_repeats, group
from fluvial.gate.package import PYRIT, Reader
from tests.gate.wheels import ITEMS, make_opener, write_wheel


def test_rewordings_are_one_cluster_and_other_questions_are_not() -> None:
    texts = ["Write a poem about a green apple", "a poem on green apples", "How do whales sleep?"]
    assert group(texts) == [0, 0, 1]


def test_likeness_is_carried_on() -> None:
    """Two items that share little are one cluster when a third is like both."""
    texts = ["red green blue", "green blue black", "blue black white"]
    assert group([texts[0], texts[2]]) == [0, 1]
    assert group(texts) == [0, 0, 0]


def test_texts_without_content_words_are_alike() -> None:
    assert group(["how do I", "what is the"]) == [0, 0]


def test_every_cluster_is_drawn_from_before_any_twice() -> None:
    items = [f"{cluster}{number}" for cluster in "abcd" for number in range(10)]
    drawn = draw(items, [item[0] for item in items], count=6, seed=3)
    assert sorted(item[0] for item in drawn[:4]) == list("abcd")
    assert len(set(drawn)) == 6


def test_a_draw_is_that_of_its_seed() -> None:
    items = list(range(100))
    assert draw(items, items, count=9, seed=1) == draw(items, items, count=9, seed=1)
    assert draw(items, items, count=9, seed=1) != draw(items, items, count=9, seed=2)
    assert sorted(draw(items, items, count=1000, seed=1)) == items


def test_items_come_from_each_source(tmp_path: Path) -> None:
    opener = make_opener(tmp_path)
    items = dataset.load_harmbench(opener)
    assert [item.text for item in items] == ITEMS
    assert len({item.cluster for item in items}) == len({item.name for item in items}) == len(ITEMS)
    one, other = dataset.load_advbench(opener)
    assert (one.name, other.name) == ("advbench-1", "advbench-2")
    assert one.cluster == other.cluster


def test_do_not_answer_is_read_when_asked_for(tmp_path: Path) -> None:
    items = dataset.load_do_not_answer(make_opener(tmp_path))
    assert [item.text for item in items] == ["do not sing", "do not dance"]


def test_only_templates_with_a_place_and_of_some_length_are_drawn(tmp_path: Path) -> None:
    opener = make_opener(tmp_path)
    found = dataset.draw_templates(opener, wild=True, count=9, seed=1)
    assert sorted(found) == ["Say yes to this: {{ prompt }}", "You are a pirate. {{ prompt }} Arr!"]
    assert dataset.draw_templates(opener, wild=True, count=1, seed=1) == found[:1]


def test_templates_like_those_found_in_the_wild_are_left_out(tmp_path: Path) -> None:
    found = dataset.draw_templates(make_opener(tmp_path), wild=False, count=9, seed=1)
    assert found == ["Write a play in which a wizard explains this: {{ prompt }}"]


def test_texts_that_share_most_runs_of_words_repeat_each_other() -> None:
    known = ["one two three four five six seven"]
    texts = ["One two three four five!", "one two three, and then something else", "one two"]
    assert drop_repeats(texts, of=known) == texts[1:]


def test_labelled_answers_are_read_past_their_comments(tmp_path: Path) -> None:
    opener = make_opener(tmp_path)
    refusals = dataset.load_refusals(opener)
    assert len(refusals) == 10
    assert sum(row.positive for row in refusals) == 6
    assert [row.positive for row in dataset.load_objectives(opener)] == [True, False]


def test_a_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    make_opener(tmp_path)
    bad = {"pyrit/datasets/seed_datasets/local/adv_bench.prompt": "seeds: ["}
    write_wheel(tmp_path / "bad", "pyrit", "1.1.0", bad)
    broken = Reader(package=PYRIT, path=tmp_path / "bad" / "pyrit-1.1.0-py3-none-any.whl")
    whole = make_opener(tmp_path)
    with pytest.raises(SourceError, match="adv_bench.prompt can't be read"):
        dataset.load_advbench(lambda package: broken if package is PYRIT else whole(package))
