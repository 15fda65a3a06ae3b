"""Many answers at once: what one says never depends on the others, on memory, or on faults."""

import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fluvial.engine import spill as spill_module
from fluvial.engine.batch import Batch
from fluvial.engine.engine import Engine
from fluvial.engine.generation import Generation
from fluvial.engine.spill import Spill
from fluvial.errors import BusyError, ContextLengthError, EngineError, InputError
from fluvial.model.adapter import Adapter
from fluvial.types import Delta, Message, Sampling, Usage
from tests.engine.fake import FakeDecoder, Step
from tests.engine.script import ScriptDecoder, ask, read, start

TIMEOUT_S = 30
NOTHING: Callable[[list[Step]], None] = lambda parts: None  # noqa: E731


class Hold:
    """Holds the first step until `open`, so that a test can queue what is to run together."""

    def __init__(self, then: Callable[[list[Step]], None] = NOTHING) -> None:
        self.reached = threading.Event()
        self._opened = threading.Event()
        self._then = then

    def __call__(self, parts: list[Step]) -> None:
        self.reached.set()
        assert self._opened.wait(TIMEOUT_S)
        self._then(parts)

    def open(self) -> None:
        self._opened.set()


def together(decoder: FakeDecoder, hold: Hold, engine: Engine, *asks: dict) -> list[Generation]:
    """Ask for all before the second step."""
    first = ask(engine, "first", lane="first", max_tokens=1)
    assert hold.reached.wait(TIMEOUT_S)
    generations = [ask(engine, **each) for each in asks]
    hold.open()
    read(first)
    return generations


def alone(text: str, **options: object) -> str:
    with start(FakeDecoder()) as engine:
        return read(ask(engine, text, **options))[0]


QUESTIONS = [
    {"text": "one", "lane": "a", "temperature": 1.0, "seed": 1, "max_tokens": 30},
    {"text": "two and more", "lane": "b", "max_tokens": 20},
    {"text": "3" * 100, "lane": "c", "temperature": 1.5, "seed": 3, "max_tokens": 40},
    {"text": "four", "lane": "d", "temperature": 0.5, "seed": 4, "top_p": 0.9, "max_tokens": 9},
]


def test_four_answers_share_steps_and_say_what_they_say_alone():
    hold = Hold()
    decoder = FakeDecoder(gate=hold)
    with start(decoder, step_tokens=32) as engine:
        answers = [read(each)[0] for each in together(decoder, hold, engine, *QUESTIONS)]
        engine.check()
    assert answers == [alone(**question) for question in QUESTIONS]
    assert max(len(step) for step in decoder.steps) == 4
    assert max(sum(len(part.tokens) for part in step) for step in decoder.steps) <= 32


def test_no_more_run_at_once_than_the_limit():
    hold = Hold()
    decoder = FakeDecoder(gate=hold)
    with start(decoder, batch_limit=2) as engine:
        answers = [read(each)[0] for each in together(decoder, hold, engine, *QUESTIONS)]
    assert answers == [alone(**question) for question in QUESTIONS]
    assert max(len(step) for step in decoder.steps) == 2


@pytest.mark.parametrize("recurrent", [False, True])
def test_out_of_pages_answers_wait_and_nobody_notices(recurrent: bool):
    hold = Hold()
    decoder = FakeDecoder(gate=hold, total_pages=10, recurrent=recurrent)
    asks = [
        {"text": f"{n}" * (10 * n), "lane": str(n), "max_tokens": 90, "seed": n, "temperature": 1.0}
        for n in range(1, 6)
    ]
    with start(decoder) as engine:
        answers = [read(each) for each in together(decoder, hold, engine, *asks)]
        engine.check()
    with start(FakeDecoder(recurrent=recurrent)) as engine:
        assert [text for text, _ in answers] == [read(ask(engine, **each))[0] for each in asks]
    assert all(last.finish in ("stop", "length") for _, last in answers)
    # Some were computed again, so more tokens went through the decoder than there are.
    there = sum(last.usage.prompt_tokens + last.usage.completion_tokens for _, last in answers)
    assert sum(len(part.tokens) for part in decoder.parts) > there


def test_versions_of_an_answer_survive_that_its_cache_is_taken_away():
    def run(pages: int) -> tuple[list[str], FakeDecoder]:
        versions = [iter(range(10_000)) for _ in range(3)]
        hold = Hold()
        decoder = FakeDecoder(gate=hold, total_pages=pages)
        asks = [
            {
                "text": "abc",
                "lane": str(n),
                "max_tokens": 90,
                "adapter": lambda n=n: Adapter(f"{n}/{next(versions[n]) // 20}", {}),
                "ignore_eos": True,
            }
            for n in range(3)
        ]
        with start(decoder) as engine:
            return [read(each)[0] for each in together(decoder, hold, engine, *asks)], decoder

    roomy, _ = run(pages=100)
    tight, decoder = run(pages=8)
    assert tight == roomy
    again = [part for part in decoder.parts if len(part.tokens) > 5 and part.key]
    assert {part.key for part in again} >= {"2/1"}


def test_prompt_that_can_never_fit_is_refused_before_it_waits():
    with start(FakeDecoder(total_pages=2, context_tokens=1024)) as engine:
        assert engine.context_tokens == 32
        with pytest.raises(ContextLengthError, match="takes at most 31"):
            ask(engine, "x" * 40)
        with pytest.raises(ContextLengthError, match="can be at most 28 here"):
            ask(engine, "xyz", max_tokens=29)
        assert read(ask(engine, "xyz", max_tokens=28, ignore_eos=True))[1].finish == "length"
        engine.check()


def test_fault_of_one_answer_ends_that_one_only():
    def fail(parts: list[Step]) -> None:
        if any(ord("!") in part.tokens for part in parts):
            raise RuntimeError("no such kernel")

    hold = Hold(fail)
    decoder = FakeDecoder(gate=hold)
    with start(decoder) as engine:
        asks = [*QUESTIONS[:2], {"text": "bad!", "lane": "x"}, *QUESTIONS[2:]]
        generations = together(decoder, hold, engine, *asks)
        bad = generations.pop(2)
        with pytest.raises(EngineError, match="no such kernel"):
            list(bad)
        assert [read(each)[0] for each in generations] == [alone(**each) for each in QUESTIONS]
        engine.check()


@pytest.mark.parametrize("recurrent", [False, True])
def test_fault_that_passes_ends_nothing(recurrent: bool):
    faults = [RuntimeError("a moment's weakness")]

    def fail(parts: list[Step]) -> None:
        if len(parts) > 2 and faults:
            raise faults.pop()

    hold = Hold(fail)
    decoder = FakeDecoder(gate=hold, recurrent=recurrent)
    with start(decoder) as engine:
        answers = [read(each)[0] for each in together(decoder, hold, engine, *QUESTIONS)]
    assert not faults
    with start(FakeDecoder(recurrent=recurrent)) as engine:
        assert answers == [read(ask(engine, **each))[0] for each in QUESTIONS]


def test_fault_of_an_adapter_source_ends_that_answer_only():
    asked = iter(range(100))

    def broken() -> None:
        if next(asked) == 3:
            raise InputError("this version is gone")

    hold = Hold()
    decoder = FakeDecoder(gate=hold)
    with start(decoder) as engine:
        bad = {"text": "bad", "lane": "x", "adapter": broken, "ignore_eos": True}
        generations = together(decoder, hold, engine, bad, *QUESTIONS)
        with pytest.raises(InputError, match="this version is gone"):
            list(generations[0])
        assert [read(each)[0] for each in generations[1:]] == [alone(**q) for q in QUESTIONS]
        engine.check()


def test_fault_of_the_engine_itself_ends_all_and_it_goes_on(monkeypatch: pytest.MonkeyPatch):
    decoder = FakeDecoder()
    whole = Batch._plan
    monkeypatch.setattr(Batch, "_plan", lambda self: 1 / 0)
    with start(decoder) as engine:
        with pytest.raises(EngineError, match="ZeroDivisionError"):
            list(ask(engine, "x"))
        monkeypatch.setattr(Batch, "_plan", whole)
        assert read(ask(engine, **QUESTIONS[0]))[0] == alone(**QUESTIONS[0])
        engine.check()


def test_decoder_that_lost_its_pages_fails_answers_rather_than_spin():
    decoder = FakeDecoder(total_pages=8)
    with start(decoder) as engine:
        lost = decoder.new_cache()
        assert decoder.reserve(lost, 7 * 16)
        for _ in range(2):
            with pytest.raises(EngineError, match="no room"):
                list(ask(engine, "x" * 20))
            with pytest.raises(EngineError, match="no room"):
                list(ask(engine, "x", max_tokens=60, ignore_eos=True))
        with pytest.raises(AssertionError):
            engine.check()
        decoder.release(lost)
        assert read(ask(engine, "x" * 20, max_tokens=2, ignore_eos=True))[1].finish == "length"
        engine.check()


def test_cancel_frees_memory_for_those_that_wait():
    hold = Hold()
    decoder = FakeDecoder(gate=hold, total_pages=8)
    asks = [{"text": "x", "lane": str(n), "max_tokens": 100, "ignore_eos": True} for n in range(6)]
    with start(decoder) as engine:
        generations = together(decoder, hold, engine, *asks)
        for each in generations[:5]:
            each.cancel()
        assert all(read(each)[1].finish == "cancelled" for each in generations[:5])
        assert read(generations[5])[1].finish == "length"
        engine.check()


def test_deadline_ends_what_runs_and_what_waits():
    now = [0.0]
    hold = Hold()
    decoder = FakeDecoder(gate=hold)
    with start(decoder, batch_limit=1, clock=lambda: now[0]) as engine:
        running = ask(engine, "x", deadline_s=5.0, ignore_eos=True)
        assert hold.reached.wait(TIMEOUT_S)
        waiting = ask(engine, "waits", lane="b", deadline_s=5.0)
        patient = ask(engine, "waits", lane="c", deadline_s=500.0, max_tokens=1)
        now[0] = 6.0
        hold.open()
        text, last = read(running)
        assert last.finish == "deadline"
        assert last.usage is not None
        assert last.usage.completion_tokens == 1 or text == ""
        assert read(waiting)[1] == Delta(
            text="", finish="deadline", usage=Usage(prompt_tokens=6, completion_tokens=0)
        )
        assert read(patient)[1].finish in ("length", "stop")
        for wrong in (0, -1, float("inf"), float("nan")):
            with pytest.raises(InputError) as caught:
                ask(engine, "x", deadline_s=wrong)
            assert caught.value.param == "deadline_s"


def test_refused_caller_is_told_when_to_come_back():
    now = [0.0]
    hold = Hold(lambda parts: now.__setitem__(0, now[0] + 4.0))
    decoder = FakeDecoder(gate=hold)
    with start(decoder, batch_limit=1, queue_limit=4, clock=lambda: now[0]) as engine:
        first = ask(engine, "x", max_tokens=1)
        assert hold.reached.wait(TIMEOUT_S)
        rest = [ask(engine, "x", lane=str(n), max_tokens=1) for n in range(4)]
        with pytest.raises(BusyError) as caught:
            ask(engine, "x")
        assert caught.value.retry_after_s == 1.0
        hold.open()
        for each in (first, *rest):
            read(each)
        assert engine._batch.pace.retry_after_s == pytest.approx(4.0)
        assert BusyError.status == 429


def choices(engine: Engine, text: str, n: int, **options: object) -> list[Generation]:
    message = Message(role="user", content=text)
    sampling = Sampling(**{"temperature": 1.5, "seed": 7, "max_tokens": 12} | options)
    return engine.generate_many([message], n=n, sampling=sampling, lane="a")


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("batch_limit", [1, 2, 8])
def test_answers_to_one_prompt_read_it_once(recurrent: bool, batch_limit: int):
    decoder = FakeDecoder(recurrent=recurrent)
    prompt = "a prompt of some length, read once"
    with start(decoder, batch_limit=batch_limit) as engine:
        answers = [read(each) for each in choices(engine, prompt, 4)]
        engine.check()
        usages = [last.usage for _, last in answers if last.usage]
        again = [read(each)[0] for each in choices(engine, prompt, 4)]
        first = read(choices(engine, prompt, 1)[0])[0]
    assert [text for text, _ in answers] == again
    assert again[0] == first
    assert len(set(again)) == 4
    assert [usage.cached_tokens for usage in usages] == [0] + [len(prompt) - 1] * 3


def test_cancelled_first_answer_does_not_hold_the_others():
    hold = Hold()
    decoder = FakeDecoder(gate=hold)
    with start(decoder, batch_limit=1) as engine:
        first = ask(engine, "x", lane="z", max_tokens=1)
        assert hold.reached.wait(TIMEOUT_S)
        generations = choices(engine, "prompt", 3, ignore_eos=True)
        generations[0].cancel()
        hold.open()
        read(first)
        assert [read(each)[1].finish for each in generations] == ["cancelled", "length", "length"]


@pytest.mark.parametrize("n", [0, -1, 129])
def test_number_of_answers_is_bounded(n: int):
    with start(FakeDecoder()) as engine, pytest.raises(InputError) as caught:
        choices(engine, "x", n)
    assert caught.value.param == "n"


def test_more_answers_than_the_queue_holds_are_refused_together():
    with start(FakeDecoder(), queue_limit=3) as engine:
        with pytest.raises(BusyError):
            choices(engine, "x", 4)
        assert engine.waiting == 0
        assert len([read(each) for each in choices(engine, "x", 3)]) == 3


def cached(generation: Generation) -> int:
    usage = read(generation)[1].usage
    assert usage is not None
    return usage.cached_tokens


def test_owner_shares_over_lanes_and_nobody_over_owners():
    text = "a system prompt that all conversations begin with"
    with start(ScriptDecoder()) as engine:
        assert cached(ask(engine, text, lane="s1", owner="me")) == 0
        assert cached(ask(engine, text, lane="s2", owner="me")) == len(text)
        assert cached(ask(engine, text, lane="s1", owner="you")) == 0
        assert cached(ask(engine, text, lane="s1")) == 0
        engine.forget("s1")
        assert cached(ask(engine, text, lane="s3", owner="you")) == 0
        assert cached(ask(engine, text, lane="s3", owner="me")) == len(text)
        engine.check()


def test_forgotten_while_it_is_answered_is_not_kept():
    hold = Hold()
    with start(ScriptDecoder(gate=hold)) as engine:
        generation = ask(engine, "a secret", lane="s1")
        assert hold.reached.wait(TIMEOUT_S)
        forgetting = threading.Thread(target=engine.forget, args=("s1",))
        forgetting.start()
        while not engine._orders:
            assert forgetting.is_alive()
        hold.open()
        forgetting.join(TIMEOUT_S)
        read(generation)
        assert cached(ask(engine, "a secret", lane="s1")) == 0


def test_recurrent_states_are_kept_where_turns_end():
    with start(ScriptDecoder(recurrent=True)) as engine:
        text = "a question"
        assert cached(ask(engine, text)) == 0
        assert cached(ask(engine, text)) == len(text)
        following = text + "\n" + text.upper() + "\nand another"
        assert cached(ask(engine, following)) == len(text + "\n" + text.upper())
        other = text + "\nedited\nand another"
        assert cached(ask(engine, other)) == len(text)
        engine.check()


# --- the disk ---------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill_module, "SPARE_BYTES", 0)


def disk(folder: Path, **options: object) -> Spill:
    return Spill(folder, **{"checkpoint": "c", "version": "1", "budget_bytes": 10**9} | options)


def wait_for(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(TIMEOUT_S * 100):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it never came")


LONG = "a conversation that is long enough for the disk, " * 3


@pytest.mark.parametrize("recurrent", [False, True])
def test_idle_conversation_goes_to_disk_and_comes_back(tmp_path: Path, recurrent: bool):
    decoder = ScriptDecoder(recurrent=recurrent)
    turn = LONG + "\n" + LONG.upper() + "\nand then"
    with start(decoder, spill=disk(tmp_path), idle_s=0.01) as engine:
        read(ask(engine, LONG))
        wait_for(lambda: decoder.free_pages == decoder.total_pages)
        wait_for(lambda: len(list(tmp_path.glob("*.safetensors"))) == 1)
        (file,) = tmp_path.iterdir()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert b"conversation" not in file.name.encode()
        text, last = read(ask(engine, turn))
        assert text == turn.upper().replace("\n", " ")
        assert last.usage is not None
        assert last.usage.cached_tokens == len(LONG) * 2 + 1
        engine.check()


def test_conversation_survives_a_restart_and_not_its_deletion(tmp_path: Path):
    with start(ScriptDecoder(), spill=disk(tmp_path)) as engine:
        read(ask(engine, LONG, lane="s1"))
        read(ask(engine, LONG + "!", lane="s2"))
    assert len(list(tmp_path.iterdir())) == 2
    with start(ScriptDecoder(), spill=disk(tmp_path)) as engine:
        assert cached(ask(engine, LONG, lane="s1")) == len(LONG)
        engine.forget("s1")
        assert len(list(tmp_path.iterdir())) == 1
        assert cached(ask(engine, LONG, lane="s1")) == 0
        assert cached(ask(engine, LONG + "!", lane="s2", owner="x")) == 0
        assert cached(ask(engine, LONG + "!", lane="s2")) == len(LONG) + 1
        engine.forget("s1")
        engine.forget("s2")
    assert not list(tmp_path.iterdir())


def test_pressure_sends_caches_to_disk_and_answers_stay_the_same(tmp_path: Path):
    asks = [
        {"text": f"{n} {LONG}", "lane": str(n), "max_tokens": 20, "seed": n, "temperature": 1.0}
        for n in range(6)
    ]
    decoder = FakeDecoder(total_pages=14)
    with start(decoder, spill=disk(tmp_path)) as engine:
        firsts = [read(ask(engine, **each))[0] for each in asks]
        seconds = [read(ask(engine, **each)) for each in asks]
        engine.check()
    assert firsts == [text for text, _ in seconds] == [alone(**each) for each in asks]
    assert all(last.usage.cached_tokens > len(LONG) - 4 for _, last in seconds if last.usage)


def test_cache_that_does_not_fit_the_model_is_computed_again(tmp_path: Path):
    with start(ScriptDecoder(), spill=disk(tmp_path)) as engine:
        read(ask(engine, LONG))
    decoder = ScriptDecoder()
    decoder.restore = lambda tokens, tensors: FakeDecoder.restore(decoder, tokens, {})
    with start(decoder, spill=disk(tmp_path)) as engine:
        text, last = read(ask(engine, LONG))
        assert text == LONG.upper()
        assert last.usage is not None
        assert last.usage.cached_tokens == 0
        engine.check()
