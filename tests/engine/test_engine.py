import asyncio
import gc
import threading
import time
import weakref

import numpy as np
import pytest

from fluvial.errors import BusyError, ContextLengthError, EngineError, InputError
from fluvial.model.adapter import Adapter
from fluvial.types import Delta, Message, Sampling, Usage
from tests.engine.fake import Step
from tests.engine.script import VOCAB, ByteTokenizer, ScriptDecoder, ask, read, start

TIMEOUT_S = 30


class Gate:
    """Holds the decoder before each step from number `at` on, until `open` is called."""

    def __init__(self, *, at: int) -> None:
        self.reached = threading.Event()
        self._opened = threading.Event()
        self._at = at
        self._count = 0

    def __call__(self, parts: list[Step]) -> None:
        self._count += 1
        if self._count >= self._at:
            self.reached.set()
            assert self._opened.wait(TIMEOUT_S)

    def open(self) -> None:
        self._opened.set()


def adapter(key: str) -> Adapter:
    return Adapter(key, {})


def test_answer_streams_token_by_token_and_ends_with_usage():
    with start(ScriptDecoder()) as engine:
        deltas = list(ask(engine, "hi you"))
    assert [delta.text for delta in deltas] == [*"HI YOU", ""]
    assert deltas[-1].finish == "stop"
    assert deltas[-1].usage == Usage(prompt_tokens=7, completion_tokens=6)


def test_async_reader_gets_the_same():
    async def main() -> list[Delta]:
        return [delta async for delta in ask(engine, "hi")]

    with start(ScriptDecoder()) as engine:
        assert asyncio.run(main()) == list(ask(engine, "hi", lane="b"))


def test_many_async_readers_on_one_loop():
    async def one(number: int) -> str:
        generation = ask(engine, f"question {number}", lane=str(number % 3))
        return "".join([delta.text async for delta in generation])

    async def main() -> list[str]:
        return await asyncio.gather(*(one(number) for number in range(20)))

    with start(ScriptDecoder()) as engine:
        assert asyncio.run(main()) == [f"QUESTION {number}" for number in range(20)]


def test_reader_whose_loop_is_gone_does_not_stop_the_engine():
    gate = Gate(at=1)

    async def leave() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(generation), 0.01)

    with start(ScriptDecoder(gate=gate)) as engine:
        generation = ask(engine, "one")
        asyncio.run(leave())
        gate.open()
        assert read(ask(engine, "two"))[0] == "TWO"
        assert read(generation)[0] == "ONE"


def test_same_seed_same_text():
    def draw(seed: int) -> str:
        return read(ask(engine, "tell", temperature=2.0, seed=seed, max_tokens=40))[0]

    with start(ScriptDecoder()) as engine:
        assert draw(7) == draw(7)
        assert draw(7) != draw(8)


def test_characters_split_over_tokens_stream_whole():
    with start(ScriptDecoder(lambda prompt: prompt)) as engine:
        deltas = list(ask(engine, "你好 👋🏽 é"))
    assert [delta.text for delta in deltas] == ["你", "好", " ", "👋", "🏽", " ", "é", ""]


def test_logits_beyond_the_vocabulary_are_never_drawn():
    decoder = ScriptDecoder()
    decoder.vocab_size = VOCAB + 3
    decoder.logits = lambda cache: np.append(ScriptDecoder.logits(decoder, cache), [9.0] * 3)
    with start(decoder) as engine:
        assert read(ask(engine, "hi"))[0] == "HI"


def test_character_cut_by_the_limit_is_shown_as_replaced():
    with start(ScriptDecoder(lambda prompt: "a你".encode())) as engine:
        text, last = read(ask(engine, "x", max_tokens=3))
    assert text == "a你".encode()[:3].decode("utf-8", "replace") == "a\ufffd"
    assert last.finish == "length"


def test_stop_string_over_token_borders_is_not_shown():
    with start(ScriptDecoder(lambda prompt: b"one two. END three")) as engine:
        text, last = read(ask(engine, "x", stop=(" END", "zzz")))
    assert (text, last.finish) == ("one two.", "stop")
    assert last.usage is not None
    assert last.usage.completion_tokens == len("one two. END")


def test_held_back_text_is_given_at_the_end():
    with start(ScriptDecoder(lambda prompt: b"one EN")) as engine:
        text, last = read(ask(engine, "x", stop=("END",)))
    assert (text, last.finish) == ("one EN", "stop")


def test_max_tokens_ends_with_length():
    with start(ScriptDecoder()) as engine:
        text, last = read(ask(engine, "hello", max_tokens=2))
    assert (text, last.finish) == ("HE", "length")
    assert last.usage == Usage(prompt_tokens=6, completion_tokens=2)


def test_end_of_context_ends_with_length():
    decoder = ScriptDecoder(lambda prompt: b"y" * 100, context_tokens=10)
    with start(decoder) as engine:
        text, last = read(ask(engine, "hello"))
    assert (text, last.finish) == ("yyyy", "length")


def test_prompt_is_read_in_steps_on_one_thread():
    decoder = ScriptDecoder()
    with start(decoder, batch_limit=1, step_tokens=4) as engine:
        read(ask(engine, "0123456789", max_tokens=1))
    assert [(step.start, len(step.tokens)) for step in decoder.parts] == [(0, 4), (4, 4), (8, 3)]
    assert len(decoder.threads) == 1
    assert threading.get_ident() not in decoder.threads


def test_count_is_the_prompt_length():
    with start(ScriptDecoder()) as engine:
        messages = [Message(role="user", content="abc"), Message(role="user", content="de")]
        assert engine.count(messages) == 5


def test_longest_prompt_fits_and_one_more_says_by_how_much():
    with start(ScriptDecoder(context_tokens=10)) as engine:
        assert read(ask(engine, "12345678"))[1].finish == "length"
        with pytest.raises(ContextLengthError) as caught:
            ask(engine, "123456789012")
    assert "your messages are 13 tokens" in caught.value.message
    assert "at most 9" in caught.value.message
    assert "shorten them by 4" in caught.value.message
    assert caught.value.param == "messages"


def test_max_tokens_over_the_room_says_what_fits():
    with start(ScriptDecoder(context_tokens=10)) as engine:
        ask(engine, "12345", max_tokens=4).cancel()
        with pytest.raises(ContextLengthError) as caught:
            ask(engine, "12345", max_tokens=5)
    assert "at most 4" in caught.value.message
    assert caught.value.param == "max_tokens"


def test_empty_prompt_and_bad_sampling_are_refused():
    with start(ScriptDecoder()) as engine:
        with pytest.raises(InputError, match="nothing to answer"):
            engine.generate([], sampling=Sampling(), lane="a")
        with pytest.raises(InputError, match="temperature"):
            ask(engine, "x", temperature=3.0)
        assert engine.waiting == 0


def test_full_queue_is_busy_and_recovers():
    gate = Gate(at=1)
    with start(ScriptDecoder(gate=gate), batch_limit=1, queue_limit=2) as engine:
        running = ask(engine, "r")
        assert gate.reached.wait(TIMEOUT_S)
        waiting = [ask(engine, "w", lane=lane) for lane in "bc"]
        with pytest.raises(BusyError, match="queue_limit = 2"):
            ask(engine, "x", lane="d")
        waiting[0].cancel()
        waiting.append(ask(engine, "x", lane="d"))
        gate.open()
        assert [read(g)[0] for g in (running, *waiting)] == ["R", "", "W", "X"]


def test_lanes_take_turns():
    gate = Gate(at=1)
    order: list[str] = []
    with start(ScriptDecoder(gate=gate), batch_limit=1) as engine:
        running = ask(engine, "first", lane="a")
        assert gate.reached.wait(TIMEOUT_S)
        waiting = [
            ask(
                engine,
                name,
                lane=name[0],
                max_tokens=1,
                adapter=lambda name=name: order.append(name),
            )
            for name in ("a0", "a1", "a2", "b0", "c0", "c1")
        ]
        gate.open()
        for generation in (running, *waiting):
            read(generation)
    assert order == ["a0", "b0", "c0", "a1", "c1", "a2"]


def test_cancel_while_waiting_ends_at_once_and_is_never_run():
    gate = Gate(at=1)
    decoder = ScriptDecoder(gate=gate)
    with start(decoder, batch_limit=1) as engine:
        running = ask(engine, "r")
        assert gate.reached.wait(TIMEOUT_S)
        waiting = ask(engine, "never", lane="b")
        waiting.cancel()
        waiting.cancel()
        text, last = read(waiting)
        assert (text, last.finish) == ("", "cancelled")
        assert last.usage == Usage(prompt_tokens=6, completion_tokens=0)
        gate.open()
        read(running)
    assert all(ord("n") not in step.tokens for step in decoder.parts)


@pytest.mark.parametrize("at", [1, 3])
def test_cancel_during_prefill_frees_the_engine_within_one_step(at: int):
    gate = Gate(at=at)
    decoder = ScriptDecoder(gate=gate)
    with start(decoder, batch_limit=1, step_tokens=2) as engine:
        generation = ask(engine, "0123456789")
        assert gate.reached.wait(TIMEOUT_S)
        following = ask(engine, "next", lane="b")
        generation.cancel()
        gate.open()
        text, last = read(generation)
        assert (text, last.finish) == ("", "cancelled")
        assert read(following)[0] == "NEXT"
    first_of_next = next(n for n, step in enumerate(decoder.parts) if step.tokens[0] == ord("n"))
    assert first_of_next == at


def test_cancel_during_decode_frees_the_engine_within_one_step():
    gate = Gate(at=4)
    decoder = ScriptDecoder(gate=gate)
    with start(decoder, batch_limit=1) as engine:
        generation = ask(engine, "0123456789")
        assert gate.reached.wait(TIMEOUT_S)
        following = ask(engine, "next", lane="b")
        generation.cancel()
        gate.open()
        text, last = read(generation)
        assert (text, last.finish) == ("012", "cancelled")
        assert last.usage is not None
        assert last.usage.completion_tokens == 3
        assert read(following)[0] == "NEXT"
        generation.cancel()
    first_of_next = next(n for n, step in enumerate(decoder.parts) if step.tokens[0] == ord("n"))
    assert first_of_next == 4


def test_reader_that_cancels_on_the_first_delta_in_a_loop_of_its_own():
    async def main() -> Delta:
        generation = ask(engine, "x")
        deltas: list[Delta] = []
        async for delta in generation:
            deltas.append(delta)
            generation.cancel()
        return deltas[-1]

    with start(ScriptDecoder(lambda prompt: b"y" * 900)) as engine:
        assert asyncio.run(main()).finish in {"cancelled", "stop"}


def test_close_ends_all_as_cancelled():
    gate = Gate(at=2)
    engine = start(ScriptDecoder(gate=gate), batch_limit=1)
    generations = [ask(engine, "abc", lane=lane) for lane in "abc"]
    assert gate.reached.wait(TIMEOUT_S)
    closer = threading.Thread(target=engine.close)
    closer.start()
    assert read(generations[1])[1].finish == "cancelled"
    assert read(generations[2])[1].finish == "cancelled"
    gate.open()
    closer.join(TIMEOUT_S)
    assert read(generations[0])[1].finish == "cancelled"
    engine.close()
    with pytest.raises(BusyError, match="shutting down"):
        ask(engine, "late")


def test_failing_decoder_ends_one_answer_and_the_engine_goes_on(caplog: pytest.LogCaptureFixture):
    def fail(parts: list[Step]) -> None:
        if any(part.tokens == [ord("B")] for part in parts):
            raise RuntimeError("no such kernel")

    decoder = ScriptDecoder(gate=fail)
    with start(decoder) as engine:
        generation = ask(engine, "abc")
        following = ask(engine, "xyz")
        assert [next(generation).text, next(generation).text] == ["A", "B"]
        with pytest.raises(EngineError, match="no such kernel") as caught:
            next(generation)
        assert isinstance(caught.value.__cause__, RuntimeError)
        assert list(generation) == []
        assert read(following)[0] == "XYZ"
        assert read(ask(engine, "abcd", max_tokens=1))[1].usage == Usage(
            prompt_tokens=5, completion_tokens=1, cached_tokens=0
        )
        engine.check()
    assert "failed in the decoder" in caplog.text


def test_async_reader_gets_the_error_too():
    async def main() -> None:
        with pytest.raises(EngineError) as caught:
            async for _ in ask(engine, "abc"):
                pass
        assert caught.value.code == "bad_logits"

    decoder = ScriptDecoder()
    decoder.logits = lambda cache: np.full(257, np.nan, np.float32)
    with start(decoder) as engine:
        asyncio.run(main())


def test_error_of_the_adapter_source_keeps_its_type():
    def broken() -> Adapter:
        raise InputError("this version is gone")

    with start(ScriptDecoder()) as engine:
        with pytest.raises(InputError, match="this version is gone"):
            read(ask(engine, "x", adapter=broken))
        assert read(ask(engine, "x"))[0] == "X"


def test_new_version_takes_over_between_tokens_but_not_within_the_prompt():
    current = [adapter("s/1")]

    def advance(parts: list[Step]) -> None:
        if parts[0].start in (2, 6):
            current[0] = adapter(f"s/{parts[0].start}")

    decoder = ScriptDecoder(gate=advance)
    with start(decoder, batch_limit=1, step_tokens=2) as engine:
        read(ask(engine, "abcd", adapter=lambda: current[0]))
    keys = [(step.start, step.key) for step in decoder.parts]
    prompt = [(0, "s/1"), (2, "s/1"), (4, "s/1")]
    assert keys == [*prompt, (5, "s/2"), (6, "s/2"), (7, "s/6"), (8, "s/6")]


def test_next_turn_reuses_what_the_last_one_cached():
    decoder = ScriptDecoder()
    with start(decoder) as engine:
        read(ask(engine, "abc"))
        before = len(decoder.parts)
        _, last = read(ask(engine, "abc\nABC\nxyz"))
    # All of the answer was read to draw its end; the end itself was not.
    assert last.usage == Usage(prompt_tokens=12, completion_tokens=11, cached_tokens=7)
    assert decoder.parts[before] == Step(list(b"\nxyz\n"), 7, None)


def test_same_prompt_again_computes_its_last_token():
    decoder = ScriptDecoder()
    with start(decoder) as engine:
        texts = [read(ask(engine, "abc")) for _ in range(2)]
    assert [text for text, _ in texts] == ["ABC", "ABC"]
    assert [last.usage.cached_tokens for _, last in texts if last.usage] == [0, 3]


@pytest.mark.parametrize(
    ("lane", "key", "cached"), [("a", "v1", 3), ("a", "v2", 0), ("a", None, 0), ("b", "v1", 0)]
)
def test_reuse_needs_the_same_lane_and_key(lane: str, key: str | None, cached: int):
    decoder = ScriptDecoder()
    with start(decoder) as engine:
        read(ask(engine, "abc", lane="a", adapter=lambda: adapter("v1")))
        source = {"adapter": lambda: adapter(key)} if key else {}
        text, last = read(ask(engine, "abc", lane=lane, **source))
    assert text == "ABC"
    assert last.usage is not None
    assert last.usage.cached_tokens == cached
    # Nothing in the cache that answered was computed under another key.
    assert {k for cache in decoder.caches for k in cache.keys} <= {"v1", key}
    assert all(len(set(cache.keys)) == 1 for cache in decoder.caches)


@pytest.mark.parametrize("later", ["v1", "v2"])
def test_cache_of_two_versions_is_not_reused(later: str):
    keys = iter(["v1", "v1"])
    decoder = ScriptDecoder()
    with start(decoder) as engine:
        read(ask(engine, "abc", adapter=lambda: adapter(next(keys, "v2"))))
        assert set(decoder.caches[0].keys) == {"v1", "v2"}
        _, last = read(ask(engine, "abc", adapter=lambda: adapter(later)))
    assert last.usage is not None
    assert last.usage.cached_tokens == 0


def test_cancelled_answer_still_leaves_its_prefix():
    gate = Gate(at=3)
    decoder = ScriptDecoder(gate=gate)
    with start(decoder, batch_limit=1, step_tokens=2) as engine:
        generation = ask(engine, "0123456789")
        assert gate.reached.wait(TIMEOUT_S)
        generation.cancel()
        gate.open()
        read(generation)
        text, last = read(ask(engine, "0123456789"))
    assert text == "0123456789"
    assert last.usage is not None
    assert last.usage.cached_tokens == 6


def test_forgotten_lane_leaves_no_cache():
    with start(ScriptDecoder()) as engine:
        read(ask(engine, "abc", lane="a"))
        read(ask(engine, "abc", lane="b"))
        engine.forget("a")
        engine.forget("nobody")
        cached = [read(ask(engine, "abc", lane=lane))[1].usage for lane in "ab"]
    assert [usage.cached_tokens for usage in cached if usage] == [0, 3]


def test_forgotten_adapter_leaves_no_cache_of_its_owner_and_no_other_goes():
    decoder = ScriptDecoder()

    def count_cached(key: str | None, owner: str) -> int:
        found = None if key is None else adapter(key)
        usage = read(ask(engine, "abc", lane="s", owner=owner, adapter=lambda: found))[1].usage
        assert usage is not None
        return usage.cached_tokens

    with start(decoder) as engine:
        kinds = [(key, owner) for key in (None, "s/1", "s/2") for owner in ("me", "you")]
        assert [count_cached(*kind) for kind in kinds] == [0] * 6
        engine.forget_adapters(["s/1", "never"], owner="me")
        assert [count_cached(*kind) for kind in kinds] == [3, 3, 0, 3, 3, 3]
    assert decoder.forgotten_adapters == ["s/1", "never"]


def test_adapter_that_is_forgotten_during_an_answer_leaves_nothing_when_it_ends():
    gate = Gate(at=1)
    with start(ScriptDecoder(gate=gate)) as engine:
        generation = ask(engine, "abc", owner="me", adapter=lambda: adapter("s/1"))
        assert gate.reached.wait(TIMEOUT_S)
        forget = threading.Thread(target=lambda: engine.forget_adapters(["s/1"], owner="me"))
        forget.start()
        while not engine._orders:
            time.sleep(0.001)
        gate.open()
        forget.join()
        read(generation)
        usage = read(ask(engine, "abc", owner="me", adapter=lambda: adapter("s/1")))[1].usage
    assert usage is not None
    assert usage.cached_tokens == 0


def test_hundred_quick_requests_leave_nothing_behind():
    with start(ScriptDecoder()) as engine:
        read(ask(engine, "warm"))
        threads = threading.active_count()
        left = [weakref.ref(ask(engine, f"q{n}", lane=f"lane {n}")) for n in range(60)]
        for n in range(100):
            generation = ask(engine, f"r{n}", lane=f"lane {n}")
            if n % 3 == 0:
                generation.cancel()
            assert read(generation)[1].finish in {"stop", "cancelled"}
        left.append(weakref.ref(generation))
        del generation
        assert threading.active_count() == threads
        assert engine.waiting == 0
        assert not engine._queue._lanes
        for _ in range(500):  # the engine's thread lets go of the last one a moment after its end
            gc.collect()
            if not any(ref() for ref in left):
                break
            time.sleep(0.01)
        assert not any(ref() for ref in left)


def test_double_follows_its_own_contract():
    assert ByteTokenizer().token_bytes(65) == b"A"
    assert ByteTokenizer().token_bytes(256) == b""


def test_an_answer_without_max_tokens_ends_at_the_engines_own_limit():
    with start(ScriptDecoder(lambda _: b"a" * 500), answer_tokens=20) as engine:
        text, last = read(ask(engine, "hi"))
    assert (text, last.finish) == ("a" * 20, "length")
