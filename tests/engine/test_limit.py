"""The ranges of sampling: what is in passes, what is out is named."""

import pytest

from fluvial.engine.limit import validate
from fluvial.errors import InputError
from fluvial.types import Grammar, Sampling


@pytest.mark.parametrize(
    "given_fields",
    [
        {"temperature": 0},
        {"temperature": 2.0},
        {"top_p": 1},
        {"top_p": 1e-9},
        {"seed": -(2**63)},
        {"seed": 2**63 - 1},
        {"max_tokens": 1},
        {"stop": ("a", "b" * 256, "\n", "é")},
        {"top_k": 10**9, "min_p": 1, "typical_p": 1e-9},
        {"repetition_penalty": 0.01, "presence_penalty": -2, "frequency_penalty": 2.0},
        {"logit_bias": ((0, -100), (99, 100.0))},
        {"stop_token_ids": (0, 99), "ignore_eos": True},
        {"logprobs": 0},
        {"logprobs": 20},
    ],
)
def test_values_in_range_pass(given_fields: dict[str, object]) -> None:
    validate(Sampling(**given_fields), vocab_size=100)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", "1"),
        ("temperature", True),
        ("temperature", None),
        ("top_p", 0),
        ("top_p", -1),
        ("top_p", 1.01),
        ("top_p", float("nan")),
        ("seed", 2**63),
        ("seed", -(2**63) - 1),
        ("seed", 1.5),
        ("seed", True),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_tokens", 2.0),
        ("max_tokens", 2**70),
        ("top_k", -1),
        ("top_k", 1.0),
        ("top_k", None),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("typical_p", 0),
        ("repetition_penalty", 0),
        ("repetition_penalty", 11),
        ("repetition_penalty", float("nan")),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("logprobs", 21),
        ("logprobs", -1),
        ("logprobs", True),
        ("logit_bias", ((0, 101),)),
        ("logit_bias", ((-1, 1),)),
        ("logit_bias", ((100, 1),)),
        ("logit_bias", ((1, 1), (1, 2))),
        ("logit_bias", ((1, float("inf")),)),
        ("logit_bias", [(1, 1)]),
        ("logit_bias", tuple((n, 0) for n in range(1025))),
        ("stop_token_ids", (100,)),
        ("stop_token_ids", (True,)),
        ("stop_token_ids", (10**40,)),
        ("stop_token_ids", tuple(range(65))),
        ("stop_token_ids", [1]),
        ("stop", ("",)),
        ("stop", ("a" * 257,)),
        ("stop", ("a", "b", "c", "d", "e")),
        ("stop", ("a", 3)),
        ("stop", "abc"),
    ],
)
def test_values_out_of_range_are_named(field: str, value: object) -> None:
    with pytest.raises(InputError, match=field) as caught:
        validate(Sampling(**{field: value}), vocab_size=100)
    assert caught.value.param == field


def test_a_grammar_ends_the_answer_itself() -> None:
    with pytest.raises(InputError, match="ignore_eos"):
        validate(Sampling(grammar=Grammar(kind="regex", text="a"), ignore_eos=True))


def test_without_a_vocabulary_any_token_id_may_be() -> None:
    validate(Sampling(stop_token_ids=(10**9,)))
