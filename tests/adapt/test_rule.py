import pytest

from fluvial.adapt.rule import ChunkResult, Rule


@pytest.mark.parametrize(
    ("learned", "skipped", "restored", "asked", "reason"),
    [
        (True, False, False, True, ""),
        (False, False, False, False, "frozen"),
        (False, True, False, True, "unsurprising"),
        (False, False, True, True, "not_finite"),
        (False, False, False, True, "short"),
    ],
)
def test_a_chunk_tells_why_it_was_not_learned_from(
    learned: bool, skipped: bool, restored: bool, asked: bool, reason: str
) -> None:
    result = ChunkResult(
        adapted_nats=1.0, frozen_nats=1.0, learned=learned, skipped=skipped, restored=restored
    )
    assert result.tell_reason(asked=asked) == reason


@pytest.mark.parametrize("positions", [64, 100, 256, 640, 641, 4096])
def test_windows_fit_the_positions_that_there_are(positions: int) -> None:
    rule = Rule().fit(positions)
    assert rule.window_tokens < positions
    assert 16 <= rule.chunk_tokens <= rule.stride_tokens


def test_a_rule_that_fits_stays_as_it_is() -> None:
    assert Rule().fit(641) == Rule()
