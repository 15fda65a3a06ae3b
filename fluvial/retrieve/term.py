"""What a text is searched by: words, and for Chinese and its kin pairs of characters."""

import re
import unicodedata
from collections.abc import Iterator

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"

_RUN = re.compile(rf"[{CJK}]+|[^\W{CJK}]+")
_IS_CJK = re.compile(rf"[{CJK}]")
_CJK_FILLER = re.compile(
    "什么|怎么样?|怎样|如何|为什么|哪些|哪个|多少|是否|请问|这个|那个|[你我他她它]们?|[谁的了吗呢吧是]"
)
_ENGLISH_FILLER = frozenset(
    """
    a about all also am an and any are as at be been but by can could did do does for from had
    has have how i if in into is it its me more my no not of on one or our please say says
    should so some tell text than that the their them then there these they this to was we were
    what when where which who why will with would you your document explain describe mean means
    """.split()  # noqa: SIM905 - a list of words reads best as text
)


def terms(text: str) -> Iterator[str]:
    """Yield the search terms of a text in order. Words that every text has are left out."""
    for match in _RUN.finditer(unicodedata.normalize("NFKC", text).casefold()):
        run = match[0]
        if _IS_CJK.match(run):
            yield from _pairs(run)
        elif run not in _ENGLISH_FILLER:
            yield _stem(run)


def _pairs(run: str) -> Iterator[str]:
    if len(run) == 1:
        yield run
    for part in _CJK_FILLER.split(run):
        for index in range(len(part) - 1):
            yield part[index : index + 2]


def _stem(word: str) -> str:
    """Take the English plural off. More would join words that mean different things in code."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word
