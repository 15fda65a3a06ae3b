"""The prompt of one answer: the conversation as it is stored, with passages beside the question.

Passages stand only in the prompt, never in the store, and only in the last message: everything
before it stays word for word the same, so that the engine's cached prefix goes on being of use.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fluvial.errors import ContextLengthError
from fluvial.retrieve.passage import Passage, select
from fluvial.service.protocol import Engine
from fluvial.types import Message, PassageNote, Tool

ANSWER_TOKENS = 256
"""Room that passages leave for the answer where the request names no `max_tokens`."""

FRAME_TOKENS = 48
"""Room for the words around the passages; long names may need more."""

TRIES = 3

COMPOSED = 3
"""Unicode's composition, which some tokenizers begin with, makes text at most this much shorter."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """A text that passages may come from: the id and name of its reading."""

    reading: str
    name: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What the engine is given, and which documents it holds passages of."""

    messages: tuple[Message, ...]
    passages: tuple[PassageNote, ...] = ()


def build(
    messages: Sequence[Message],
    *,
    documents: Sequence[Document],
    engine: Engine,
    budget_tokens: int,
    answer_tokens: int | None,
) -> Prompt:
    """Put the passages that fit before the last message.

    Passages shrink first: they get at most `budget_tokens`, and no more than the conversation and
    the answer (`answer_tokens`; None: a usual one) leave of the context. Whether the conversation
    itself fits is for the engine to say.
    """
    answer_tokens = answer_tokens or ANSWER_TOKENS
    left = engine.context_tokens - engine.count(messages) - answer_tokens - FRAME_TOKENS
    names = {document.reading: document.name for document in documents}
    for _ in range(TRIES):
        chosen = _choose(
            messages[-1].content,
            documents=documents,
            engine=engine,
            budget_tokens=min(budget_tokens, left),
        )
        if not chosen:
            break
        framed = frame(messages[-1].content, passages=[(names[p.document], p.text) for p in chosen])
        prompt = (*messages[:-1], replace(messages[-1], content=framed))
        excess = engine.count(prompt) + answer_tokens - engine.context_tokens
        if excess <= 0:
            return Prompt(messages=prompt, passages=_note(chosen, names=names, engine=engine))
        left -= excess
    return Prompt(messages=tuple(messages))


def measure_tokens(engine: Engine) -> int:
    """Return the length in bytes of the longest token in the engine's vocabulary."""
    tokenizer = engine.tokenizer
    return max(len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size))


def check_size(
    messages: Sequence[Message], *, engine: Engine, token_bytes: int, tools: Sequence[Tool] = ()
) -> None:
    """Refuse at once what can't fit even if all its tokens were of the longest, `token_bytes`.

    Tokenising megabytes takes seconds, for which everyone else would wait.
    Raises ContextLengthError.
    """
    calls = [call for message in messages for call in message.tool_calls]
    texts = [message.content for message in messages] + [call.arguments for call in calls]
    texts += [text for tool in tools for text in (tool.description, tool.parameters)]
    size = sum(len(text.encode()) for text in texts)
    least_tokens = size // (token_bytes * COMPOSED)
    if least_tokens >= engine.context_tokens:
        raise ContextLengthError(
            f"your messages have {size} bytes, which are more than {least_tokens} tokens; this "
            f"model takes at most {engine.context_tokens}, answer included",
            param="messages",
        )


def frame(question: str, *, passages: Sequence[tuple[str, str]]) -> str:
    """Set (name, text) passages before a question, in few and neutral words."""
    shown = "\n\n".join(f"[{name}]\n{text.strip()}" for name, text in passages)
    return f"Passages from documents in this conversation:\n\n{shown}\n\n---\n\n{question}"


def _choose(
    question: str, *, documents: Sequence[Document], engine: Engine, budget_tokens: int
) -> list[Passage]:
    if budget_tokens <= 0 or not documents:
        return []
    return select(
        question,
        documents=[(document.reading, document.text) for document in documents],
        budget_tokens=budget_tokens,
        count=lambda text: len(engine.tokenizer.encode(text)),
    )


def _note(
    chosen: Sequence[Passage], *, names: dict[str, str], engine: Engine
) -> tuple[PassageNote, ...]:
    tokens: dict[str, int] = {}
    for passage in chosen:
        count = len(engine.tokenizer.encode(passage.text))
        tokens[passage.document] = tokens.get(passage.document, 0) + count
    return tuple(
        PassageNote(reading=reading, name=names[reading], tokens=count)
        for reading, count in tokens.items()
    )
