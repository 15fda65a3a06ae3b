"""In how many bits keys and values are kept, and what that takes."""

from pathlib import Path

import pytest

from fluvial.model.architecture.declaration import Declaration
from fluvial.model.checkpoint import open_checkpoint
from fluvial.model.layout import choose_cache_bits, lay_out
from tests.families import save_tiny


def _declare(family: str, folder: Path) -> Declaration:
    save_tiny(family, folder)
    return open_checkpoint(folder).declaration


@pytest.mark.parametrize(
    ("family", "bits"), [("llama", 8), ("qwen2", 16), ("gemma3", 8), ("deepseek-v3", 8)]
)
def test_keys_with_a_bias_stay_in_16_bits(family: str, bits: int, tmp_path: Path) -> None:
    declaration = _declare(family, tmp_path)
    assert choose_cache_bits(declaration) == bits
    assert lay_out(declaration).cache_bits == bits


def test_a_setting_overrules_the_choice(tmp_path: Path) -> None:
    declaration = _declare("qwen2", tmp_path)
    large, small = (lay_out(declaration, cache_bits=bits) for bits in (16, 8))
    assert (large.cache_bits, small.cache_bits) == (16, 8)
    assert large.page_bytes > small.page_bytes
