from pathlib import Path

import pytest

from fluvial.engine import spill as spill_module
from fluvial.engine.prefix import Origin, PrefixStore
from fluvial.engine.protocol import Part
from fluvial.engine.spill import Spill
from fluvial.engine.spill_file import digest
from tests.engine.fake import FakeCache, FakeDecoder

TOKENS = [1 + n % 7 for n in range(120)]
MINE = Origin(lane=digest("a"), owner="me", key=None)


def fill(decoder: FakeDecoder, tokens: list[int]) -> FakeCache:
    cache = decoder.new_cache()
    assert decoder.reserve(cache, len(tokens))
    decoder.step([Part(cache, tokens)])
    decoder.snapshot(cache)
    return cache


def fork(
    store: PrefixStore, tokens: list[int], origin: Origin = MINE, *, now_s: float = 0.0
) -> list[int] | None:
    """Return what the fork holds; give it back."""
    cache = store.fork(tokens, most_tokens=len(tokens) - 1, origin=origin, now_s=now_s)
    if cache is None:
        return None
    store._decoder.release(cache)
    return cache.tokens


def test_longest_common_beginning_is_shared():
    decoder = FakeDecoder()
    store = PrefixStore(decoder)
    store.keep(fill(decoder, [1, 2, 3, 9]), origin=MINE, now_s=0.0)
    store.keep(fill(decoder, [1, 2, 3, 4, 5]), origin=MINE, now_s=0.0)
    assert fork(store, [1, 2, 3, 4, 6, 7]) == [1, 2, 3, 4]
    assert fork(store, [1, 2, 3, 4, 5]) == [1, 2, 3, 4]
    assert fork(store, [1, 2, 3, 9, 9]) == [1, 2, 3, 9]
    assert fork(store, [2, 2]) is None
    decoder.check(store.caches)


def test_fork_stays_when_its_source_goes():
    decoder = FakeDecoder(page_tokens=4)
    store = PrefixStore(decoder)
    store.keep(fill(decoder, TOKENS[:10]), origin=MINE, now_s=0.0)
    cache = store.fork(TOKENS[:30], most_tokens=29, origin=MINE, now_s=0.0)
    store.forget("a")
    assert cache.tokens == TOKENS[:10]
    decoder.check([cache])
    assert decoder.reserve(cache, 30)
    (logits,) = decoder.step([Part(cache, TOKENS[10:30], None, (19,))])
    (alone,) = decoder.step([Part(_room(decoder, 30), TOKENS[:30], None, (29,))])
    assert logits.tolist() == alone.tolist()


def _room(decoder: FakeDecoder, tokens: int) -> FakeCache:
    cache = decoder.new_cache()
    assert decoder.reserve(cache, tokens)
    return cache


@pytest.mark.parametrize("recurrent", [False, True])
def test_longer_takes_the_place_of_its_beginning_within_a_lane(recurrent: bool):
    decoder = FakeDecoder(recurrent=recurrent)
    store = PrefixStore(decoder)
    store.keep(fill(decoder, TOKENS[:20]), origin=MINE, now_s=0.0)
    longer = store.fork(TOKENS, most_tokens=100, origin=MINE, now_s=0.0)
    decoder.reserve(longer, 40)
    decoder.step([Part(longer, TOKENS[20:40])])
    store.keep(longer, origin=MINE, now_s=0.0)
    assert len(store) == 1
    store.keep(fill(decoder, TOKENS[:40]), origin=MINE, now_s=0.0)
    assert len(store) == 1
    other = Origin(lane=digest("b"), owner="me", key=None)
    store.keep(fill(decoder, TOKENS[:20]), origin=other, now_s=0.0)
    assert len(store) == 2
    decoder.check(store.caches)


def test_least_lately_used_goes_first():
    decoder = FakeDecoder()
    store = PrefixStore(decoder)
    for n in range(3):
        store.keep(fill(decoder, [n, n, n]), origin=MINE, now_s=0.0)
    assert fork(store, [0, 0, 0])
    assert store.drop_oldest()
    assert [cache.tokens[0] for cache in store.caches] == [2, 0]
    assert store.drop_oldest()
    assert store.drop_oldest()
    assert not store.drop_oldest()
    assert decoder.free_pages == decoder.total_pages


def test_without_a_disk_nothing_is_ever_idle():
    decoder = FakeDecoder()
    store = PrefixStore(decoder, idle_s=1.0)
    store.keep(fill(decoder, TOKENS), origin=MINE, now_s=0.0)
    store.tend(1e9)
    assert (len(store), store.next_idle_s) == (1, None)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spill:
    monkeypatch.setattr(spill_module, "SPARE_BYTES", 0)
    return Spill(tmp_path, checkpoint="c", version="1", budget_bytes=10**9)


def test_only_the_idle_go_to_disk_and_are_used_again(disk: Spill):
    decoder = FakeDecoder()
    store = PrefixStore(decoder, spill=disk, idle_s=10.0)
    store.keep(fill(decoder, TOKENS), origin=MINE, now_s=0.0)
    store.keep(fill(decoder, TOKENS[1:]), origin=MINE, now_s=5.0)
    store.tend(9.0)
    assert len(store) == 2
    store.tend(12.0)
    assert (len(store), store.next_idle_s) == (1, 15.0)
    assert fork(store, [*TOKENS, 1], now_s=13.0) == TOKENS
    assert len(store) == 2
    disk.close()


def test_what_does_not_fit_back_costs_others_but_no_answer(disk: Spill):
    """Room was made for it in vain: what was found before is gone too, and must not be used."""
    roomy = FakeDecoder()
    PrefixStore(roomy, spill=disk).keep(fill(roomy, TOKENS), origin=MINE, now_s=0.0)
    store = PrefixStore(roomy, spill=disk)
    store.keep(fill(roomy, TOKENS), origin=MINE, now_s=0.0)
    store.close()
    tight = FakeDecoder(total_pages=5)
    store = PrefixStore(tight, spill=disk)
    store.keep(fill(tight, TOKENS[:20]), origin=MINE, now_s=0.0)
    assert fork(store, TOKENS) is None
    assert len(store) == 0
    assert tight.free_pages == tight.total_pages
    disk.close()


def test_cache_that_can_not_be_exported_is_only_lost(disk: Spill, caplog: pytest.LogCaptureFixture):
    decoder = FakeDecoder()
    decoder.export = lambda cache: 1 / 0
    store = PrefixStore(decoder, spill=disk)
    store.keep(fill(decoder, TOKENS), origin=MINE, now_s=0.0)
    assert store.drop_oldest()
    assert decoder.free_pages == decoder.total_pages
    assert "could not be kept" in caplog.text
    disk.close()
