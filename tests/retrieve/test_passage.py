import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from fluvial.retrieve import index as index_module
from fluvial.retrieve.passage import Passage, select


def words(text: str) -> int:
    return len(text.split())


def picked(question: str, *texts: str, budget: int = 512) -> list[Passage]:
    documents = [(f"read_{number}", text) for number, text in enumerate(texts)]
    return select(question, documents=documents, budget_tokens=budget, count=words)


FILLING = " ".join(
    f"Nothing of note stands in sentence {n} of this long report." for n in range(400)
)
NEEDLE = "The transmit queue of the bonding interface holds exactly 37 frames."
HAY = FILLING[:9000].rsplit(". ", 1)[0] + f". {NEEDLE} " + FILLING[9000:].split(". ", 1)[1]


def test_the_passage_that_answers_is_found() -> None:
    found = picked("How many frames does the bonding transmit queue hold?", HAY)
    assert len(found) == 1
    assert NEEDLE in found[0].text
    assert HAY[found[0].start :].startswith(found[0].text)


def test_chinese_is_found_by_pairs() -> None:
    filling = "".join(f"这里是第{n}句无关紧要的话。" for n in range(300))
    text = filling + "软件源写在配置文件里。" + filling
    found = picked("如何配置软件源?", text, budget=10)
    assert found == []  # `words` sees no spaces in Chinese, so below is the real count
    found = select("如何配置软件源?", documents=[("r", text)], budget_tokens=300, count=len)
    assert any("软件源写在配置文件里。" in passage.text for passage in found)


@pytest.mark.parametrize("question", ["", "?!", "who are you", "你是谁?", "zebra", "the of and"])
def test_nothing_matches_nothing(question: str) -> None:
    assert picked(question, HAY, "水") == []


def test_without_documents_or_budget_there_is_nothing() -> None:
    assert picked("transmit queue") == []
    assert picked("transmit queue", "", "   ") == []
    assert picked("transmit queue", HAY, budget=0) == []


def test_passages_come_in_the_order_of_the_text() -> None:
    paragraphs = [f"{'filler ' * 70}river {'river ' * (n % 3)}{n}." for n in range(6)]
    found = picked("river", "\n\n".join(paragraphs), "\n\n".join(paragraphs))
    places = [(passage.document, passage.start) for passage in found]
    assert len(places) > 3
    assert places == sorted(places)


def test_the_budget_holds_and_the_best_comes_first() -> None:
    good = "The river delta sediment. " * 10
    weak = "river " + "filler " * 80
    text = "\n\n".join([weak] * 5 + [good] + [weak] * 5)
    for budget in (20, 40, 100, 300):
        found = picked("river delta sediment", text, budget=budget)
        assert 0 < sum(words(passage.text) for passage in found) <= budget
        assert any("delta" in passage.text for passage in found)


def test_a_passage_over_the_budget_is_cut_to_its_best_sentence() -> None:
    text = "Words of no use stand here today. " * 6 + NEEDLE + " More words of no use. " * 6
    found = picked("bonding transmit queue", text, budget=20)
    assert len(found) == 1
    assert NEEDLE in found[0].text
    assert words(found[0].text) <= 20


def test_weak_matches_do_not_fill_the_budget() -> None:
    weak = "\n\n".join(f"{'filler ' * 60}interface {n}" for n in range(50))
    found = picked("bonding transmit queue interface", f"{weak}\n\n{NEEDLE}", budget=5000)
    assert len(found) < 10


def test_a_rare_term_weighs_more_than_a_common_one() -> None:
    text = "\n\n".join(["system " * 60] * 30 + ["The quokka system. " * 15] + ["system " * 60] * 30)
    assert "quokka" in picked("quokka system", text, budget=60)[0].text


def test_the_same_question_gives_the_same_passages() -> None:
    draw = random.Random(7)
    vocabulary = [f"word{n}" for n in range(50)]
    text = ". ".join(" ".join(draw.choices(vocabulary, k=12)) for _ in range(300))
    first = picked("word1 word2 word3", text)
    index_module._kept.clear()  # pyright: ignore[reportPrivateUsage]
    assert picked("word3 word1 word2", text) == first != []


def test_a_text_that_changed_under_its_id_is_indexed_anew() -> None:
    assert picked("quokka", "the quokka lives") != []
    assert picked("quokka", "the walrus lives") == []


def test_the_index_cache_is_bounded_and_shared_by_threads() -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda n: picked("quokka", f"A quokka lives here {n}"), range(100)))
    assert all(len(result) == 1 for result in results)
    assert len(index_module._kept) <= 16  # pyright: ignore[reportPrivateUsage]


def test_a_text_too_long_to_keep_is_still_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_KEPT_CHARACTERS", 100)
    assert picked("bonding", HAY) != []
    assert sum(kept.characters for kept in index_module._kept.values()) <= 100  # pyright: ignore[reportPrivateUsage]
