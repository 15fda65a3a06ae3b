import re
from pathlib import Path

import pytest

from fluvial.adapt.probe import PROBE_FILE, load_probe
from fluvial.errors import LearnerError
from fluvial.model.checkpoint import open_checkpoint
from fluvial.model.opening import open_tokenizer


def test_the_probe_is_in_both_languages_and_no_more_than_text() -> None:
    text = load_probe()
    assert len(re.findall("[\u4e00-\u9fff]", text)) > 80
    assert len(re.findall("[a-z]", text)) > 1000
    assert "<|" not in text
    assert text.endswith("\n")


@pytest.mark.model
def test_the_probe_has_the_length_that_was_promised(small_model_path: Path) -> None:
    tokenizer = open_tokenizer(open_checkpoint(small_model_path))
    assert 512 <= len(tokenizer.encode(load_probe())) <= 768


def test_any_other_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "probe.txt"
    file.write_bytes(PROBE_FILE.read_bytes().replace(b"\n", b"\r\n"))
    with pytest.raises(LearnerError, match="sha256"):
        load_probe(file)
    with pytest.raises(LearnerError, match="can't be read"):
        load_probe(tmp_path / "none.txt")
