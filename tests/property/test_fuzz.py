"""Damaged model files: only errors of ours come out, in bounded memory, and nothing hangs.

The four readers are driven with the mutations of `mutation.py`, once by Hypothesis (which shrinks
what it finds) and once in a child process with limited memory, where a crash of native code shows.
"""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fluvial.errors import ModelError
from fluvial.model import gguf
from tests.property.fuzz import check_input, describe
from tests.property.fuzz_target import CUT, TARGETS
from tests.property.mutation import NUMBERS, mutate_json, split_gguf

EXAMPLES = {"gguf": 150, "folder": 150, "tokenizer": 150, "template": 8}
INPUTS = {"gguf": 600, "folder": 600, "tokenizer": 600, "template": 20}
HANG_LIMIT_S = 900  # only so that a hang ends; ordinary runs take seconds


@pytest.mark.parametrize("name", list(TARGETS))
def test_damaged_files_are_read_or_refused(name: str) -> None:
    target = TARGETS[name]
    seeds = target.seeds()

    @given(st.sampled_from(seeds), st.randoms(use_true_random=False))
    @settings(max_examples=EXAMPLES[name], deadline=None, suppress_health_check=list(HealthCheck))
    def check(seed: bytes, rng: random.Random) -> None:
        check_input(name, target.mutate(seed, rng))

    check()


@pytest.mark.parametrize("name", list(TARGETS))
def test_a_child_with_little_memory_survives_many(name: str) -> None:
    command = [sys.executable, "-m", "tests.property.fuzz", name, "--seed", "20261122"]
    found = subprocess.run(
        [*command, "--inputs", str(INPUTS[name])],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        timeout=HANG_LIMIT_S,
        check=False,
    )
    assert found.returncode == 0, (found.stdout, found.stderr[-2000:])
    assert json.loads(found.stdout)["findings"] == []


@pytest.mark.parametrize("name", ["folder", "tokenizer", "template"])
def test_what_is_not_damaged_is_read(name: str) -> None:
    for data in TARGETS[name].seeds():
        assert check_input(name, data) == []


def test_files_that_are_only_a_part_lack_only_the_rest() -> None:
    found = [
        [error.message for error in check_input("gguf", data)] for data in TARGETS["gguf"].seeds()
    ]
    llama, gemma, everything, words, pieces = found
    for messages in (llama, gemma):
        assert len(messages) == 2
        assert "the tokenizer model 'None'" in messages[0]
    assert "no tensor 'token_embd.weight'" in everything[-1]
    assert len(words) == len(pieces) == 1
    assert "no tensor 'token_embd.weight'" in words[0] + pieces[0]


def test_a_gguf_file_falls_into_its_fields_and_back() -> None:
    for data in TARGETS["gguf"].seeds():
        chunks = split_gguf(data)
        assert b"".join(chunk.data for chunk in chunks) == data
        assert {"count", "length", "type"} < {chunk.kind for chunk in chunks}


@pytest.mark.parametrize("number", NUMBERS)
def test_every_count_of_a_gguf_file_is_bounded_by_its_bytes(number: int, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    for at in (8, 16):
        data = bytearray(TARGETS["gguf"].seeds()[0])
        if int.from_bytes(data[at : at + 8], "little") == number:
            continue
        data[at : at + 8] = number.to_bytes(8, "little")
        path.write_bytes(data)
        try:
            gguf.read(path)
        except ModelError:
            continue
        assert number < 64


def test_json_mutations_reach_every_level() -> None:
    rng = random.Random(4)
    changed = {mutate_json(b'{"a": {"b": [1, {"c": 2}]}}', rng) for _ in range(400)}
    assert any(b'"c": null' in text for text in changed)
    assert any(b"NaN" in text for text in changed)
    assert any(text.count(b"[") > 40 for text in changed)


def test_a_finding_tells_where_it_was_and_keeps_its_input() -> None:
    try:
        raise ValueError("x")
    except ValueError as error:
        found = describe(error, b"data")
    assert found["error"] == "ValueError: x"
    assert "test_fuzz.py" in found["where"]


def test_a_wide_head_that_only_follows_from_other_numbers_is_refused() -> None:
    config, cut, weights = TARGETS["folder"].seeds()[0].partition(CUT)
    wide = json.dumps(json.loads(config) | {"hidden_size": 2**24}).encode()
    (error,) = check_input("folder", wide + cut + weights)
    assert "hidden_size is 16777216; it must be at most 8192 for each of 2 heads" in error.message
