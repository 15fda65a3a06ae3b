from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluvial.errors import InputError, ModelError
from fluvial.model import gguf, segment
from fluvial.model.tokenizer import Tokenizer
from tests.model.corpus import make_lines
from tests.model.sample import CONTROLS, KINDS, MERGES, TOKENS, USERS, make_metadata

EXACT = [
    Tokenizer.from_gguf(make_metadata(pre=pre))
    for pre in ("gpt-2", "smollm", "llama-bpe", "lfm2", "deepseek-v3", "deepseek-coder")
]
QWEN = Tokenizer.from_gguf(make_metadata(pre="qwen2"))
SPECIAL_IDS = {TOKENS.index(token) for token in (*CONTROLS, *USERS)}
FRAGMENTS = st.sampled_from(
    [
        *CONTROLS,
        *USERS,
        "<|",
        "|>",
        "im_end",
        "im_",
        "end|>",
        "<",
        ">",
        "tool_call",
        " ",
        "\n",
        "the",
    ]
)
# What pre-tokenisers look at: letters, digits, marks, both kinds of white space, contractions.
TRICKY = st.text(
    st.sampled_from("aZé字。!<_'s1٣ \n\r\t\x1c\x85\u00a0\u3000\u0301\u200b"), max_size=60
)


def spell(ids: list[int], words: Tokenizer) -> bytes:
    return b"".join(words.token_bytes(i) for i in ids)


def test_merges_are_applied_in_order_within_words() -> None:
    ids = EXACT[0].encode("the the in")
    assert [TOKENS[i] for i in ids] == ["t", "he", "Ġthe", "Ġ", "in"]


def test_each_pre_tokeniser_cuts_as_its_family_does() -> None:
    gpt2, smollm, llama, _, deepseek, coder = EXACT
    pieces = {words: [TOKENS[i] for i in words.encode("a  12\n\n!")] for words in (*EXACT, QWEN)}
    assert pieces[gpt2] == ["a", "Ġ", "Ġ", "12", "Ċ", "Ċ", "!"]
    assert pieces[smollm] == ["a", "ĠĠ", "1", "2", "Ċ", "Ċ", "!"]
    assert pieces[llama] == ["a", "Ġ", "Ġ", "12", "ĊĊ", "!"]
    assert pieces[deepseek] == ["a", "ĠĠ", "12", "ĊĊ", "!"]
    assert pieces[coder] == ["a", "ĠĠ", "1", "2", "Ċ", "Ċ", "!"]
    assert pieces[QWEN] == ["a", "Ġ", "Ġ", "1", "2", "ĊĊ", "!"]


def test_qwen2_composes_characters_first() -> None:
    assert QWEN.encode("e\u0301") == QWEN.encode("\u00e9")
    assert EXACT[0].encode("e\u0301") != EXACT[0].encode("\u00e9")


@given(st.text(), st.sampled_from(EXACT))
def test_text_comes_back_byte_for_byte(text: str, words: Tokenizer) -> None:
    ids = words.encode(text)
    assert spell(ids, words) == text.encode()
    assert words.decode(ids) == text
    assert words.count(text) == len(ids)


@given(st.lists(FRAGMENTS).map("".join), st.sampled_from([*EXACT, QWEN]))
def test_plain_text_never_becomes_a_special_token(text: str, words: Tokenizer) -> None:
    ids = words.encode(text)
    assert not SPECIAL_IDS & set(ids)
    assert words.decode(ids) == text


@given(st.lists(FRAGMENTS).map("".join))
def test_shielded_text_encodes_as_plain_text(text: str) -> None:
    words = EXACT[0]
    start, end = TOKENS.index("<|im_start|>"), TOKENS.index("<|im_end|>")
    marked = words.encode_marked("<|im_start|>" + words.shield(text) + "<|im_end|>")
    assert marked == [start, *words.encode(text), end]


def test_marked_text_prefers_the_longest_special_token() -> None:
    tokens = [*TOKENS[:-1], "<|im_end|>s"]
    kinds = np.array([*KINDS[:-1], 3])
    words = Tokenizer.from_gguf(make_metadata(tokens=tokens, token_type=kinds))
    assert words.encode_marked("<|im_end|>s") == [len(tokens) - 1]
    assert words.encode_marked("<|im_end|>")[0] == TOKENS.index("<|im_end|>")


def test_shielding_is_invisible_when_nothing_is_special() -> None:
    assert EXACT[0].shield("ordinary text, 字") == "ordinary text, 字"


@given(TRICKY, st.sampled_from([*EXACT, QWEN]))
@settings(max_examples=400)
def test_long_texts_are_cut_only_where_words_end(text: str, words: Tokenizer) -> None:
    whole = words.encode(text)
    with mock.patch.object(segment, "SEGMENT_CHARS", 1):
        assert words.encode(text) == whole
        assert words.count(text) == len(whole)


def test_text_without_a_place_to_cut_is_still_exact_in_bytes() -> None:
    with (
        mock.patch.object(segment, "SEGMENT_CHARS", 4),
        mock.patch.object(segment, "MAX_SEGMENT_CHARS", 8),
    ):
        assert EXACT[0].decode(EXACT[0].encode("字" * 100)) == "字" * 100


@pytest.mark.parametrize("unit", ["a", " ", "<|im_end|>"])
@pytest.mark.parametrize("words", [EXACT[0], QWEN], ids=["gpt-2", "qwen2"])
def test_a_megabyte_of_one_thing_is_encoded(unit: str, words: Tokenizer) -> None:
    text = unit * (2**20 // len(unit.encode()))
    ids = words.encode(text)
    assert len(words.decode(ids)) >= len(text) // 2


@pytest.mark.parametrize("call", ["encode", "count", "shield", "encode_marked"])
def test_lone_surrogates_are_refused(call: str) -> None:
    with pytest.raises(InputError, match="lone surrogate.*character 2"):
        getattr(EXACT[0], call)("ab\ud800")


def test_token_bytes_of_special_and_unused_tokens() -> None:
    words = EXACT[0]
    assert words.token_bytes(TOKENS.index("<|im_end|>")) == b""
    assert words.token_bytes(TOKENS.index("[unused 0]")) == b""
    assert words.token_bytes(TOKENS.index("<tool_call>")) == b"<tool_call>"
    assert words.token_bytes(TOKENS.index("Ġthe")) == b" the"
    assert words.decode([1, TOKENS.index("he"), 2]) == "he"


def test_broken_characters_decode_to_replacements() -> None:
    ids = EXACT[0].encode("字")
    assert EXACT[0].decode(ids[:1]) == "\ufffd"


@pytest.mark.parametrize("token_id", [-1, len(TOKENS), 2**40])
def test_ids_outside_the_vocabulary_are_refused(token_id: int) -> None:
    with pytest.raises(InputError, match=f"go from 0 to {len(TOKENS) - 1}"):
        EXACT[0].token_bytes(token_id)


def test_every_token_that_ends_a_turn_is_known() -> None:
    words = Tokenizer.from_gguf(make_metadata(eos_token_id=5, eot_token_id=6))
    assert words.eos_ids == {0, 2, 5, 6}
    ends = make_metadata(token_type=None, eos_token_id=5, bos_token_id=6)
    assert Tokenizer.from_gguf(ends).eos_ids == {5}


def test_bos_is_wanted_as_the_file_or_the_family_says() -> None:
    assert not EXACT[0].adds_bos
    assert EXACT[2].adds_bos
    assert EXACT[0].bos_id == 0
    assert Tokenizer.from_gguf(make_metadata(add_bos_token=True)).adds_bos
    assert not Tokenizer.from_gguf(make_metadata(pre="llama-bpe", add_bos_token=False)).adds_bos


def test_bytes_a_vocabulary_lacks_are_left_out_and_named() -> None:
    kinds = np.array(KINDS)
    kinds[TOKENS.index("Ą")] = 5
    words = Tokenizer.from_gguf(make_metadata(token_type=kinds))
    assert words.missing_bytes == {4}
    assert words.decode(words.encode("a\x04b")) == "ab"
    assert EXACT[0].missing_bytes == frozenset()


def swap(index: int, token: Any) -> list[Any]:
    return [*TOKENS[:index], token, *TOKENS[index + 1 :]]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": None}, "'None' is not supported; supported are: gpt2"),
        ({"model": "t5"}, "'t5' is not supported; supported are: gpt2 .* llama"),
        ({"add_bos_token": 1}, "add_bos_token is '?1'?; it must be true or false"),
        ({"pre": None}, "pre is missing"),
        ({"pre": "viking"}, "'viking' is not supported; supported are: .*qwen2"),
        ({"pre": 7}, "pre is missing"),
        ({"tokens": None}, "tokens is missing or not an array of strings"),
        ({"tokens": "abc"}, "tokens is missing or not an array of strings"),
        ({"tokens": np.arange(9)}, "tokens is missing or not an array of strings"),
        ({"tokens": [], "token_type": None, "bos_token_id": None, "eos_token_id": None}, "empty"),
        ({"tokens": swap(7, 7)}, "not strings"),
        ({"tokens": swap(7, b"a")}, "not strings"),
        ({"tokens": swap(TOKENS.index("a"), "\u4e00")}, "lacks tokens for.*'a'"),
        ({"tokens": swap(270, TOKENS[8])}, "twice"),
        ({"tokens": swap(270, "")}, "empty token"),
        ({"tokens": swap(270, "x" * 5000)}, "5,000 characters long; at most 1,024"),
        ({"tokens": swap(270, "\ud800")}, "not valid Unicode"),
        ({"tokens": swap(0, " <|endoftext|>")}, "white space"),
        ({"tokens": swap(0, "<" * 200)}, "special token.* is 200 characters long; at most 128"),
        ({"tokens": ["a"] * (2**20 + 1)}, "at most 1,048,576"),
        ({"token_type": np.array(KINDS[1:])}, "one integer for each"),
        ({"token_type": np.array(KINDS, np.float32)}, "one integer for each"),
        ({"token_type": "3"}, "one integer for each"),
        ({"token_type": np.array((9, *KINDS[1:]))}, "holds 9; the known types"),
        ({"merges": None}, "merges is missing"),
        ({"merges": [*MERGES, "x"]}, "the merge 'x' \\+ ''"),
        ({"merges": [*MERGES, ""]}, "the merge '' \\+ ''"),
        ({"merges": [*MERGES, "q q"]}, "makes a token that is not an ordinary one"),
        ({"merges": [*MERGES, "< |im_end|>"]}, "not an ordinary one"),
        ({"merges": [3]}, "not strings"),
        ({"eos_token_id": len(TOKENS)}, "eos_token_id is 273; ids go from 0 to 272"),
        ({"eos_token_id": -1}, "eos_token_id is -1"),
        ({"bos_token_id": "0"}, "bos_token_id is 0"),
        ({"bos_token_id": True}, "bos_token_id is True"),
        ({"padding_token_id": 2**32 - 1}, "padding_token_id is 4294967295"),
    ],
)
def test_damaged_metadata_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        Tokenizer.from_gguf(make_metadata(**changes))


def test_a_merge_that_would_spell_a_special_token_is_refused() -> None:
    tokens = [*TOKENS[:-1], "<|"]
    kinds = np.array([*KINDS[:-1], 3])
    with pytest.raises(ModelError, match="not an ordinary one"):
        Tokenizer.from_gguf(make_metadata(tokens=tokens, token_type=kinds, merges=["< |"]))


def test_whole_words_of_llama_never_spell_a_special_token() -> None:
    tokens = [*TOKENS[:-1], "hello"]
    for kind, found in ((1, True), (3, False)):
        kinds = np.array([*KINDS[:-1], kind])
        words = Tokenizer.from_gguf(make_metadata(pre="llama-bpe", tokens=tokens, token_type=kinds))
        assert (len(tokens) - 1 in words.encode("hello")) is found


@pytest.mark.model
def test_ids_equal_transformers_for_the_small_model(small_model_path: Path) -> None:
    from tests.model.oracle import build_smollm

    compare(small_model_path, build_smollm)


@pytest.mark.slow
def test_ids_equal_transformers_for_the_default_model(default_model_path: Path) -> None:
    from tests.model.oracle import build_qwen2

    compare(default_model_path, build_qwen2)


def compare(path: Path, build: Any) -> None:
    metadata = gguf.read(path).metadata
    words, oracle = Tokenizer.from_gguf(metadata), build(metadata)
    lines = make_lines(5000)
    assert len(lines) == 5000
    for line in lines:
        expected = oracle(line, add_special_tokens=False)["input_ids"]
        assert words.encode(line) == expected, repr(line)
        skipped = oracle.decode(
            expected, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert words.decode(expected) == skipped, repr(line)
    whole = "\n".join(lines)
    assert words.encode(whole) == oracle(whole, add_special_tokens=False)["input_ids"]
