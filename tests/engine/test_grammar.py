"""Grammars: refused before generation where they can't be honoured, and then held to."""

import json
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluvial.engine import grammar
from fluvial.engine.answer import Answer
from fluvial.engine.grammar import GrammarCompiler, check
from fluvial.engine.schema import MAX_SCHEMA_DEPTH
from fluvial.errors import EngineError, InputError, ModelError
from fluvial.types import Grammar, GrammarKind, Sampling

EOS = 256


class Words:
    """Bytes, an end, and some longer tokens."""

    longer = (b'{"', b'": ', b'"}', b"true", b", ", b"\n  ")
    vocab_size = 257 + len(longer)
    eos_ids = frozenset({EOS})
    marks = {"<end>": EOS}

    def token_bytes(self, token: int) -> bytes:
        if token > EOS:
            return self.longer[token - EOS - 1]
        return bytes([token]) if token < EOS else b""

    def encode(self, text: str) -> list[int]:
        return list(text.encode())


WORDS: Any = Words()
COMPILER = GrammarCompiler(WORDS)


def ask(kind: GrammarKind, text: Any = "") -> Grammar:
    return Grammar(kind=kind, text=text if isinstance(text, str) else json.dumps(text))


def follow(asked: Grammar, text: str) -> bool:
    """Tell whether the text, byte by byte, is a whole answer."""
    state = COMPILER.open(asked)
    for byte in text.encode():
        if not state.allow()[byte]:
            return False
        state.advance(byte)
    return state.accepting


def write(asked: Grammar, *, seed: int, limit_tokens: int = 400) -> tuple[str, str | None]:
    """Write an answer from random logits."""
    sampling = Sampling(temperature=1.0, top_p=1.0, seed=seed, grammar=asked)
    answer = Answer(
        sampling,
        tokenizer=WORDS,
        vocab_size=WORDS.vocab_size,
        prompt=[],
        limit_tokens=limit_tokens,
        grammar=COMPILER.open(asked),
    )
    noise = np.random.default_rng(seed)
    text, finish = "", None
    while finish is None:
        logits = noise.normal(0, 1, WORDS.vocab_size).astype(np.float32)
        logits[ord('"')] += 4  # so that strings end
        piece = answer.take(logits)
        text, finish = text + piece.text, piece.finish
    return text, finish


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["é", "字", None]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["name", "age", "kind", "tags"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("seed", range(20))
def test_what_is_written_under_a_schema_follows_it(seed: int) -> None:
    text, finish = write(ask("json_schema", PERSON), seed=seed)
    assert finish == "stop"
    value = json.loads(text)
    assert list(value) == ["name", "age", "kind", "tags"]
    assert len(value["name"]) <= 8
    assert 0 <= value["age"] <= 150
    assert value["kind"] in PERSON["properties"]["kind"]["enum"]
    assert len(value["tags"]) <= 3


def test_an_answer_that_is_cut_says_so() -> None:
    text, finish = write(ask("json_schema", PERSON), seed=0, limit_tokens=5)
    assert finish == "length"
    with pytest.raises(ValueError):
        json.loads(text)


def test_json_object_is_an_object_and_nothing_else() -> None:
    asked = ask("json_object")
    assert follow(asked, '{"a": [1, {"b": null}], "c": "\\n"}')
    assert follow(asked, '{\n  "a": 1\n}')
    for text in ("[1]", '"a"', "null", "1", "text", '{"a": 1', "{'a': 1}", '{"a": 1,}'):
        assert not follow(asked, text), text


def test_white_space_in_json_has_an_end() -> None:
    asked = ask("json_object")
    assert follow(asked, '{"a":\n' + " " * 32 + "1}")
    assert not follow(asked, '{"a":\n' + " " * 33 + "1}")
    assert not follow(asked, '{"a":\n\n1}')


def test_a_regex_holds_for_the_whole_answer() -> None:
    asked = ask("regex", r"(yes|no)( é{1,2})?")
    for text, fits in [("yes", True), ("no éé", True), ("no ééé", False), ("maybe", False)]:
        assert follow(asked, text) is fits
    assert not follow(asked, "ye")
    assert not follow(asked, "")


def test_a_lark_grammar_may_nest() -> None:
    asked = ask("lark", 'start: pair\npair: "(" pair? ")"')
    assert follow(asked, "((()))")
    assert not follow(asked, "(()")
    text, finish = write(asked, seed=1)
    assert finish == "stop"
    assert text == "(" * (len(text) // 2) + ")" * (len(text) // 2)


def test_control_tokens_are_never_allowed_but_the_end_is_when_it_may_come() -> None:
    state = COMPILER.open(ask("regex", "ab?"))
    assert not state.allow()[EOS]
    assert not state.accepting
    state.advance(ord("a"))
    assert sorted(np.flatnonzero(state.allow()).tolist()) == [ord("b"), EOS]
    assert state.accepting
    assert not state.finished
    state.advance(ord("b"))
    assert state.finished


def test_a_token_that_is_not_allowed_is_an_error() -> None:
    state = COMPILER.open(ask("regex", "ab"))
    with pytest.raises(EngineError) as caught:
        state.advance(ord("x"))
    assert caught.value.code == "grammar_too_complex"
    assert not state.finished


REFUSED: list[tuple[GrammarKind, Any, str]] = [
    ("json_schema", {"not": {"type": "string"}}, "not"),
    ("json_schema", {"type": "wibble"}, "wibble"),
    ("json_schema", {"$ref": "http://example.com/x"}, "example.com"),
    ("json_schema", {"$ref": "#/$defs/missing"}, "missing"),
    ("json_schema", {"anyOf": []}, "anyOf"),
    ("json_schema", {"type": "object", "properties": {"a": False}, "required": ["a"]}, "a"),
    ("json_schema", {"type": "string", "pattern": "(?=a)b"}, "look"),
    ("json_schema", {"type": "string", "format": "nonsense"}, "format"),
    ("json_schema", {"type": "integer", "minimum": 3, "maximum": 2}, "minimum"),
    ("json_schema", [], "object"),
    ("json_schema", "{", "not JSON"),
    ("json_schema", "false", "object"),
    ("json_schema", {"uniqueItems": True, "type": "array"}, "uniqueItems"),
    ("regex", "a(", "unclosed"),
    ("regex", "(?=a)b", "look-around"),
    ("regex", r"(a)\1", "backreference"),
    ("lark", "start: missing", "missing"),
    ("lark", "nothing", ""),
    ("lark", 'start: "a" %json {"type": "wibble"}', "wibble"),
]


@pytest.mark.parametrize(("kind", "text", "reason"), REFUSED)
def test_what_can_not_be_honoured_is_refused_with_the_reason(
    kind: GrammarKind, text: Any, reason: str
) -> None:
    with pytest.raises(InputError, match="(?i)" + reason) as caught:
        check(ask(kind, text), param="here")
    assert caught.value.param == "here"
    with pytest.raises(InputError, match="(?i)" + reason) as caught:
        COMPILER.open(ask(kind, text))
    assert caught.value.param == "response_format"


@pytest.mark.parametrize(
    "asked",
    [
        ask("json_schema", {"$ref": "#"}),
        ask("lark", "start: a\na: a"),
        ask("regex", "[^\\x00-\\x{10FFFF}]"),
    ],
)
def test_a_grammar_that_no_text_follows_is_refused(asked: Grammar) -> None:
    with pytest.raises(InputError, match="can't be honoured"):
        COMPILER.open(asked)


def nest(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def test_depth_and_size_are_bounded() -> None:
    check(ask("json_schema", nest(MAX_SCHEMA_DEPTH - 1)))
    with pytest.raises(InputError, match="deeper than 32"):
        check(ask("json_schema", nest(MAX_SCHEMA_DEPTH)))
    with pytest.raises(InputError, match="not JSON|deeper"):
        check(ask("json_schema", '{"a":' * 100_00 + "1" + "}" * 100_00))
    for kind in ("regex", "lark", "json_schema"):
        with pytest.raises(InputError, match="65,536"):
            check(ask(kind, "é" * (grammar.MAX_GRAMMAR_BYTES // 2 + 1)))


HEAVY = [
    ask("regex", r"(.*a){200}b"),
    ask("regex", r"((a{0,1000}){0,1000}){0,1000}"),
    ask("regex", r"(x.{0,30}y|z.{10,400}w|.*q.{100}){0,99}"),
    ask("regex", r"[ab]*a[ab]{60}c"),
    ask("regex", "|".join(f"{n:06}.*{n}" for n in range(3000))),
    ask("lark", 'start: a\na: a a | "x" a | "x"'),
    ask("lark", 'start: a a a a a a a\na: b* b* b*\nb: "x"* "xx"* "xxx"*'),
    ask("lark", "start: " + " | ".join(f'"{"x" * n}"' for n in range(1, 300))),
    ask("json_schema", {"type": "array", "minItems": 3000, "items": nest(20)}),
    ask("json_schema", {"type": "string", "minLength": 10**6}),
    ask("json_schema", {"type": "string", "pattern": "^(a|b)*a(a|b){40}$"}),
    ask("json_schema", {"enum": [str(n) * 2 for n in range(4000)]}),
    ask(
        "json_schema",
        {
            "allOf": [
                {"anyOf": [{"properties": {f"a{i}{j}": {}}} for j in range(4)]} for i in range(9)
            ]
        },
    ),
]


@pytest.mark.parametrize("asked", HEAVY, ids=range(len(HEAVY)))
def test_heavy_grammars_are_refused_or_followed_but_never_hang(asked: Grammar) -> None:
    code = None
    text, finish = "", None
    try:
        text, finish = write(asked, seed=3, limit_tokens=60)
    except (InputError, EngineError) as error:
        code = error.code
    assert code in (None, "grammar_refused", "grammar_too_complex")
    assert code or (text and finish in ("stop", "length"))


@given(st.text(max_size=60), st.sampled_from(["regex", "lark", "json_schema"]))
@settings(deadline=None, max_examples=150)
def test_any_text_is_a_grammar_or_refused(text: str, kind: GrammarKind) -> None:
    try:
        state = COMPILER.open(ask(kind, text))
    except InputError:
        return
    assert state.allow().any()


schemas = st.recursive(
    st.sampled_from([{"type": kind} for kind in ("string", "integer", "boolean", "null")])
    | st.sampled_from(
        [{"enum": [1, "a"]}, {"type": "string", "maxLength": 3}, {"const": {"a": 1}}]
    ),
    lambda inner: (
        st.builds(lambda item: {"type": "array", "items": item, "maxItems": 2}, inner)
        | st.builds(
            lambda table: {
                "type": "object",
                "properties": table,
                "required": list(table),
                "additionalProperties": False,
            },
            st.dictionaries(st.text('ab"\\é', max_size=3), inner, max_size=3),
        )
        | st.builds(lambda some: {"anyOf": some}, st.lists(inner, min_size=1, max_size=3))
    ),
    max_leaves=6,
)


@given(schemas, st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_any_schema_gives_json_that_it_accepts(schema: dict[str, Any], seed: int) -> None:
    text, finish = write(ask("json_schema", schema), seed=seed, limit_tokens=3000)
    if finish == "stop":
        assert accepts(schema, json.loads(text)), text


def accepts(schema: dict[str, Any], value: Any) -> bool:
    """Validate, as far as `schemas` goes."""
    if "anyOf" in schema:
        return any(accepts(each, value) for each in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    if "const" in schema:
        return value == schema["const"]
    kinds: dict[str, Any] = {
        "string": str,
        "integer": int,
        "boolean": bool,
        "null": type(None),
        "array": list,
        "object": dict,
    }
    if not isinstance(value, kinds[schema["type"]]):
        return False
    if isinstance(value, list):
        return len(value) <= 2 and all(accepts(schema["items"], each) for each in value)
    if isinstance(value, dict):
        table = schema["properties"]
        return value.keys() == table.keys() and all(accepts(table[k], v) for k, v in value.items())
    return not isinstance(value, str) or len(value) <= schema.get("maxLength", 10**9)


def test_states_of_one_grammar_do_not_share_their_place() -> None:
    one, two = (COMPILER.open(ask("regex", "abc")) for _ in range(2))
    one.advance(ord("a"))
    assert one.allow()[ord("b")]
    assert two.allow()[ord("a")]
    assert not two.allow()[ord("b")]


def test_only_the_last_grammars_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = GrammarCompiler(WORDS, kept=2)
    compiled: list[str] = []
    compile_one = compiler._compile

    def record(asked: Grammar, *, param: str) -> Any:
        compiled.append(asked.text)
        return compile_one(asked, param=param)

    monkeypatch.setattr(compiler, "_compile", record)
    for text in ("a", "b", "a", "c", "a", "b"):
        compiler.open(ask("regex", text))
    assert compiled == ["a", "b", "c", "b"]
    assert len(compiler._matchers) == 2


def test_threads_share_a_compiler() -> None:
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(10):
                state = COMPILER.open(ask("regex", f"a{number % 3}b{turn % 2}"))
                for byte in f"a{number % 3}b{turn % 2}".encode():
                    assert state.allow()[byte]
                    state.advance(byte)
                assert state.finished
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_a_model_without_an_end_can_not_follow_a_grammar() -> None:
    words: Any = type("Endless", (Words,), {"eos_ids": frozenset()})()
    with pytest.raises(ModelError, match="ends an answer"):
        GrammarCompiler(words).open(ask("regex", "a"))
