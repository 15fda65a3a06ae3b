"""The guard at work: prompts before they are read, answers before they are seen.

Checks run in threads of their own, never on the event loop. Whatever fails or takes too long, what
was not checked is not shown: the answer ends with a GuardError.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

from fluvial.config import Settings
from fluvial.errors import GuardError, StorageError
from fluvial.guard.guard import Decision, Guard, run_until
from fluvial.guard.opening import OpenModel, load_policy, open_guard
from fluvial.service.guarded import GuardedGeneration
from fluvial.service.protocol import Audit, Generation
from fluvial.types import Delta, GuardNote, Message, StoredMessage, Tool, Usage

CHECK_THREADS = 8
"""More than cores: a check may wait for another machine."""
CONTEXT_CHARS = 4000
TIMEOUT_CHARS = 4000

log = logging.getLogger(__name__)
T = TypeVar("T")


class Guarding:
    """The guard of a running service. `close` it once. Its async methods are for the event loop."""

    def __init__(self, guard: Guard | None, *, audit: Audit | None = None) -> None:
        """Guard with `guard`; None is what the setting "off" means: everything passes."""
        self.guard = guard
        self._audit = audit
        self._pool = ThreadPoolExecutor(CHECK_THREADS, thread_name_prefix="guard")

    @property
    def sha256(self) -> str:
        """A digest of everything that decides what is kept back; "" where nothing is."""
        return "" if self.guard is None else self.guard.sha256

    def close(self) -> None:
        """Let the threads end; checks under way are not waited for. Free what checks hold."""
        self.stop()
        if self.guard is not None:
            self.guard.close()

    def stop(self) -> None:
        """Let the threads end, and leave the checks to whoever opened them."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def check_prompt(
        self,
        messages: Sequence[Message],
        *,
        new: int | None,
        owner: str,
        session: str | None,
        tools: Sequence[Tool] = (),
    ) -> Decision:
        """Decide about a conversation, `new` messages of which were not checked yet; record it.

        `tools` are told to the model, and checked, too.
        Raises GuardError when a check fails or takes too long.
        """
        guard = self.guard
        if guard is None:
            return Decision(action="allow", messages=tuple(messages))
        beside = "\n".join(text for each in tools for text in describe_tool(each))
        chars = len(beside) + sum(len(each.content) for each in messages)
        decision = await self.run(
            lambda: guard.check_prompt(messages, new=new, beside=beside), chars=chars
        )
        if decision.action != "allow":
            text = "\n".join(each.content for each in messages[-(new or len(messages)) :])
            await asyncio.to_thread(
                self.record, "prompt", decision, text=text, owner=owner, session=session
            )
        return decision

    def check_document(self, text: str, *, owner: str, session: str) -> Decision:
        """Put on record what the policy flags in a document; blocks.

        A document is read even where a check fails: what it says is checked when it is shown.
        """
        if self.guard is None:
            return Decision(action="allow")
        try:
            decision = self.guard.check_document(text)
        except GuardError as error:
            log.warning("a document was not checked: %s", error.message)
            return Decision(action="allow")
        if decision.action != "allow":
            self.record("document", decision, text=text, owner=owner, session=session)
        return decision

    def guard_answer(
        self,
        generation: Generation,
        *,
        messages: Sequence[Message],
        owner: str,
        session: str | None,
    ) -> Generation:
        """Hold back what `generation` writes until it is checked."""
        if self.guard is None:
            return generation
        context = "\n".join(message.content for message in messages)[-CONTEXT_CHARS:]

        def record(decision: Decision, text: str) -> None:
            self.record("answer", decision, text=text, owner=owner, session=session)

        return GuardedGeneration(
            generation,
            guard=self.guard,
            context=context,
            question=_last_question(messages),
            run=self.run,
            record=record,
        )

    async def run(self, check: Callable[[], T], *, chars: int = 0) -> T:
        """Run a check in a thread of the guard's. Raises GuardError when it takes too long.

        A text of `chars` may take the policy's timeout for each `TIMEOUT_CHARS` begun.
        """
        timeout_ms = self.guard.policy.hold.timeout_ms if self.guard is not None else 0
        timeout_ms *= 1 + chars // TIMEOUT_CHARS
        loop = asyncio.get_running_loop()
        end_s = time.monotonic() + timeout_ms / 1000
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                # The thread must end, too: others wait for it.
                return await loop.run_in_executor(self._pool, lambda: run_until(check, end_s=end_s))
        except TimeoutError:
            raise GuardError(f"a check of the guard took over {timeout_ms} ms") from None

    def record(
        self, kind: str, decision: Decision, *, text: str, owner: str, session: str | None
    ) -> None:
        """Put on record what was done; the text itself only as the audit log keeps texts.

        What was kept back stays so where the disk refuses: then the server's log has it.
        """
        if self._audit is None:
            return
        try:
            detail = {
                "category": decision.category,
                "score": round(decision.score, 6),
                "check": decision.check,
                "flags": " ".join(decision.flags),
                **self._audit.describe(text, session=session),
            }
            self._audit.append(
                f"guard.{kind}_{decision.action}",
                actor=owner,
                subject=session or "alone",
                detail=detail,
            )
        except StorageError as error:
            log.error("guard: %s, %s, is not on record: %s", kind, decision.action, error.message)


class RefusedGeneration:
    """The answer to a prompt that was refused: the refusal, and nothing was generated."""

    def __init__(self, note: GuardNote, *, prompt_tokens: int) -> None:
        """Answer with what `note` says; `prompt_tokens` are told as what was asked."""
        usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=0)
        self._delta: Delta | None = Delta(
            text=note.message, finish="content_filter", usage=usage, guard=note
        )

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        if self._delta is None:
            raise StopAsyncIteration
        delta, self._delta = self._delta, None
        return delta

    def cancel(self) -> None:
        """Do nothing: there is nothing to stop."""


def open_guarding(
    settings: Settings, *, audit: Audit, open_model: OpenModel | None = None
) -> Guarding:
    """Open the guard as the settings and its policy say; nothing is checked where it is off.

    `open_model` runs a guard model, where the policy uses one.
    """
    if settings.guard == "off":
        log.warning("the guard is off: prompts and answers are not checked")
        return Guarding(None)
    return Guarding(open_guard(load_policy(settings), open_model=open_model), audit=audit)


def recall(stored: Sequence[StoredMessage]) -> list[Message]:
    """Return a stored conversation as it goes on: without the turns that were refused."""
    kept: list[Message] = []
    for message in stored:
        if message.guard is not None and message.guard.action == "refuse":
            while kept and kept[-1].role == "user":
                kept.pop()
        else:
            kept.append(Message(role=message.role, content=message.content))
    return kept


def describe_tool(tool: Tool) -> list[str]:
    """Return what people wrote about a tool: its description, and those of its parameters."""
    return [text for text in (tool.description, *_find_descriptions(tool.parameters)) if text]


def _find_descriptions(parameters: str) -> list[str]:
    found: list[str] = []

    def note(fields: dict[str, object]) -> dict[str, object]:
        text = fields.get("description")
        if isinstance(text, str):
            found.append(text)
        return fields

    try:
        json.loads(parameters, object_hook=note)
    except (ValueError, RecursionError):
        return [parameters]
    return found


def _last_question(messages: Sequence[Message]) -> str:
    users = [message.content for message in messages if message.role == "user"]
    return users[-1] if users else ""
