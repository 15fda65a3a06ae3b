"""How much one run of the engine's benchmark measures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fluvial.bench.search import list_thread_counts

Figure = Literal["decode", "prefill", "batch8", "context"]
FIGURES: tuple[Figure, ...] = ("decode", "prefill", "batch8", "context")
"""What settings are looked for, each for itself."""

SIDES = ("ours", "peer")
SEQUENCES = 8


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes in tokens. `tries` is how often each setting is tried before the rounds."""

    rounds: int = 5
    tries: int = 2
    all_settings: bool = True
    prompt_tokens: int = 16
    decode_tokens: int = 128
    prefill_tokens: tuple[int, ...] = (512, 4096)
    prefill_trial_tokens: int = 1024
    batch_tokens: int = 64
    short_context_tokens: int = 128
    long_context_tokens: int = 8192
    context_decode_tokens: int = 64
    context_trial_tokens: int = 4096
    load_context_tokens: int = 2048
    reading_bytes: int = 2**30

    def to_json(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)


QUICK = Plan(
    rounds=2,
    tries=1,
    all_settings=False,
    decode_tokens=32,
    prefill_trial_tokens=256,
    batch_tokens=16,
    long_context_tokens=2048,
    context_decode_tokens=16,
    context_trial_tokens=512,
    reading_bytes=2**28,
)


def list_options(
    side: str, figure: Figure, *, plan: Plan, cores: int, threads: int | None
) -> Mapping[str, Sequence[Any]]:
    """Return the settings that are tried for one side and figure, each with its values.

    `threads` fixes the number of threads of both sides.
    """
    counts = [threads] if threads else list_thread_counts(cores)
    options: dict[str, Sequence[Any]] = {"threads": counts}
    if not plan.all_settings:
        return options
    if side == "ours":
        return options | {"prefill": {"chunk_tokens": (512, 256, 1024)}}.get(figure, {})
    return (
        options
        | {"flash_attention": (True, False)}
        | {
            "prefill": {"micro_batch_tokens": (512, 1024, 2048)},
            "batch8": {"unified": (False, True)},
        }.get(figure, {})
    )
