"""The pre-tokenisers that model files name: how text is cut into words before byte-pair merging.

GGUF names one in `tokenizer.ggml.pre`; the ids come out right only with exactly the cutting (and
the normalisation) the model was trained with, so a name that is not in the table is refused.
Sources: the `tokenizer.json` each model family publishes; names as llama.cpp reads them.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenizers import Regex, normalizers, pre_tokenizers

from fluvial.errors import ModelError

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2_REGEX = _WORDS + r"\p{N}" + _REST
LLAMA3_REGEX = _WORDS + r"\p{N}{1,3}" + _REST
QWEN35_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# These stand in tokenizer.json with real line feeds and ideographs, so they must here.
DEEPSEEK3_REGEXES = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|"""
    "[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|"
    r"\s+(?!\S)|\s+",
)
DEEPSEEK_CODER_REGEXES = (
    "[\r\n]",
    r"\s?\p{L}+",
    r"\s?\p{P}+",
    "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
)
# Every pre-tokeniser in the table ends a word at these places, whatever stands around them: after a
# letter before white space, and after any visible character before a space.
SAFE_CUT = re.compile(r"(?<=[A-Za-z\u3400-\u9fff])(?=[ \n])|(?<=[!-~\u3400-\u9fff])(?= )")
# DeepSeek's first ones leave symbols and the spaces around them together.
_LETTER_CUT = re.compile(r"(?<=[A-Za-z])(?=[ \n])")

Piece = pre_tokenizers.PreTokenizer


@dataclass(frozen=True)
class Pretokenizer:
    """One way of cutting text. `whole_words`: a word that is a token needs no merges to be found.

    `adds_bos` is what the family does when the file does not say. At `cut`, a word always ends.
    """

    build: Callable[[], Piece]
    normalizes: bool = False
    whole_words: bool = False
    adds_bos: bool = False
    cut: re.Pattern[str] = SAFE_CUT

    def normalizer(self) -> normalizers.Normalizer | None:
        """Return the normaliser to run first: NFC, or none."""
        return normalizers.NFC() if self.normalizes else None


def _build_gpt2() -> Piece:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _build_smollm() -> Piece:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _build_gpt2()])


def _build_regexes(patterns: Sequence[str], *, digits: bool = False) -> Piece:
    steps: list[Piece] = [
        pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in patterns
    ]
    if digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    return pre_tokenizers.Sequence(steps)


_GPT2 = Pretokenizer(_build_gpt2)
_SMOLLM = Pretokenizer(_build_smollm)
_QWEN2 = Pretokenizer(lambda: _build_regexes([QWEN2_REGEX]), normalizes=True)
_QWEN35 = Pretokenizer(lambda: _build_regexes([QWEN35_REGEX]), normalizes=True)
_LLAMA3 = Pretokenizer(lambda: _build_regexes([LLAMA3_REGEX]), whole_words=True, adds_bos=True)
_DEEPSEEK3 = Pretokenizer(lambda: _build_regexes(DEEPSEEK3_REGEXES))
_DEEPSEEK_CODER = Pretokenizer(
    lambda: _build_regexes(DEEPSEEK_CODER_REGEXES, digits=True), cut=_LETTER_CUT
)

TABLE: dict[str, Pretokenizer] = {
    "deepseek-coder": _DEEPSEEK_CODER,
    "deepseek-v3": _DEEPSEEK3,
    "gpt-2": _GPT2,
    "gpt2": _GPT2,
    "lfm2": _LLAMA3,
    "llama-bpe": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama3": _LLAMA3,
    "qwen2": _QWEN2,
    "qwen35": _QWEN35,
    "smollm": _SMOLLM,
}


def find(name: str) -> Pretokenizer:
    """Return the pre-tokeniser called `name`. Raises ModelError listing the known ones."""
    if name not in TABLE:
        raise ModelError(
            f"the pre-tokeniser {name[:80]!r} is not supported; supported are: {', '.join(TABLE)}"
        )
    return TABLE[name]
