"""Answers: how a conversation becomes a prompt, and one answer at a time is written into it."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from fluvial.adapt.history import History
from fluvial.config import Settings
from fluvial.errors import ConflictError, InputError, NotFoundError, StorageError
from fluvial.guard.guard import Decision
from fluvial.service import prompt, tool
from fluvial.service.call import CallingGeneration
from fluvial.service.guarding import Guarding, RefusedGeneration, recall
from fluvial.service.hub import Hub
from fluvial.service.protocol import Engine, Generation, Reader
from fluvial.service.state import last_id, make_title
from fluvial.service.tool import NO_TOOLS, ToolUse
from fluvial.service.turn import Turn
from fluvial.service.writing import Writing
from fluvial.store import UNSET, Store, Unset
from fluvial.types import Message, Sampling, Session, StoredMessage

LEARN_TOKENS = 32
"""Shortest message that is learned from. A "thanks" says next to nothing of how its writer writes;
a step on it would cost as much as one on a page, and its score would be mostly noise."""

log = logging.getLogger(__name__)


class Chat:
    """Writes answers. Invariant: a session has at most one answer being written.

    Its methods belong on the event loop; what blocks goes to worker threads.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        engine: Engine,
        store: Store,
        history: History,
        reader: Reader,
        hub: Hub,
        guarding: Guarding,
        require: Callable[[Session], None],
    ) -> None:
        """Join the parts; `require` raises for a session whose version in force may not answer."""
        self._settings = settings
        self._engine = engine
        self._store = store
        self._history = history
        self._reader = reader
        self._hub = hub
        self._guarding = guarding
        self._require = require
        self._token_bytes = prompt.measure_tokens(engine)
        self._deadline_s = settings.answer_deadline_s or None
        self._claims: dict[str, _Claim] = {}
        self._loose: set[_Claim] = set()

    def is_busy(self, session_id: str) -> bool:
        """Tell whether an answer is being written; callable from any thread."""
        return session_id in self._claims

    async def answer_alone(
        self,
        messages: Sequence[Message],
        *,
        sampling: Sampling,
        owner: str,
        lane: str,
        n: int = 1,
        use: ToolUse = NO_TOOLS,
    ) -> list[Turn]:
        """Answer a conversation that the client keeps: no session, no adapter, nothing stored.

        `owner` is who asks, `lane` the part of it that takes turns with others, such as one of its
        users. Returns `n` turns, each with an answer of its own, which may call the tools of `use`;
        where the guard refuses, they say so and nothing is generated.
        Raises InputError, ContextLengthError, BusyError or GuardError before anything is generated.
        """
        await asyncio.to_thread(self._check_form, messages, use=use)
        decision = await self._guarding.check_prompt(
            messages, new=None, owner=owner, session=None, tools=use.offered
        )
        if decision.note is not None and decision.action == "refuse":
            note, tokens = decision.note, await asyncio.to_thread(self._engine.count, messages)
            refusals = [RefusedGeneration(note, prompt_tokens=tokens) for _ in range(n)]
            return [self._begin_loose(refusal) for refusal in refusals]
        generations = await asyncio.to_thread(
            self._generate,
            decision.messages,
            sampling=sampling,
            owner=owner,
            lane=lane,
            n=n,
            use=use,
        )
        return [self._begin_loose(generation) for generation in generations]

    def _check_form(self, messages: Sequence[Message], *, use: ToolUse) -> None:
        token_bytes, tools = self._token_bytes, use.offered
        prompt.check_size(messages, engine=self._engine, token_bytes=token_bytes, tools=tools)
        tool.check_results(messages)

    def _generate(
        self,
        messages: Sequence[Message],
        *,
        sampling: Sampling,
        owner: str,
        lane: str,
        n: int,
        use: ToolUse,
    ) -> Sequence[Generation]:
        tools = use.offered
        bare = use.list_bare(answer=sampling.grammar)
        grammar = tool.build_grammar(use, answer=sampling.grammar)
        sampling = replace(sampling, grammar=grammar)
        try:
            generations = self._engine.generate_many(
                messages,
                n=n,
                sampling=sampling,
                lane=lane,
                tools=tools,
                owner=owner,
                deadline_s=self._deadline_s,
            )
        except InputError as error:
            if tools and error.code == "grammar_refused":
                raise InputError(error.message, code=error.code, param="tools") from None
            raise
        # Calls are read out of what the guard lets through: their arguments are checked, too.
        guarded = [
            self._guarding.guard_answer(each, messages=messages, owner=owner, session=None)
            for each in generations
        ]
        return [CallingGeneration(each, bare=bare) for each in guarded] if tools else guarded

    def _begin_loose(self, generation: Generation) -> Turn:
        claim = _Claim()
        self._loose.add(claim)
        return claim.begin(Turn(generation, on_end=lambda: self._loose.discard(claim)))

    async def answer(
        self,
        session: Session,
        messages: Sequence[Message],
        *,
        parent: str | None | Unset = UNSET,
        sampling: Sampling,
    ) -> Turn:
        """Store new messages in a session and begin the answer to them.

        `parent` is the last message the writer has seen (None: the session was empty). What the
        guard refuses is stored with the refusal as its answer, and neither read nor learned from.
        Raises ConflictError `session_busy` or `session_changed`, ContextLengthError, BusyError,
        GuardError; nothing is stored then.
        """
        claim = self.claim(session)
        writing = Writing(self._store, hub=self._hub, session=session, require=self._require)
        try:
            # What was found before may have changed: a version that failed may have gone back.
            await asyncio.to_thread(writing.refresh)
            whole = await asyncio.to_thread(self._recall, session, messages, parent=parent)
            new = len(messages)
            decision = await self._guarding.check_prompt(
                whole, new=new, owner=session.owner, session=session.id
            )
            generation = await asyncio.to_thread(
                self._begin,
                writing,
                messages=decision.messages[-new:] or messages,
                whole=decision.messages or whole,
                decision=decision,
                parent=parent,
                sampling=sampling,
            )
        except BaseException:
            self.release(session)
            raise
        turn = Turn(generation, record=writing, on_end=lambda: self._end(writing))
        self._hub.publish("session", writing.session, writing.session)
        return claim.begin(turn)

    def claim(self, session: Session) -> "_Claim":
        """Keep others from beginning an answer in a session until `release`."""
        if session.id in self._claims:
            raise ConflictError(
                "an answer is being written in this session; wait for its end, or stop it",
                code="session_busy",
            )
        claim = self._claims[session.id] = _Claim()
        return claim

    def release(self, session: Session) -> None:
        """Let answers begin again."""
        claim = self._claims.pop(session.id, None)
        if claim is not None:
            claim.ended.set()

    async def stop(self, session: Session) -> None:
        """Stop the answer being written, if there is one, and return when it is stored."""
        claim = self._claims.get(session.id)
        if claim is not None:
            claim.stop()
            await claim.ended.wait()

    async def close(self) -> None:
        """Stop all answers and return when they are stored."""
        claims = [*self._loose, *self._claims.values()]
        for claim in claims:
            claim.stop()
        await asyncio.gather(*(claim.turn.wait() for claim in claims if claim.turn is not None))

    def _recall(
        self, session: Session, messages: Sequence[Message], *, parent: str | None | Unset
    ) -> list[Message]:
        """Return the conversation with its new messages."""
        stored = self._store.messages(session)
        _check_new(messages, stored=stored, parent=parent)
        whole = [*recall(stored), *messages]
        prompt.check_size(whole, engine=self._engine, token_bytes=self._token_bytes)
        return whole

    def _begin(
        self,
        writing: Writing,
        *,
        messages: Sequence[Message],
        whole: Sequence[Message],
        decision: Decision,
        parent: str | None | Unset,
        sampling: Sampling,
    ) -> Generation:
        session = writing.session
        if decision.note is not None and decision.action == "refuse":
            tokens = self._engine.count(whole)
            writing.store(messages, parent=parent, passages=())
            return RefusedGeneration(decision.note, prompt_tokens=tokens)
        built = prompt.build(
            whole,
            documents=self._documents(session),
            engine=self._engine,
            budget_tokens=self._settings.document_context_tokens,
            answer_tokens=sampling.max_tokens,
        )
        # The engine may refuse (too long, queue full), so it is asked before anything is stored.
        # Nothing that it writes is passed on before the messages are safe.
        generation = self._engine.generate(
            built.messages,
            sampling=sampling,
            lane=session.id,
            adapter=lambda: writing.adapter(self._history),
            owner=session.owner,
            deadline_s=self._deadline_s,
        )
        try:
            users = writing.store(messages, parent=parent, passages=built.passages)
        except BaseException:
            generation.cancel()
            raise
        self._learn_from(writing.session, users)
        return self._guarding.guard_answer(
            generation, messages=whole, owner=session.owner, session=session.id
        )

    def _documents(self, session: Session) -> list[prompt.Document]:
        if self._settings.document_context_tokens == 0:
            return []
        found: list[prompt.Document] = []
        for reading in self._store.readings(session):
            if reading.kind != "document":
                continue
            try:
                text = self._store.reading_text(reading)
            except NotFoundError:  # its text was removed from the session
                continue
            found.append(prompt.Document(reading=reading.id, name=reading.name, text=text))
        return found

    def _learn_from(self, session: Session, messages: Sequence[StoredMessage]) -> None:
        if session.learning != "on":
            return
        for message in messages:
            if len(self._engine.tokenizer.encode(message.content)) < LEARN_TOKENS:
                continue
            try:
                name = make_title(message.content)
                reading = self._store.create_reading(
                    session, kind="message", name=name, text=message.content
                )
            except StorageError as error:  # the message itself is stored, and can be answered
                log.warning("message %s will not be learned from: %s", message.id, error)
                return
            self._hub.publish("reading", session, reading)
        self._reader.wake()

    def _end(self, writing: Writing) -> None:
        self.release(writing.session)
        self._hub.publish("session", writing.session, writing.session)


class _Claim:
    """The place of one answer, from before it begins; a stop may come before it does."""

    def __init__(self) -> None:
        self.turn: Turn | None = None
        self.ended = asyncio.Event()
        self._stopped = False

    def begin(self, turn: Turn) -> Turn:
        self.turn = turn
        if self._stopped:
            turn.cancel()
        return turn

    def stop(self) -> None:
        self._stopped = True
        if self.turn is not None:
            self.turn.cancel()


def _check_new(
    messages: Sequence[Message], *, stored: list[StoredMessage], parent: str | None | Unset
) -> None:
    if not isinstance(parent, Unset) and parent != last_id(stored):
        raise ConflictError(
            f"the session moved on: its last message is {last_id(stored)}, not {parent}; "
            "load it again",
            code="session_changed",
            param="fluvial.parent",
        )
    for number, message in enumerate(messages):
        if message.role in ("assistant", "tool") or (
            message.role == "system" and (stored or number)
        ):
            raise InputError(
                "inside a session, messages holds only what is new: user messages, and a system "
                "message only as the first of an empty session",
                param=f"messages[{number}].role",
            )
    if not messages or messages[-1].role != "user":
        raise InputError("the last message must be the user's", param="messages")
