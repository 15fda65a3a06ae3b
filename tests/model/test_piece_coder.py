"""SentencePiece's BPE, against `tokenizers`, `transformers`' conversion, and llama.cpp."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import gguf as writing
import httpx2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as NativeTokenizer

from fluvial.errors import ModelError
from fluvial.model import gguf, piece_coder, segment
from fluvial.model.opening import choose_first_token
from fluvial.model.piece_coder import list_merges
from fluvial.model.tokenizer import Tokenizer
from tests.model.corpus import make_lines
from tests.model.piece_sample import (
    CONTROLS,
    FIRST_PIECE,
    USERS,
    list_pieces,
    list_tokens,
    make_piece_json,
    make_pieces,
    write_piece_folder,
)

TOKENS = list_tokens()
GEMMA = Tokenizer.from_gguf(make_pieces())
LLAMA = Tokenizer.from_gguf(make_pieces(add_space_prefix=True))
METASPACE = {"type": "Metaspace", "replacement": "\u2581"}
PREFIXES = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": "\u2581"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
    ],
}
FORMS: dict[str, dict[str, Any]] = {
    "gemma": {},
    "no idle step": {"pre_tokenizer": None},
    "llama-2": {"pre_tokenizer": None, "normalizer": PREFIXES},
    **{
        f"metaspace {scheme} {split}": {
            "normalizer": None,
            "pre_tokenizer": METASPACE | {"prepend_scheme": scheme, "split": split},
        }
        for scheme in ("always", "first", "never")
        for split in (True, False)
    },
}
# What this kind of tokenizer looks at: white space, what stands for it, tags, missing characters.
TRICKY = st.lists(
    st.sampled_from(
        [
            *USERS,
            *CONTROLS,
            " ",
            "a",
            "the",
            "in",
            "<0x0A>",
            "<",
            ">",
            "字",
            "\u2581",
            "𝔘",
            "😀",
            "𒀀",
        ]
    ),
    max_size=12,
).map("".join) | st.text(max_size=30)


def test_spaces_tags_bytes_and_runs_are_written_as_sentencepiece_does() -> None:
    pieces = [TOKENS[i] for i in GEMMA.encode("a  <table>\n\n\n\n𒀀")]
    bytes_ = ["<0xF0>", "<0x92>", "<0x80>", "<0x80>"]
    assert pieces == ["a", "  ", "<table>", "\n\n\n", "\n", *bytes_]
    assert TOKENS[LLAMA.encode("a")[0]].startswith("\u2581")


@given(TRICKY)
@settings(max_examples=400)
def test_text_comes_back_byte_for_byte(text: str) -> None:
    expected = text.replace("\u2581", " ")
    ids = GEMMA.encode(text)
    assert GEMMA.decode(ids) == expected
    assert b"".join(map(GEMMA.token_bytes, ids)) == expected.encode()
    assert GEMMA.count(text) == len(ids)


@given(st.text(st.sampled_from("the in<>字𒀀1.")).filter(lambda text: "  " not in text))
def test_the_space_that_is_put_before_a_text_is_taken_away_again(text: str) -> None:
    ids = LLAMA.encode(text)
    assert LLAMA.decode(ids) == text
    assert b"".join(map(LLAMA.token_bytes, ids)) == (f" {text}".encode() if text else b"")


@given(TRICKY, st.sampled_from([GEMMA, LLAMA]))
def test_plain_text_never_becomes_what_only_templates_write(text: str, words: Tokenizer) -> None:
    forbidden = {TOKENS.index(token) for token in (*CONTROLS, "<tool_call>")}
    assert not forbidden & set(words.encode(text))
    start, end = TOKENS.index("<start_of_turn>"), TOKENS.index("<end_of_turn>")
    marked = words.encode_marked("<start_of_turn>" + words.shield(text) + "<end_of_turn>")
    assert marked == [start, *words.encode(text), end]


def test_a_byte_token_is_its_byte_and_text_that_looks_like_one_is_not() -> None:
    assert GEMMA.token_bytes(TOKENS.index("<0x0A>")) == b"\n"
    assert GEMMA.token_bytes(TOKENS.index("<0xFF>")) == b"\xff"
    assert GEMMA.decode(GEMMA.encode("<0x0A>")) == "<0x0A>"
    assert GEMMA.token_bytes(TOKENS.index("<end_of_turn>")) == b""
    assert GEMMA.token_bytes(TOKENS.index("<tool_call>")) == b"<tool_call>"
    assert GEMMA.missing_bytes == frozenset()


def test_characters_split_over_byte_tokens_come_back_whole() -> None:
    ids = GEMMA.encode("𒀀")
    assert len(ids) == 4
    assert GEMMA.decode(ids[:3]) == "\ufffd"
    assert GEMMA.decode(ids) == "𒀀"


@given(TRICKY)
@settings(max_examples=400)
def test_long_texts_are_cut_only_where_pieces_end(text: str) -> None:
    for words in (GEMMA, LLAMA):
        whole = words.encode(text)
        with mock.patch.object(segment, "SEGMENT_CHARS", 1):
            assert words.encode(text) == whole


def test_a_piece_that_reaches_over_a_space_is_never_cut() -> None:
    piece, metadata = ">\u2581<", make_pieces()
    scores = np.append(metadata["tokenizer.ggml.scores"], np.float32(1e4))
    kinds = np.append(metadata["tokenizer.ggml.token_type"], 1)
    words = Tokenizer.from_gguf(
        make_pieces(tokens=[*TOKENS, piece], scores=scores, token_type=kinds)
    )
    with mock.patch.object(segment, "SEGMENT_CHARS", 1):
        assert len(TOKENS) in words.encode("a> <b")


@pytest.mark.parametrize("form", list(FORMS))
def test_a_folder_gives_the_ids_of_the_library(form: str, tmp_path: Path) -> None:
    table = make_piece_json(**FORMS[form])
    words = Tokenizer.from_folder(write_piece_folder(tmp_path, tokenizer=table))
    # The library also finds in ordinary text what we leave to templates: it must not be told.
    ours = {*CONTROLS, "<tool_call>"}
    added = [entry for entry in table["added_tokens"] if entry["content"] not in ours]
    library = NativeTokenizer.from_str(json.dumps(table | {"added_tokens": added}))

    @given(TRICKY)
    @settings(suppress_health_check=list(HealthCheck), max_examples=60)
    def check(text: str) -> None:
        assert words.encode(text) == library.encode(text, add_special_tokens=False).ids

    check()
    for line in make_lines(120):
        assert words.encode(line) == library.encode(line, add_special_tokens=False).ids


def test_file_and_folder_agree(tmp_path: Path) -> None:
    folder = Tokenizer.from_folder(write_piece_folder(tmp_path, tokenizer=make_piece_json()))
    for line in make_lines(600, seed=7):
        assert GEMMA.encode(line) == folder.encode(line)
    assert GEMMA.encode_marked("<bos><start_of_turn>a") == folder.encode_marked(
        "<bos><start_of_turn>a"
    )


def test_roles_of_the_file() -> None:
    assert GEMMA.adds_bos
    assert GEMMA.bos_id == 2
    assert GEMMA.eos_ids == {1, TOKENS.index("<end_of_turn>")}
    assert choose_first_token(GEMMA) == 2
    assert Tokenizer.from_gguf(make_pieces(add_bos_token=None)).adds_bos
    assert not Tokenizer.from_gguf(make_pieces(add_bos_token=False)).adds_bos


def test_bos_comes_from_the_post_processor_when_no_config_says(tmp_path: Path) -> None:
    single = [{"SpecialToken": {"id": "<bos>"}}, {"Sequence": {"id": "A"}}]
    step = {"type": "TemplateProcessing", "single": single}
    for processor in (step, {"type": "Sequence", "processors": [{"type": "ByteLevel"}, step]}):
        table = make_piece_json(post_processor=processor)
        assert Tokenizer.from_folder(write_piece_folder(tmp_path, tokenizer=table)).adds_bos
    step["single"] = single[1:]
    table = make_piece_json(post_processor=step)
    assert not Tokenizer.from_folder(write_piece_folder(tmp_path, tokenizer=table)).adds_bos


def test_merges_follow_scores_and_the_longer_left_part_goes_first() -> None:
    pieces = {"a": 0, "b": 1, "ab": 2, "ba": 3, "aba": 4, "x": 5}
    scores = np.array([0, 0, -2, -1, -3, 0], np.float32)
    assert list_merges(pieces, scores=scores) == [
        ("b", "a"),
        ("a", "b"),
        ("ab", "a"),
        ("a", "ba"),
    ]


def test_pieces_that_can_be_made_in_too_many_ways_are_refused_before_they_are_listed() -> None:
    pieces = {f"{number:b}": number for number in range(1, 2**12)} | {"0": 0}
    pieces |= {f"0{token}": 2**13 + i for token, i in pieces.items()}
    scores = -np.arange(2**14, dtype=np.float32)
    with (
        mock.patch.object(piece_coder, "MAX_MERGES", 1000),
        pytest.raises(ModelError, match="in over 1,000 ways"),
    ):
        list_merges(pieces, scores=scores)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"scores": None}, "scores must hold one float for each"),
        ({"scores": np.zeros(3, np.float32)}, "scores must hold one float for each"),
        ({"scores": [0.0] * len(TOKENS)}, "twice or something that is no number"),
        ({"scores": np.zeros(len(TOKENS), np.float32)}, "twice or something that is no number"),
        ({"scores": np.full(len(TOKENS), np.nan, np.float32)}, "something that is no number"),
        ({"scores": np.zeros(len(TOKENS), np.int32)}, "scores must hold one float for each"),
        ({"scores": "x"}, "scores must hold one float for each"),
        ({"add_space_prefix": "yes"}, "add_space_prefix is '?yes'?; it must be true or false"),
        ({"tokens": [*TOKENS[:6], "<0x>", *TOKENS[7:]]}, "has 256 byte tokens; .* needs the 256"),
        ({"tokens": [*TOKENS[:-1], "x" * 200]}, "the pieces are too long: at most 128"),
    ],
)
def test_damaged_files_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        Tokenizer.from_gguf(make_pieces(**changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"normalizer": {"type": "NFKC"}}, "supported are those of Gemma and Llama 2, and Metasp"),
        ({"pre_tokenizer": {"type": "ByteLevel"}}, "supported are those of Gemma"),
        ({"normalizer": None, "pre_tokenizer": METASPACE}, "this Metaspace is not supported"),
        (
            {
                "normalizer": None,
                "pre_tokenizer": METASPACE | {"prepend_scheme": "never", "split": 3},
            },
            "Metaspace has split 3",
        ),
        (
            {
                "normalizer": None,
                "pre_tokenizer": {
                    "type": "Metaspace",
                    "replacement": "_",
                    "prepend_scheme": "never",
                },
            },
            "this Metaspace is not supported",
        ),
    ],
)
def test_folders_of_another_form_are_refused(
    changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    table = make_piece_json(**changes)
    with pytest.raises(ModelError, match=reason):
        Tokenizer.from_folder(write_piece_folder(tmp_path, tokenizer=table))


class Peer:
    """llama.cpp's tokenizer, over the HTTP interface of its server."""

    def __init__(self, path: Path) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = 64
        params.warmup = False
        params.fit_params = False
        params.cpuparams.n_threads = 1
        params.verbosity = -1
        self._server = xllamacpp.Server(params)
        self._client = httpx2.Client(base_url=self._server.listening_address)

    def encode(self, text: str) -> list[int]:
        body = json.dumps({"content": text, "add_special": False, "parse_special": False})
        reply = self._client.post("/tokenize", content=body)
        return reply.raise_for_status().json()["tokens"]

    def close(self) -> None:
        self._client.close()


@pytest.fixture(scope="module", params=[False, True], ids=["gemma", "llama-2"])
def peer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Peer, Tokenizer]]:
    prefixes: bool = request.param
    path = write_peer_model(tmp_path_factory.mktemp("peer") / "a.gguf", prefixes=prefixes)
    theirs = Peer(path)
    yield theirs, Tokenizer.from_gguf(gguf.read(path).metadata)
    theirs.close()


def write_peer_model(path: Path, *, prefixes: bool) -> Path:
    """Write the smallest model that llama.cpp opens with our vocabulary."""
    writer = writing.GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    metadata = make_pieces()
    writer.add_tokenizer_model("llama")
    writer.add_token_list(metadata["tokenizer.ggml.tokens"])
    writer.add_token_scores(metadata["tokenizer.ggml.scores"].tolist())
    writer.add_token_types(metadata["tokenizer.ggml.token_type"].tolist())
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_add_space_prefix(prefixes)
    names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    writer.add_tensor("token_embd.weight", np.zeros((len(TOKENS), 32), np.float16))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.zeros(32, np.float32))
    for name in names:
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros((32, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_ids_equal_those_of_llama_cpp(peer: tuple[Peer, Tokenizer]) -> None:
    theirs, ours = peer
    runs = [char * count for char in "=-a \n\t" for count in (2, 3, 5, 9, 33)]
    for line in [*make_lines(500, seed=3), *runs, "<table>a</table>", "a  <b>   c"]:
        text = line.replace("\0", "")  # which ends a text in C
        assert ours.encode(text) == theirs.encode(text), repr(text)


@pytest.mark.slow
def test_ids_equal_those_of_llama_cpp_for_gemma(gemma_path: Path) -> None:
    theirs, ours = Peer(gemma_path), Tokenizer.from_gguf(gguf.read(gemma_path).metadata)
    for line in make_lines(3000):
        text = line.replace("\0", "")
        assert ours.encode(text) == theirs.encode(text), repr(text)
    theirs.close()


def test_the_sample_is_what_it_says() -> None:
    assert len(list_pieces()) > 1000
    assert FIRST_PIECE + len(list_pieces()) == len(TOKENS) == len(set(TOKENS))
