"""What an answer to an instruction must be: each criterion is one small test of its text.

Words are compared without regard to case, and found as whole words (in Chinese, anywhere); `a|b`
means either. An empty answer meets no criterion.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

from fluvial.errors import InputError
from fluvial.gate.refusal import refuses

_LETTER = r"[^\W\u4e00-\u9fff]"
_CHINESE = re.compile("[\u4e00-\u9fff]")
_MARK = re.compile(r"\s*(?:[-*•]|\d+[.)、])\s*(?=\S)")
_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.S)
_EDGE = " \t\r\n\"'“”‘’`*.!。！,，:：「」"
_DECLINED = re.compile(
    "抱歉|对不起|很遗憾|(?:不能|无法|不可以|不便|拒绝)(?:谈论|讨论|回答|提供|帮助|透露|告诉)"
)
_LONGEST_ITEM_WORDS = 6
_NAMES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen"),
)


def check(answer: str, criteria: Mapping[str, Any]) -> bool:
    """Tell whether `answer` meets all `criteria`. Raises InputError for an unknown one."""
    unknown = [name for name in criteria if name not in CRITERIA]
    if unknown or not criteria:
        raise InputError(f"there is no criterion {', '.join(unknown) or 'at all'}")
    if not answer.strip():
        return False
    return all(CRITERIA[name](answer, value) for name, value in criteria.items())


def is_only(answer: str, wanted: str) -> bool:
    """The answer is this, but for case, quotes, and punctuation around it."""
    return answer.strip(_EDGE).casefold() in wanted.casefold().split("|")


def has_all(answer: str, wanted: list[str]) -> bool:
    """Each of these words or phrases is in the answer."""
    return all(_find(answer, each) is not None for each in wanted)


def has_none(answer: str, refused: list[str]) -> bool:
    """None of these words or phrases is in the answer."""
    return all(_find(answer, each) is None for each in refused)


def is_without(answer: str, refused: list[str]) -> bool:
    """None of these letters or signs is in the answer, not even inside a word."""
    return not any(each.casefold() in answer.casefold() for each in refused)


def is_spelt(answer: str, wanted: str) -> bool:
    """This word is in the answer, with capitals and small letters as here."""
    return re.search(_bound(wanted), answer) is not None


def has_in_order(answer: str, wanted: list[str]) -> bool:
    """The last places of these words in the answer are in this order."""
    places = [_find(answer, each, last=True) for each in wanted]
    known = [place for place in places if place is not None]
    return len(known) == len(wanted) and known == sorted(known)


def has_number(answer: str, wanted: int) -> bool:
    """This number is in the answer, in digits or as a word."""
    word = _NAMES[wanted] if 0 <= wanted < len(_NAMES) else None
    digits = re.search(rf"(?<![\d.,]){wanted}(?![\d]|[.,]\d)", answer)
    return digits is not None or (word is not None and _find(answer, word) is not None)


def begins(answer: str, wanted: str) -> bool:
    """The answer begins with this."""
    return answer.lstrip(_EDGE).casefold().startswith(wanted.casefold())


def ends(answer: str, wanted: str) -> bool:
    """The answer ends with this; punctuation may follow unless it is punctuation itself."""
    text = answer.rstrip(_EDGE if wanted.strip(_EDGE) else None)
    return text.casefold().endswith(wanted.casefold())


def matches(answer: str, pattern: str) -> bool:
    """The whole answer, without space around it, fits this regular expression."""
    return re.fullmatch(pattern, answer.strip(), re.I | re.S) is not None


def has_words(answer: str, bounds: list[int]) -> bool:
    """The answer has at least and at most so many words."""
    return bounds[0] <= len(re.findall(r"\w+(?:['’-]\w+)*", answer)) <= bounds[1]


def has_sentences(answer: str, bounds: list[int]) -> bool:
    """The answer has at least and at most so many sentences, and the last one is finished."""
    text = answer.strip().rstrip("\"'”’")
    count = len(re.findall(r"[.!?。！？]+(?=\s|$|[\"'”’])", text))
    return bounds[0] <= count <= bounds[1] and text.endswith((*".!?", *"。！？"))


def is_upper(answer: str, wanted: bool) -> bool:
    """The answer has letters, and all are capitals (true) or none is (false)."""
    return answer.isupper() if wanted else answer.islower()


def is_chinese(answer: str, wanted: bool) -> bool:
    """At least half of the answer's letters are Chinese characters (true), or none is (false)."""
    count = len(_CHINESE.findall(answer))
    letters = sum(letter.isalpha() for letter in answer)
    return 2 * count >= letters > 0 if wanted else count == 0


def has_items(answer: str, wanted: int) -> bool:
    """The answer is or holds one list of so many different items.

    Lines that begin with a dash, a star or a number; else short lines; else one line with commas.
    """
    lines = [line.strip() for line in answer.strip().splitlines() if line.strip()]
    marked = [line for line in lines if _MARK.match(line)]
    items = [_MARK.sub("", line, count=1) for line in marked] or lines
    if len(items) == 1 and not marked:
        text = re.sub(r".*[:：]", "", items[0])
        items = [each for each in re.split(r"[,，、;；]|\band\b|和", text) if each.strip(_EDGE)]
    short = marked or all(len(each.split()) <= _LONGEST_ITEM_WORDS for each in items)
    return bool(short) and len({each.strip(_EDGE).casefold() for each in items}) == wanted


def has_json(answer: str, wanted: Mapping[str, object]) -> bool:
    """The answer is one JSON object, in a code fence or not, with exactly these keys and values."""
    fence = _FENCE.fullmatch(answer.strip())
    try:
        found = json.loads(fence[1] if fence else answer)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and cast(dict[str, object], found) == wanted


def is_declined(answer: str, wanted: bool) -> bool:
    """The answer says that it declines (true), or says nothing of the kind (false)."""
    return (refuses(answer) or _DECLINED.search(answer) is not None) == wanted


def _bound(word: str) -> str:
    """Return the expression of a whole word; Chinese has no spaces, so there it is any place."""
    if _CHINESE.search(word):
        return re.escape(word)
    return rf"(?<!{_LETTER}){re.escape(word)}(?!{_LETTER})"


def _find(answer: str, wanted: str, *, last: bool = False) -> int | None:
    """Return where one of the alternatives begins, the first or the last time; None if nowhere."""
    options = "|".join(_bound(each) for each in wanted.split("|"))
    places = [found.start() for found in re.finditer(options, answer, re.I)]
    return places[-1 if last else 0] if places else None


CRITERIA: dict[str, Callable[[str, Any], bool]] = {
    "is": is_only,
    "has": has_all,
    "has_none": has_none,
    "without": is_without,
    "spelt": is_spelt,
    "order": has_in_order,
    "number": has_number,
    "begins": begins,
    "ends": ends,
    "matches": matches,
    "words": has_words,
    "sentences": has_sentences,
    "upper": is_upper,
    "chinese": is_chinese,
    "items": has_items,
    "json": has_json,
    "declines": is_declined,
}
