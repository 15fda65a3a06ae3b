"""Answers in OpenAI's objects: the whole completion, or its chunks as they come."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fluvial.errors import EngineError, FluvialError
from fluvial.server.error import describe
from fluvial.server.sse import encode_event
from fluvial.server.view import view_call, view_guard, view_logprobs, view_receipt, view_usage
from fluvial.service.turn import Turn
from fluvial.types import Delta, FinishReason, GuardNote, TokenLogprob, Usage

Json = dict[str, Any]
_FINISHES: dict[FinishReason, str] = {
    "length": "length",
    "deadline": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
}


class Completion:
    """Writes the answers to one request, each a choice. Those of one choice are in order.

    `logprobs`: whether they were asked for, so that an answer without tokens has an empty list.
    """

    def __init__(self, turns: Sequence[Turn], *, model: str, logprobs: bool = False) -> None:
        self._turns = turns
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._model = model
        self._logprobs = logprobs

    def cancel(self) -> None:
        """Stop all answers."""
        for turn in self._turns:
            turn.cancel()

    async def stream(self, *, include_usage: bool) -> AsyncIterator[bytes]:
        """Yield the chunks: the roles, the pieces, the ends, perhaps the usage, `[DONE]`."""
        for index in range(len(self._turns)):
            delta = {"role": "assistant", "content": ""}
            yield self._chunk(index, delta, receipt=True)
        usages: list[Usage] = []
        try:
            async for index, delta in _merge(self._turns):
                for chunk in self._write(index, delta):
                    yield chunk
                if delta.usage is not None:
                    usages.append(delta.usage)
        except FluvialError as error:
            self.cancel()
            # The status line is long gone: the client learns of it here, and sees no [DONE].
            yield encode_event(describe(error), event="error")
            return
        if include_usage and usages:
            usage = view_usage(_add(usages))
            yield encode_event(self._frame("chat.completion.chunk", choices=[]) | {"usage": usage})
        yield encode_event(b"[DONE]")

    async def collect(self) -> Json:
        """Wait for the end of the answers and make the whole completion of them."""
        try:
            found = await asyncio.gather(*map(_collect, self._turns))
        except FluvialError:
            self.cancel()
            raise
        choices = [self._whole(index, deltas) for index, deltas in enumerate(found)]
        last = found[0][-1]
        frame = self._frame(
            "chat.completion", choices=choices, receipt=True, finish=last.finish, guard=last.guard
        )
        usages = [deltas[-1].usage for deltas in found]
        return frame | {"usage": view_usage(_add([each for each in usages if each is not None]))}

    def _write(self, index: int, delta: Delta) -> list[bytes]:
        """Return the chunks of one delta; logprobs go with the first."""
        told = delta.logprobs
        parts: list[Json] = [{"content": delta.text}] if delta.text else []
        parts += [{"tool_calls": [view_call(call)]} for call in delta.calls]
        if told and not parts:
            parts = [{"content": ""}]
        chunks: list[bytes] = []
        for part in parts:
            chunks.append(self._chunk(index, part, logprobs=told))
            told = ()
        if delta.finish is not None:
            refusal = _refusal(delta)
            end = {} if refusal is None else {"refusal": refusal}
            chunks.append(
                self._chunk(index, end, receipt=True, finish=delta.finish, guard=delta.guard)
            )
        return chunks

    def _whole(self, index: int, deltas: Sequence[Delta]) -> Json:
        text = "".join(delta.text for delta in deltas)
        last = deltas[-1]
        # Of an answer that the guard ended no call is to be made, not even one that was whole.
        calls = _join_calls(deltas) if last.finish != "content_filter" else []
        content = None if calls and not text else text
        message: Json = {
            "role": "assistant",
            "content": content,
            "refusal": _refusal(last),
        }
        if calls:
            message["tool_calls"] = calls
        told = [each for delta in deltas for each in delta.logprobs]
        choice = _choice(index, finish=last.finish, guard=last.guard) | {"message": message}
        return choice | {"logprobs": view_logprobs(told) if self._logprobs else None}

    def _chunk(
        self,
        index: int,
        delta: Json,
        *,
        receipt: bool = False,
        finish: FinishReason | None = None,
        logprobs: Sequence[TokenLogprob] = (),
        guard: GuardNote | None = None,
    ) -> bytes:
        choice = _choice(index, finish=finish, guard=guard) | {"delta": delta}
        choice["logprobs"] = view_logprobs(logprobs) if logprobs else None
        frame = self._frame(
            "chat.completion.chunk",
            choices=[choice],
            receipt=receipt,
            finish=finish,
            guard=guard,
        )
        return encode_event(frame)

    def _frame(
        self,
        kind: str,
        *,
        choices: list[Json],
        receipt: bool = False,
        finish: FinishReason | None = None,
        guard: GuardNote | None = None,
    ) -> Json:
        turn = self._turns[0]
        frame: Json = {
            "id": self._id,
            "object": kind,
            "created": int(turn.created_at),
            "model": self._model,
            "choices": choices,
        }
        if receipt and turn.receipt is not None:
            frame["fluvial"] = view_receipt(turn.receipt) | {"finish": finish}
        if guard is not None:
            frame.setdefault("fluvial", {})["guard"] = view_guard(guard)
        return frame


def _refusal(last: Delta) -> str | None:
    """Return what people are told where text was kept from them."""
    if last.guard is None or last.finish != "content_filter":
        return None
    return last.guard.message


def _choice(index: int, *, finish: FinishReason | None, guard: GuardNote | None = None) -> Json:
    reason = None if finish is None else _FINISHES.get(finish, "stop")
    choice: Json = {"index": index, "finish_reason": reason}
    if finish is not None and finish != reason:
        # OpenAI has no word for an answer that was stopped, or out of time.
        choice["fluvial"] = {"finish": finish}
    if guard is not None:
        choice.setdefault("fluvial", {})["guard"] = view_guard(guard)
    return choice


def _add(usages: Sequence[Usage]) -> Usage:
    """Add what the answers took; they share one prompt, which counts once."""
    return Usage(
        prompt_tokens=usages[0].prompt_tokens,
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        cached_tokens=min(usage.cached_tokens for usage in usages),
    )


def _join_calls(deltas: Sequence[Delta]) -> list[Json]:
    calls: list[Json] = []
    for piece in (call for delta in deltas for call in delta.calls):
        if piece.index == len(calls):
            function = {"name": piece.name, "arguments": ""}
            calls.append({"id": piece.id, "type": "function", "function": function})
        calls[piece.index]["function"]["arguments"] += piece.arguments
    return calls


async def _collect(turn: Turn) -> list[Delta]:
    deltas = [delta async for delta in turn]
    if not deltas or deltas[-1].finish is None:
        raise EngineError("the answer ended without a reason")
    return deltas


async def _merge(turns: Sequence[Turn]) -> AsyncIterator[tuple[int, Delta]]:
    """Yield the deltas of all turns as they come, with the turn's number; raise what one raises."""
    pieces: asyncio.Queue[tuple[int, Delta | FluvialError]] = asyncio.Queue()

    async def follow(index: int, turn: Turn) -> None:
        try:
            async for delta in turn:
                pieces.put_nowait((index, delta))
        except FluvialError as error:
            pieces.put_nowait((index, error))

    tasks = [asyncio.create_task(follow(index, turn)) for index, turn in enumerate(turns)]
    unfinished = len(turns)
    try:
        while unfinished:
            index, piece = await pieces.get()
            if isinstance(piece, FluvialError):
                raise piece
            unfinished -= piece.finish is not None
            yield index, piece
    finally:
        for task in tasks:
            task.cancel()
