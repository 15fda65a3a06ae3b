"""Ask an engine as a user would, one instruction an answer, greedily."""

from collections.abc import Callable

from fluvial.bench.instruction import ANSWER_TOKENS, Generate
from fluvial.engine.engine import Engine, use_base
from fluvial.model.adapter import Adapter
from fluvial.types import Message, Sampling


def ask(engine: Engine, *, adapter: Callable[[], Adapter | None] = use_base) -> Generate:
    """Return what `fluvial.bench.instruction.run` calls: it answers with this engine and adapter.

    The same answers whatever is asked at once; to ask more than `queue_limit` at once is refused
    with BusyError.
    """
    sampling = Sampling(temperature=0, max_tokens=ANSWER_TOKENS)

    def generate(prompt: str) -> str:
        messages = [Message(role="user", content=prompt)]
        answer = engine.generate(messages, sampling=sampling, lane=prompt, adapter=adapter)
        return "".join(delta.text for delta in answer)

    return generate
