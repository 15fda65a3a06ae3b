"""The pre-tokenisers that model files name: how text is cut into words before byte-pair merging.

GGUF names one in `tokenizer.ggml.pre`; the ids come out right only with exactly the cutting (and
the normalisation) the model was trained with, so a name that is not in the table is refused.
Sources: the `tokenizer.json` each model family publishes; names as llama.cpp reads them.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tokenizers import Regex, normalizers, pre_tokenizers

from fluvial.errors import ModelError

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2_REGEX = _WORDS + r"\p{N}" + _REST
LLAMA3_REGEX = _WORDS + r"\p{N}{1,3}" + _REST

Piece = pre_tokenizers.PreTokenizer


@dataclass(frozen=True)
class Pretokenizer:
    """One way of cutting text. `whole_words`: a word that is a token needs no merges to be found.

    `adds_bos` is what the family does when the file does not say.
    """

    build: Callable[[], Piece]
    normalizes: bool = False
    whole_words: bool = False
    adds_bos: bool = False

    def normalizer(self) -> normalizers.Normalizer | None:
        """Return the normaliser to run first: NFC, or none."""
        return normalizers.NFC() if self.normalizes else None


def _build_gpt2() -> Piece:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _build_smollm() -> Piece:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _build_gpt2()])


def _build_regex(pattern: str) -> Piece:
    cut = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence(
        [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


_GPT2 = Pretokenizer(_build_gpt2)
_SMOLLM = Pretokenizer(_build_smollm)
_QWEN2 = Pretokenizer(lambda: _build_regex(QWEN2_REGEX), normalizes=True)
_LLAMA3 = Pretokenizer(lambda: _build_regex(LLAMA3_REGEX), whole_words=True, adds_bos=True)

TABLE: dict[str, Pretokenizer] = {
    "gpt-2": _GPT2,
    "gpt2": _GPT2,
    "lfm2": _LLAMA3,
    "llama-bpe": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama3": _LLAMA3,
    "qwen2": _QWEN2,
    "smollm": _SMOLLM,
}


def find(name: str) -> Pretokenizer:
    """Return the pre-tokeniser called `name`. Raises ModelError listing the known ones."""
    if name not in TABLE:
        raise ModelError(
            f"the pre-tokeniser {name[:80]!r} is not supported; supported are: {', '.join(TABLE)}"
        )
    return TABLE[name]
