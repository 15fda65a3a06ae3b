"""Secrets and personal data: what has a known shape, and where it can be, a check digit.

Secrets are found by the plain patterns of detect-secrets (its checks over the network are never
used), phone numbers by phonenumbers, numbers with check digits by python-stdnum. A text is looked
at in overlapping windows, so that one hostile line costs time linear in its length.
"""

import functools
import hashlib
import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import cast

from fluvial.errors import GuardError
from fluvial.guard.check import Finding, TextKind
from fluvial.guard.normal import Reading, normalise

MAX_CHARS = 4_000_000
"""Longer texts are refused with GuardError: nothing may pass unseen."""
WINDOW_CHARS = 4096
OVERLAP_CHARS = 512
"""The longest thing that is surely found whole; private keys are longer, and read to their end."""
REGIONS = ("CN", "US", "GB")
"""Where a phone number without a country code may be from."""

_EMAIL = re.compile(
    r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@(?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,24}\b", re.A
)
_PHONE = re.compile(r"(?<![\w.+/])(?:\+|\()?\d(?:[\d]|[ ().\-–]{1,2}(?=[\d(])){6,22}(?!\w)", re.A)
_PHONE_WORD = re.compile(
    r"(?i)(?:phone|call|tel|mobile|cell|text|fax|whatsapp|电话|手机|致电|拨打|微信)"
)
_DIGITS = re.compile(r"(?<![\w.])\d(?:[ -]?\d){12,18}(?!\w)", re.A)
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{2,4}){3,8}(?: ?[A-Z0-9]{1,3})?\b", re.A)
_GIVEN = re.compile(
    r"(?i)(?:pass(?:word|wd|phrase|code)?|pwd|api[_ -]?key|(?:secret|access)[_ -]?key|secret|token"
    r"|密码|口令|密钥|令牌)[\"'”]?\s{0,3}(?:is|are|=|:|：|是|为)\s{0,3}[\"'“]?"
    r"([^\s\"'“”,;，。；]{6,128})"
)
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_PRIVATE_KEY_END = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_MAX_KEY_CHARS = 20_000
_PLUGINS = (
    "artifactory", "aws", "azure_storage_key", "basic_auth", "cloudant", "discord", "github_token",
    "gitlab_token", "ibm_cloud_iam", "ibm_cos_hmac", "jwt", "mailchimp", "pypi_token",
    "sendgrid", "slack", "softlayer", "square_oauth", "stripe", "telegram_token",
    "twilio",
)  # fmt: skip
_OWN_SECRETS = (
    r"sk-(?:ant-|proj-)?[A-Za-z0-9_-]{32,200}",
    r"AIza[A-Za-z0-9_-]{35}",
    r"npm_[A-Za-z0-9]{36}",
)
"""Formats newer than the pinned detect-secrets; and OpenAI's and npm's, whose patterns there take
time that grows with the square of the line, which nothing else can run in meanwhile."""
_NUMBERS = (
    ("national_id", r"(?<!\w)\d{17}[\dXx](?!\w)", "cn.ric"),
    ("national_id", r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])", "us.ssn"),
    ("national_id", r"(?<!\w)\d{3}\.\d{3}\.\d{3}-\d{2}(?!\w)", "br.cpf"),
    ("national_id", r"(?<!\w)\d{8}-?[A-HJ-NP-TV-Z](?!\w)", "es.dni"),
    ("national_id", r"(?<!\w)[XYZ]\d{7}[A-Z](?!\w)", "es.nie"),
    ("national_id", r"(?<!\w)[A-Z]{6}\d{2}[A-Z]\d{2}[A-Z]\d{3}[A-Z](?!\w)", "it.codicefiscale"),
    ("national_id", r"(?<!\w)[12] ?\d{2} ?\d{2} ?\d{2} ?\d{3} ?\d{3} ?\d{2}(?!\w)", "fr.nir"),
    ("national_id", r"(?<!\w)\d{6}-[1-8]\d{6}(?!\w)", "kr.rrn"),
    ("national_id", r"(?<!\w)\d{4} \d{4} \d{4}(?!\w)", "in_.aadhaar"),
)
"""Category, shape, and the module of stdnum that knows the check digit."""

Found = tuple[str, int, int, float]
"""Category, start, end, score."""


@dataclass(frozen=True, kw_only=True)
class PatternCheck:
    """Find secrets, e-mail addresses, phone, card, account and identity numbers, with their places.

    `regions` are the countries whose phone numbers are known without a country code.
    """

    regions: Sequence[str] = REGIONS
    name: str = "patterns"

    @functools.cached_property
    def sha256(self) -> str:
        """A digest of this file, the regions and the versions of the libraries."""
        with open(__file__, "rb") as file:
            parts = [hashlib.file_digest(file, "sha256").hexdigest(), *self.regions]
        parts += [version(each) for each in ("detect-secrets", "phonenumbers", "python-stdnum")]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def find(self, text: str, *, kind: TextKind, context: str = "") -> list[Finding]:
        """Return what is found in `text`, in its order, overlaps taken out.

        Raises GuardError for a text over MAX_CHARS.
        """
        if len(text) > MAX_CHARS:
            raise GuardError(f"the text has {len(text):,} characters; at most {MAX_CHARS:,} fit")
        plain = normalise(text)
        found = set(_search(plain.text, self.regions))
        return [self._make(each, plain) for each in _settle(found)]

    def _make(self, found: Found, plain: Reading) -> Finding:
        category, start, end, score = found
        first, last = plain.span(start, end)
        return Finding(category=category, score=score, check=self.name, start=first, end=last)


def _search(text: str, regions: Sequence[str]) -> Iterator[Found]:
    yield from _find_private_keys(text)
    step = WINDOW_CHARS - OVERLAP_CHARS
    for start in range(0, max(1, len(text) - OVERLAP_CHARS), step):
        window = text[start : start + WINDOW_CHARS]
        for finder in (_find_secrets, _find_addresses, _find_numbers):
            yield from ((c, a + start, b + start, s) for c, a, b, s in finder(window))
        yield from ((c, a + start, b + start, s) for c, a, b, s in _find_phones(window, regions))


def _settle(found: set[Found]) -> list[Found]:
    """Keep the surest, then the longest, of findings that overlap; return them in order."""
    kept: dict[int, Found] = {}
    taken: set[int] = set()
    for each in sorted(found, key=lambda each: (-each[3], each[1] - each[2], each[1], each[0])):
        places = range(each[1], each[2])
        if taken.isdisjoint(places):
            taken.update(places)
            kept[each[1]] = each
    return [kept[start] for start in sorted(kept)]


def _find_private_keys(text: str) -> Iterator[Found]:
    for begin in _PRIVATE_KEY.finditer(text):
        end = _PRIVATE_KEY_END.search(text, begin.end(), begin.end() + _MAX_KEY_CHARS)
        stop = end.end() if end else min(len(text), begin.end() + _MAX_KEY_CHARS)
        yield "secret", begin.start(), stop, 1.0


def _find_secrets(window: str) -> Iterator[Found]:
    for pattern in _read_secret_patterns():
        for found in pattern.finditer(window):
            start, end = _narrow(found)
            yield "secret", start, end, 0.96
    for found in _GIVEN.finditer(window):
        word = found[1].rstrip(".!?")
        if _looks_secret(word):
            yield "secret", found.start(1), found.start(1) + len(word), 0.7


def _narrow(found: re.Match[str]) -> tuple[int, int]:
    """Return the place of the secret itself, where the pattern says which part that is."""
    whole = found.group()
    if found.lastindex and "://" in whole and "@" in whole:
        return found.span(1)
    start, end = found.span()
    return start + len(whole) - len(whole.lstrip()), end - (len(whole) - len(whole.rstrip()))


def _looks_secret(word: str) -> bool:
    kinds = (r"\d", r"[a-z]", r"[A-Z]", r"[^A-Za-z0-9]")
    return word.isascii() and sum(re.search(kind, word) is not None for kind in kinds) >= 2


def _find_addresses(window: str) -> Iterator[Found]:
    for found in _EMAIL.finditer(window):
        yield "email", *found.span(), 0.95


def _find_numbers(window: str) -> Iterator[Found]:
    for category, pattern, is_valid in _read_number_patterns():
        for found in pattern.finditer(window):
            if is_valid(found.group()):
                yield category, *found.span(), 0.95
    for found in _DIGITS.finditer(window):
        if _is_card(found.group()):
            yield "card", *found.span(), 0.9


def _is_card(number: str) -> bool:
    """Tell payment cards by length, first digits (ISO/IEC 7812) and check digit (Luhn)."""
    from stdnum import luhn

    digits = re.sub(r"[ -]", "", number)
    known = re.fullmatch(r"3[47]\d{13}|(?:4|5[1-5]|2[2-7])\d{14,15}|(?:6|35|81)\d{14,17}", digits)
    return known is not None and len(set(digits)) > 1 and luhn.is_valid(digits)


def _find_phones(window: str, regions: Sequence[str]) -> Iterator[Found]:
    for found in _PHONE.finditer(window):
        number = found.group()
        if 7 <= sum(each.isdigit() for each in number) <= 15:
            near = window[max(0, found.start() - 24) : found.start()]
            if _is_phone(number, regions, is_named=_PHONE_WORD.search(near) is not None):
                yield "phone", *found.span(), 0.85


@functools.lru_cache(maxsize=1024)
def _is_phone(number: str, regions: Sequence[str], *, is_named: bool) -> bool:
    import phonenumbers

    home = [None] if number.startswith("+") else list(regions)
    bare = number.isdigit() and not (len(number) == 11 and number[0] == "1")
    if home != [None] and not is_named and (bare or re.fullmatch(r"[\d]{4}[-. ]\d\d.*", number)):
        return False  # a plain count or a date, unless something says it is a phone
    for region in home:
        try:
            if phonenumbers.is_valid_number(phonenumbers.parse(number, region)):
                return True
        except phonenumbers.NumberParseException:
            continue
    return False


@functools.cache
def _read_secret_patterns() -> list[re.Pattern[str]]:
    from detect_secrets.plugins.base import RegexBasedDetector

    found = [re.compile(each) for each in _OWN_SECRETS]
    for name in _PLUGINS:
        module = importlib.import_module(f"detect_secrets.plugins.{name}")
        for each in vars(module).values():
            is_ours = isinstance(each, type) and each.__module__ == module.__name__
            if is_ours and issubclass(each, RegexBasedDetector):
                found += cast("list[re.Pattern[str]]", each.denylist)
    return found


@functools.cache
def _read_number_patterns() -> list[tuple[str, re.Pattern[str], Callable[[str], bool]]]:
    from stdnum import iban

    found: list[tuple[str, re.Pattern[str], Callable[[str], bool]]] = [
        ("iban", _IBAN, iban.is_valid)
    ]
    for category, pattern, name in _NUMBERS:
        module = importlib.import_module(f"stdnum.{name}")
        found.append((category, re.compile(pattern, re.A), module.is_valid))
    return found
