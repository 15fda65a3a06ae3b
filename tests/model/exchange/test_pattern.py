"""Keys of PEFT's patterns match as PEFT matches them, and expressions are never run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key

from fluvial.errors import UnsupportedError
from fluvial.model.exchange.pattern import parse_pattern

NAME = "model.layers.1.self_attn.q_proj"
KEYS = [
    NAME,
    "q_proj",
    "proj",
    "self_attn.q_proj",
    "1.self_attn.q_proj",
    "ayers.1.self_attn.q_proj",
    r"self_attn\.q_proj",
    r"self_attn\._proj",
    "self.attn.q.proj",
    f"^{NAME}",
    "^q_proj",
    "^model.layers.11.self_attn.q_proj",
    "model.layers.11.self_attn.q_proj",
    "q_proj.",
    ".q_proj",
]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", [NAME, "q_proj", "lm_head", "model.layers.11.self_attn.q_proj"])
def test_keys_match_as_in_peft(key: str, name: str) -> None:
    assert parse_pattern(key).matches(name) == matches_in_peft(key, name)


@given(
    key=st.text(alphabet="ab._1", min_size=1, max_size=6),
    name=st.text(alphabet="ab._1", min_size=1, max_size=9).filter(str.strip),
)
def test_any_name_matches_as_in_peft(key: str, name: str) -> None:
    assert parse_pattern(key).matches(name) == matches_in_peft(key, name)


def matches_in_peft(key: str, name: str) -> bool:
    # PEFT returns the name itself when no key matches: as a group, a key never equals a name.
    return get_pattern_key([f"(?:{key})"], name) == f"(?:{key})"


@pytest.mark.parametrize(
    "key", ["(a+)+$", ".*", "a|b", "[ab]", r"layers\.\d+", "a{9}", "", "a\n", "a" * 257, "\\", "a^"]
)
def test_expressions_are_refused(key: str) -> None:
    with pytest.raises(UnsupportedError, match="expression"):
        parse_pattern(key)
