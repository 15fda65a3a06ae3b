"""llama.cpp as the peer, through `xllamacpp`, an extra that only benchmarks need.

Its own figures are taken: `timings` of its server leave out everything before and after the
engine. They count the first token of an answer without its time, which favours it by less than 1%.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import math
import threading
import time
from typing import Any

from fluvial.errors import EngineError, UnsupportedError


def check_installed() -> str:
    """Return the version of xllamacpp; raises UnsupportedError saying how to get it."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise UnsupportedError(
            "this benchmark measures against llama.cpp, which is not installed: "
            "install it with `pip install xllamacpp`"
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
        params.verbosity = -1
        self._server: Any = xllamacpp.Server(params)
        self._sequences = sequences
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
        answers = self._complete_all(prompts, n_predict=tokens)
        took_s = time.perf_counter() - begun_s
        timings = [answer["timings"] for answer in answers]
        read_s = max(each["prompt_ms"] for each in timings) / 1000
        by_clock = sum(each["predicted_n"] for each in timings) / (took_s - read_s)
        return float(max(by_clock, sum(each["predicted_per_second"] for each in timings)))

    def score(self, windows: list[list[int]]) -> list[float]:
        """Return each window's loss in nats, summed over all of its tokens but the first.

        A grammar of token ids forces every answer to be the window; with it come the
        probabilities before the grammar. It decodes token by token, as many windows as there are
        slots at a time.
        """
        nats: list[float] = []
        for start in range(0, len(windows), self._sequences):
            group = windows[start : start + self._sequences]
            rest = [window[1:] for window in group]
            rules = ["root ::= " + " ".join(f"<[{token}]>" for token in ids) for ids in rest]
            answers = self._complete_all([window[:1] for window in group], grammars=rules, ids=rest)
            nats += [_sum_losses(answer, ids) for answer, ids in zip(answers, rest, strict=True)]
        return nats

    def _complete_all(
        self,
        prompts: list[list[int]],
        *,
        n_predict: int = 0,
        grammars: list[str] | None = None,
        ids: list[list[int]] | None = None,
    ) -> list[dict[str, Any]]:
        answers: dict[int, dict[str, Any]] = {}
        failures: list[BaseException] = []

        def run(index: int) -> None:
            more: dict[str, Any] = {"n_predict": n_predict}
            if grammars is not None and ids is not None:
                more = {"n_predict": len(ids[index]), "grammar": grammars[index], "n_probs": 1}
            try:
                answers[index] = self._complete(prompts[index], **more)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=run, args=(index,)) for index in range(len(prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return [answers[index] for index in range(len(prompts))]

    def _complete(
        self, prompt: list[int], *, cache_prompt: bool = False, **more: Any
    ) -> dict[str, Any]:
        request = {
            "prompt": prompt,
            "temperature": 0,
            "ignore_eos": "grammar" not in more,
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


def _sum_losses(answer: dict[str, Any], ids: list[int]) -> float:
    told = answer["choices"][0]["logprobs"]["content"]
    found = [each["id"] for each in told]
    if found != ids:
        raise EngineError(f"the peer answered {len(found)} tokens that are not the {len(ids)} sent")
    return -math.fsum(each["logprob"] for each in told)
