import pytest

from fluvial.adapt.rule import ChunkResult


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
