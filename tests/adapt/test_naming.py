"""Names of versions: the same for the same content, and for nothing else."""

import pytest

from fluvial.adapt.naming import make_canonical, name_version

CONTENT = {"checkpoint": "c0", "rule": '{"rank":8}', "sha256": "5a"}


def test_a_name_never_changes() -> None:
    expected = "1cb534267ca6971b18fccfc13b0480e052ea08222d6ce27e848dbf7061bfe7ca"
    assert name_version(**CONTENT) == expected


@pytest.mark.parametrize("field", CONTENT)
def test_every_part_of_the_content_counts(field: str) -> None:
    assert name_version(**{**CONTENT, field: "x"}) != name_version(**CONTENT)


def test_parts_do_not_run_into_each_other() -> None:
    one = name_version(checkpoint="a", rule="b,c", sha256="d")
    assert one != name_version(checkpoint="a", rule="b", sha256="c,d")


def test_equal_rules_are_written_alike() -> None:
    assert make_canonical({"b": 1, "a": [0.5, None]}) == '{"a":[0.5,null],"b":1}'
    with pytest.raises(ValueError):
        make_canonical({"a": float("nan")})
