"""llama.cpp as the peer, through `xllamacpp`, an extra that only benchmarks need.

Its own figures are taken: `timings` of its server leave out everything before and after the
engine. They count the first token of an answer without its time, which favours it by less than 1%.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fluvial.errors import EngineError, UnsupportedError

T = TypeVar("T")
R = TypeVar("R")
_CERTAIN, _AHEAD = 100.0, 40.0
"""Biases in nats: one that outweighs all logits, and the lead of one token before another."""


def check_installed() -> str:
    """Return the version of xllamacpp; raises UnsupportedError saying how to get it."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise UnsupportedError(
            "this benchmark measures against llama.cpp, which is not installed: "
            "install it with `pip install 'fluvial[bench]'`"
        )
    return importlib.metadata.version("xllamacpp")


class Peer:
    """A llama.cpp server in this process. Loading ends when its first token has come.

    `micro_batch_tokens` is llama.cpp's n_ubatch, `unified` one key-value buffer for all slots.
    """

    def __init__(
        self,
        path: str,
        *,
        threads: int,
        context_tokens: int,
        sequences: int = 1,
        flash_attention: bool = True,
        micro_batch_tokens: int = 512,
        unified: bool = False,
    ) -> None:
        xllamacpp: Any = importlib.import_module("xllamacpp")
        params = xllamacpp.CommonParams()
        params.model.path = path
        params.n_ctx = context_tokens * sequences
        params.n_parallel = sequences
        params.kv_unified = unified
        params.n_ubatch = micro_batch_tokens
        params.n_batch = max(2048, micro_batch_tokens)
        kinds = xllamacpp.llama_flash_attn_type
        params.flash_attn_type = (
            kinds.LLAMA_FLASH_ATTN_TYPE_ENABLED
            if flash_attention
            else kinds.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        params.cpuparams.n_threads = threads
        params.cpuparams_batch.n_threads = threads
        params.fit_params = False
        params.warmup = False
        params.verbosity = -1
        self._server: Any = xllamacpp.Server(params)
        self._sequences = sequences
        self._plain = -1
        self.decode([0], tokens=1)

    def decode(
        self, prompt: list[int], *, tokens: int, adapter: bool = False, kept: bool = False
    ) -> float:
        """Return the speed of generating `tokens` after `prompt`."""
        if adapter:
            raise EngineError("the peer has no adapters")
        answer = self._complete(prompt, n_predict=tokens, cache_prompt=kept)
        return float(answer["timings"]["predicted_per_second"])

    def prefill(self, prompt: list[int]) -> float:
        """Return the speed of reading `prompt`."""
        timings = self._complete(prompt, n_predict=1)["timings"]
        if timings["prompt_n"] != len(prompt):
            raise EngineError(f"the peer read {timings['prompt_n']} of {len(prompt)} tokens")
        return float(timings["prompt_per_second"])

    def batch(self, prompts: list[list[int]], *, tokens: int, adapters: bool = False) -> float:
        """Return the speed of generating `tokens` after each prompt at once, all together.

        The better of two readings counts: by the clock, without the time of the slowest prompt;
        and the sum of the speeds that the slots tell.
        """
        begun_s = time.perf_counter()
        answers = _run_together(lambda _, prompt: self._complete(prompt, n_predict=tokens), prompts)
        took_s = time.perf_counter() - begun_s
        timings = [answer["timings"] for answer in answers]
        read_s = max(each["prompt_ms"] for each in timings) / 1000
        by_clock = sum(each["predicted_n"] for each in timings) / (took_s - read_s)
        return float(max(by_clock, sum(each["predicted_per_second"] for each in timings)))

    def score(self, windows: list[list[int]]) -> list[list[float]]:
        """Return the loss in nats of each window's tokens but the first.

        The server tells no probabilities of a prompt, but those of what it chooses, as they were
        before any bias. So every token is a request of its own: what stands before it is in the
        slot's cache but for the last token, and a bias makes it the choice. As many windows as
        there are slots go on at once. (A grammar of token ids would need one request a window, but
        fails on characters that are split over tokens.)
        """
        if self._plain < 0:
            self._plain = self._find_plain()
        nats: list[list[float]] = []
        for start in range(0, len(windows), self._sequences):
            nats += _run_together(self._score_window, windows[start : start + self._sequences])
        return nats

    def _score_window(self, slot: int, window: list[int]) -> list[float]:
        return [
            -self._find_logprob(slot, window[:index], window[index])
            for index in range(1, len(window))
        ]

    def _find_logprob(self, slot: int, prompt: list[int], token: int) -> float:
        """Return the log-probability of `token` after `prompt`.

        The server tells nothing of a token that ends within a character. Then a plain token is
        chosen, and the two are compared by their probabilities after biases that leave only them.
        """
        told = self._choose(slot, prompt, [[token, _CERTAIN]], n_probs=1)
        if told is not None:
            return _pick(told["top_logprobs"], told, token, "logprob")
        plain = self._plain
        alone = self._choose(slot, prompt, [[plain, _CERTAIN]], n_probs=1)
        both = [[token, _CERTAIN], [plain, _CERTAIN + _AHEAD]]
        pair = self._choose(
            slot,
            prompt,
            both,
            n_probs=2,
            post_sampling_probs=True,
            temperature=1.0,
            samplers=["temperature"],
        )
        if alone is None or pair is None:
            raise EngineError(f"the peer tells no probability of token {token}")
        known = _pick(alone["top_logprobs"], alone, plain, "logprob")
        ratio = _pick(pair["top_probs"], pair, token, "prob") / float(pair["prob"])
        return known + math.log(ratio) + _AHEAD

    def _choose(
        self, slot: int, prompt: list[int], bias: list[list[float]], **more: Any
    ) -> dict[str, Any] | None:
        """Choose one token under `bias`; return what the peer tells of it.

        None for a token that ends within a character.
        """
        answer = self._complete(
            prompt,
            n_predict=1,
            id_slot=slot,
            cache_prompt=True,
            ignore_eos=False,
            logit_bias=bias,
            **more,
        )
        told = answer["choices"][0]["logprobs"]
        return None if told is None else told["content"][0]

    def _find_plain(self) -> int:
        """Find a token that is whole characters."""
        token = 0
        while self._choose(0, [0], [[token, _CERTAIN]], n_probs=1) is None:
            token += 1
        return token

    def _complete(
        self,
        prompt: list[int],
        *,
        cache_prompt: bool = False,
        ignore_eos: bool = True,
        **more: Any,
    ) -> dict[str, Any]:
        request = {
            "prompt": prompt,
            "temperature": 0,
            "ignore_eos": ignore_eos,
            "cache_prompt": cache_prompt,
            **more,
        }
        answer = self._server.handle_completions(request)
        if isinstance(answer, str | bytes):
            answer = json.loads(answer)
        if isinstance(answer, list):
            answer = answer[-1]
        if "timings" not in answer:
            raise EngineError(f"the peer refused a request: {str(answer)[:500]}")
        return answer


def _pick(
    listed: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any], token: int, key: str
) -> float:
    """Return what is told of `token`, the chosen one or one that is listed beside it."""
    for each in (chosen, *listed):
        if each["id"] == token:
            return float(each[key])
    raise EngineError(f"the peer chose token {chosen['id']}, and tells nothing of {token}")


def _run_together(run: Callable[[int, T], R], items: Sequence[T]) -> list[R]:
    """Run `run(index, item)` for all items at once, on threads; return what they gave, in order."""
    with ThreadPoolExecutor(max(1, len(items))) as pool:
        return list(pool.map(run, range(len(items)), items))
