"""Grammars that answers must follow, through `llguidance`: checked before, applied at each token.

Everything about a grammar is somebody else's input: its size and depth are bounded here, the work
it may cause by the limits that `llguidance` is given.
"""

import json
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from fluvial.engine.schema import load_schema
from fluvial.errors import EngineError, InputError, ModelError
from fluvial.types import Grammar

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

    from fluvial.model.tokenizer import Tokenizer

MAX_GRAMMAR_BYTES = 64 * 1024
KEPT_GRAMMARS = 32

LIMITS = LLParserLimits(
    max_items_in_row=1_000,
    initial_lexer_fuel=500_000,
    step_lexer_fuel=100_000,
    step_max_items=25_000,
    max_lexer_states=20_000,
    max_grammar_size=200_000,
    verbose_errors=False,
)
"""What one grammar may cost: about 10 ms each step, 40 MB of states."""

WHITE_SPACE = r"[ \t]{0,2}(\n[ \t]{0,32})?"
"""White space between the parts of JSON. Without a bound, small models write it for ever."""

_OPTIONS: "JsonCompileOptions" = {"whitespace_pattern": WHITE_SPACE, "lenient": False}
_ANY_OBJECT = '{"type": "object"}'


def check(grammar: Grammar, *, param: str = "response_format") -> None:
    """Refuse a grammar that can't be honoured, without a model.

    Raises InputError that says why and names `param`.
    """
    failed, reasons = LLMatcher.validate_grammar_with_warnings(
        _translate(grammar, param=param), limits=LIMITS
    )
    if failed:
        raise _refuse(grammar, reasons[0], param=param)


def confine(schema: str, *, param: str) -> str:
    """Return a schema to stand in a Lark grammar, with the options of ours. Raises InputError."""
    return json.dumps(load_schema(schema, param=param) | {"x-guidance": _OPTIONS})


class GrammarState:
    """Where one answer stands in its grammar. For one thread at a time."""

    def __init__(self, matcher: LLMatcher, *, vocab_size: int) -> None:
        """Take over `matcher`, which stands at its beginning."""
        self._matcher = matcher
        self._mask = np.zeros((vocab_size + 31) // 32, np.int32)
        self._vocab_size = vocab_size

    @property
    def finished(self) -> bool:
        """Whether the answer is complete and nothing can follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    @property
    def accepting(self) -> bool:
        """Whether the answer would be complete if it ended here."""
        return self._matcher.is_accepting()

    def allow(self) -> NDArray[np.bool_]:
        """Return which tokens may come next, bool [vocab]; at least one.

        Raises EngineError `grammar_too_complex` when the grammar came to its limits.
        """
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        bits = np.unpackbits(self._mask.view(np.uint8), bitorder="little")
        allowed = bits[: self._vocab_size].view(np.bool_)
        if self._matcher.is_error() or not allowed.any():
            raise self._fail()
        return allowed

    def advance(self, token: int) -> None:
        """Take in a token that `allow` allowed."""
        if not self._matcher.consume_token(token):
            raise self._fail()

    def _fail(self) -> EngineError:
        why = _shorten(self._matcher.get_error()) or "no token can follow"
        return EngineError(
            f"the grammar came to its limits in the middle of the answer: {why}; simplify it",
            code="grammar_too_complex",
        )


class GrammarCompiler:
    """Grammars ready for one model's vocabulary; the last ones used are kept. Thread-safe."""

    def __init__(self, tokenizer: "Tokenizer", *, kept: int = KEPT_GRAMMARS) -> None:
        """Take nothing in yet: `prepare`, or else the first grammar, takes in the vocabulary."""
        self._tokenizer = tokenizer
        self._kept = kept
        self._native: LLTokenizer | None = None
        self._matchers: OrderedDict[Grammar, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Take in the vocabulary, so that the first grammar need not wait for it.

        With 150,000 tokens that takes more than a second, in which no other Python thread runs.
        """
        with self._lock:
            # A model that can't follow grammars says so where one is asked for.
            if self._native is None and self._tokenizer.eos_ids:
                self._native = _build_native(self._tokenizer)

    def open(self, grammar: Grammar, *, param: str = "response_format") -> GrammarState:
        """Return a state at the beginning of `grammar`.

        Raises InputError, naming `param`, when it can't be honoured: too large or too deep, not
        understood, or such that no text of this vocabulary follows it.
        """
        with self._lock:
            matcher = self._matchers.get(grammar) or self._compile(grammar, param=param)
            self._matchers[grammar] = matcher
            self._matchers.move_to_end(grammar)
            while len(self._matchers) > self._kept:
                self._matchers.popitem(last=False)
            return GrammarState(matcher.deep_copy(), vocab_size=self._tokenizer.vocab_size)

    def _compile(self, grammar: Grammar, *, param: str) -> LLMatcher:
        text = _translate(grammar, param=param)
        if self._native is None:
            self._native = _build_native(self._tokenizer)
        matcher = LLMatcher(self._native, text, log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise _refuse(grammar, matcher.get_error(), param=param)
        try:
            GrammarState(matcher.deep_copy(), vocab_size=self._tokenizer.vocab_size).allow()
        except EngineError:
            raise _refuse(grammar, "no text follows it", param=param) from None
        return matcher


def _translate(grammar: Grammar, *, param: str) -> str:
    """Return `grammar` in the words of `llguidance`, after bounding its size."""
    size = len(grammar.text.encode())
    if size > MAX_GRAMMAR_BYTES:
        raise InputError(
            f"the {_NAMES[grammar.kind]} has {size:,} bytes; at most {MAX_GRAMMAR_BYTES:,} are "
            "taken",
            param=param,
        )
    if grammar.kind == "regex":
        return LLMatcher.grammar_from_regex(grammar.text)
    if grammar.kind == "lark":
        return LLMatcher.grammar_from_lark(grammar.text)
    schema = _ANY_OBJECT if grammar.kind == "json_object" else grammar.text
    return LLMatcher.grammar_from_json_schema(
        load_schema(schema, param=param),
        overrides=_OPTIONS,
    )


_NAMES = {
    "json_schema": "JSON schema",
    "json_object": "JSON schema",
    "regex": "regular expression",
    "lark": "Lark grammar",
}


def _refuse(grammar: Grammar, why: str, *, param: str) -> InputError:
    return InputError(
        f"the {_NAMES[grammar.kind]} can't be honoured: {_shorten(why)}",
        code="grammar_refused",
        param=param,
    )


def _shorten(why: str) -> str:
    """Return the reason without positions in its own text, traces and the like."""
    return why.split("<backtrace>")[0].split("<non-verbose/>")[0].strip()[:500]


def _build_native(tokenizer: "Tokenizer") -> LLTokenizer:
    if not tokenizer.eos_ids:
        raise ModelError("the model has no token that ends an answer: it can't follow a grammar")
    return LLTokenizer(
        TokenizerWrapper(_Words(tokenizer)),
        n_vocab=tokenizer.vocab_size,
        eos_token=sorted(tokenizer.eos_ids),
    )


class _Words:
    """A tokenizer in the form that `llguidance` takes. Control tokens have no bytes."""

    bos_token_id = None

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = min(tokenizer.eos_ids)
        self.tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
        self.special_token_ids: list[int] = []

    def __call__(self, text: str) -> list[int]:
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError("text is taken, not bytes")
        return self._tokenizer.encode(text)
