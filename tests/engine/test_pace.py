import pytest

from fluvial.engine.pace import LEAST_PREFILL_TOKENS, MAX_RETRY_S, Pace


def test_prompts_have_the_whole_step_while_nobody_decodes():
    pace = Pace(step_tokens=256)
    pace.count_step(tokens=256, elapsed_s=10.0)
    assert pace.prefill_tokens(decoding=False) == 256


@pytest.mark.parametrize(
    ("elapsed_s", "tokens"), [(0.1, 256), (1.0, 64), (100.0, LEAST_PREFILL_TOKENS)]
)
def test_beside_answers_as_much_as_the_target_allows(elapsed_s: float, tokens: int):
    pace = Pace(step_tokens=256, target_s=0.25)
    assert pace.prefill_tokens(decoding=True) == 256
    pace.count_step(tokens=256, elapsed_s=elapsed_s)
    assert pace.prefill_tokens(decoding=True) == tokens


def test_short_steps_say_nothing_about_prompts():
    pace = Pace(step_tokens=256)
    pace.count_step(tokens=1, elapsed_s=10.0)
    assert pace.prefill_tokens(decoding=True) == 256


def test_retry_follows_the_time_between_answers_while_others_wait():
    pace = Pace(step_tokens=256)
    assert pace.retry_after_s == 1.0
    for now_s in (0.0, 8.0, 16.0):
        pace.count_answer(now_s, waiting=3)
    assert pace.retry_after_s == pytest.approx(8.0)
    pace.count_answer(20.0, waiting=0)
    pace.count_answer(9000.0, waiting=1)
    assert pace.retry_after_s == pytest.approx(8.0)
    pace.count_answer(90000.0, waiting=1)
    assert pace.retry_after_s == MAX_RETRY_S
