import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as NativeTokenizer

from fluvial.errors import ModelError
from fluvial.model.pretokenizer import (
    DEEPSEEK3_REGEXES,
    DEEPSEEK_CODER_REGEXES,
    LLAMA3_REGEX,
    QWEN2_REGEX,
    QWEN35_REGEX,
)
from fluvial.model.tokenizer import Tokenizer
from tests.model.sample import TOKENS, make_metadata, make_tokenizer_json, write_folder

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
WORDS = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}


def split(regex: str) -> dict[str, Any]:
    pattern = {"Regex": regex}
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


def chain(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


FORMS: dict[str, dict[str, Any]] = {
    "gpt-2": {"pre_tokenizer": WORDS},
    "smollm": {"pre_tokenizer": chain(DIGITS, WORDS)},
    "qwen2": {"pre_tokenizer": chain(split(QWEN2_REGEX), BYTES), "normalizer": {"type": "NFC"}},
    "qwen35": {"pre_tokenizer": chain(split(QWEN35_REGEX), BYTES), "normalizer": {"type": "NFC"}},
    "llama-bpe": {"pre_tokenizer": chain(split(LLAMA3_REGEX), BYTES)},
    "deepseek-v3": {
        "pre_tokenizer": chain(*map(split, DEEPSEEK3_REGEXES), BYTES),
        "normalizer": {"type": "Sequence", "normalizers": []},
    },
    "deepseek-coder": {"pre_tokenizer": chain(*map(split, DEEPSEEK_CODER_REGEXES), DIGITS, BYTES)},
}


@pytest.mark.parametrize("pre", list(FORMS))
def test_folder_file_and_library_agree(pre: str, tmp_path: Path) -> None:
    table = make_tokenizer_json() | FORMS[pre]
    table["model"]["ignore_merges"] = pre == "llama-bpe"
    folder = Tokenizer.from_folder(write_folder(tmp_path, tokenizer=table))
    file = Tokenizer.from_gguf(make_metadata(pre=pre))
    library = NativeTokenizer.from_str(json.dumps(table))

    @given(st.text(st.sampled_from("theinr1l2 \n\r\té字'sE\u0301!_")) | st.text())
    @settings(suppress_health_check=list(HealthCheck))
    def check(text: str) -> None:
        assert folder.encode(text) == file.encode(text)
        assert folder.encode(text) == library.encode(text, add_special_tokens=False).ids

    check()
    assert folder.encode_marked("<|im_start|>a<tool_call>") == [1, TOKENS.index("a"), 3]
    assert folder.token_bytes(3) == b"<tool_call>"


def test_roles_and_ends_come_from_the_configs(tmp_path: Path) -> None:
    write_folder(tmp_path, config={"bos_token": "<|endoftext|>", "add_bos_token": True})
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 2]}')
    words = Tokenizer.from_folder(tmp_path)
    assert words.bos_id == 0
    assert words.adds_bos
    assert words.eos_ids == {0, 2, 7}


def test_ids_that_only_pad_the_embedding_have_no_text(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"vocab_size": 512}')
    words = Tokenizer.from_folder(tmp_path)
    assert words.vocab_size == 512
    assert words.decode([511, TOKENS.index("he")]) == "he"


def change(path: str, value: Any) -> dict[str, Any]:
    table = make_tokenizer_json()
    at: Any = table
    *parents, last = path.split("/")
    for key in parents:
        at = at[int(key) if key.isdigit() else key]
    at[last] = value
    return table


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("model", None, "'model' is missing"),
        ("model/type", "Unigram", "'Unigram'; supported is BPE"),
        ("model/byte_fallback", True, "supported are those of Gemma and Llama 2, and Metaspace"),
        ("model/dropout", 0.1, "dropout is set"),
        ("model/continuing_subword_prefix", "##", "continuing_subword_prefix is set"),
        ("model/vocab", ["a"], "'vocab' is missing or not an object"),
        ("model/vocab/the", -1, "not a number from 0"),
        ("model/vocab/the", 2**40, "not a number from 0"),
        ("model/vocab/the", "1", "not a number from 0"),
        ("model/vocab/the", True, "not a number from 0"),
        ("model/vocab/the", 9, "two tokens have the same id"),
        ("model/merges", {}, "'merges' is missing or not an array"),
        ("model/merges", ["a b c"], "not a merge of two tokens"),
        ("model/merges", [["a", 1]], "not a merge of two tokens"),
        ("model/merges", [["q", "q"]], "not an ordinary one"),
        ("added_tokens", None, "'added_tokens' is missing"),
        ("added_tokens/0/content", "", "lacks its content or id"),
        ("added_tokens/0/content", 3, "lacks its content or id"),
        ("added_tokens/0/id", "x", "not a number from 0"),
        ("added_tokens/0/lstrip", True, "has lstrip, which is unsupported"),
        ("normalizer", {"type": "NFKC"}, "normaliser is not supported"),
        ("normalizer", [], "step is not an object"),
        ("normalizer", {"type": "Sequence"}, "a Sequence without an array of normalizers"),
        ("pre_tokenizer", {"type": "Sequence", "pretokenizers": [3]}, "without an array"),
        ("pre_tokenizer", None, "pre-tokeniser or normaliser is not supported"),
        ("pre_tokenizer", WORDS | {"add_prefix_space": True}, "is not supported"),
        ("pre_tokenizer", chain(split(".*"), BYTES), "is not supported; .*smollm"),
        ("pre_tokenizer", chain(split(QWEN2_REGEX) | {"behavior": "Removed"}, BYTES), "supported"),
    ],
)
def test_damaged_tokenizer_files_are_refused(
    path: str, value: Any, reason: str, tmp_path: Path
) -> None:
    table = change(path, value)
    with pytest.raises(ModelError, match=reason):
        Tokenizer.from_folder(write_folder(tmp_path, tokenizer=table))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("tokenizer.json", b"{", "tokenizer.json is not valid JSON"),
        ("tokenizer.json", b"\xff\xfe{", "tokenizer.json is not valid JSON"),
        ("tokenizer.json", b"[" * 100_000, "tokenizer.json is not valid JSON"),
        ("tokenizer.json", b"[]", "does not hold a JSON object"),
        ("tokenizer_config.json", b"7", "does not hold a JSON object"),
        ("tokenizer_config.json", b'{"bos_token": 7}', "bos_token is not a string"),
        ("tokenizer_config.json", b'{"bos_token": "<s>"}', "'<s>' is not"),
        ("generation_config.json", b'{"eos_token_id": 9999}', "out of range"),
        ("generation_config.json", b'{"eos_token_id": "2"}', "out of range"),
        ("config.json", b'{"vocab_size": 1e30}', "vocab_size is 1e\\+30"),
        ("config.json", b'{"vocab_size": 99999999}', "vocab_size is 99999999"),
    ],
)
def test_damaged_folders_are_refused(
    name: str, content: bytes, reason: str, tmp_path: Path
) -> None:
    write_folder(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=reason):
        Tokenizer.from_folder(tmp_path)


def test_a_missing_or_huge_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.json can't be read: No such file"):
        Tokenizer.from_folder(tmp_path)
    write_folder(tmp_path)
    with (tmp_path / "tokenizer.json").open("r+b") as file:
        file.truncate(2**30)
    with pytest.raises(ModelError, match="over 67,108,864 bytes"):
        Tokenizer.from_folder(tmp_path)
