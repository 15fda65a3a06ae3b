"""What is done about what checks find: the operator's policy, a TOML file, strictly read.

`policy.toml` beside this file is the one in force where the operator names none; it explains every
key. An unknown key, a value out of range or a name that leads nowhere is an error that names it.
"""

import hashlib
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from fluvial.errors import InputError
from fluvial.guard.check import Action, TextKind

DEFAULT_FILE = Path(__file__).with_name("policy.toml")
MAX_FILE_BYTES = 2**20
DEFAULT_CATEGORY = "default"
"""Holds for every category that a check finds and the policy does not name."""
BUILT_IN = ("words", "patterns", "classifier")
Language = Literal["en", "zh"]
Place = Literal["prompt", "answer", "document"]
"""What a policy has rules for. Documents are checked as prompts are, but never refused."""

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]
Phrase = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]
Words = Annotated[list[Phrase], Field(max_length=10_000)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")


class _Table(BaseModel):
    """A table of the file: frozen, exact types, no key that is not known."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Say(_Table):
    """What people are told, in both languages."""

    en: str = Field(min_length=1, max_length=2000)
    zh: str = Field(min_length=1, max_length=2000)

    def speak(self, language: Language) -> str:
        """Return the words in one language."""
        return self.en if language == "en" else self.zh


class Category(_Table):
    """What is done about findings of one category, from `threshold` on.

    `answer_threshold` goes before it for answers: they are another kind of text than prompts.
    `debounce` is how many checks in a row must find it in a growing answer before it is acted upon;
    nothing more is shown meanwhile, and the last check of an answer needs no second one.
    """

    threshold: Share = 0.5
    answer_threshold: Share | None = None
    prompt: Literal["allow", "flag", "redact", "refuse"] = "refuse"
    answer: Literal["allow", "flag", "redact", "stop"] = "stop"
    document: Literal["allow", "flag"] = "allow"
    debounce: int = Field(1, ge=1, le=8)
    say: Say | None = None

    def least(self, place: Place) -> float:
        """Return from which score on something is done in this place."""
        if place == "answer" and self.answer_threshold is not None:
            return self.answer_threshold
        return self.threshold

    def action(self, place: Place) -> Action:
        """Return what is done in this place."""
        if place == "prompt":
            return self.prompt
        return self.answer if place == "answer" else self.document


class Hold(_Table):
    """How text is held back. Tokens are counted as text shows them: 4 letters, 1 Chinese character.

    `every_tokens`: how much new text makes a check. `window_tokens`: how much of what was checked
    still waits for the next one. `delay_ms`: after so long without a check, what is there is
    checked and shown, window or not. `timeout_ms`: a check that takes longer ends the answer.
    `reach_tokens`: how far back a check of a long answer sees; its last check sees all of it.
    """

    every_tokens: int = Field(default=16, ge=1, le=1024)
    window_tokens: int = Field(default=16, ge=0, le=1024)
    delay_ms: int = Field(default=1000, ge=10, le=60_000)
    timeout_ms: int = Field(default=10_000, ge=10, le=120_000)
    reach_tokens: int = Field(default=1024, ge=64, le=65_536)


class Checks(_Table):
    """Which checks look at what: built-in ones, "model.NAME" and "http.NAME"."""

    prompt: list[str]
    answer: list[str]
    document: list[str] = []

    def names(self) -> list[str]:
        """List all that are used, each once."""
        return list(dict.fromkeys([*self.prompt, *self.answer, *self.document]))

    def at(self, place: Place) -> list[str]:
        """List those that look at this place."""
        return {"prompt": self.prompt, "answer": self.answer, "document": self.document}[place]


class WordList(_Table):
    """Words and phrases of one category, by language."""

    en: Words = []
    zh: Words = []


class HttpProvider(_Table):
    """A classifier behind HTTP. `categories` maps its names to ours; others are `default`.

    `format` "openai": the shape of OpenAI's moderation endpoint. "json": `text_field` of the body
    holds the text, `scores_field` of the answer an object of scores, or one score, which is of the
    category `default`; dots lead into objects. `key_env` names the environment variable that holds
    the key.
    """

    url: str = Field(max_length=2000)
    format: Literal["openai", "json"] = "openai"
    model: str = Field("", max_length=200)
    text_field: str = Field("text", min_length=1, max_length=100)
    scores_field: str = Field("scores", min_length=1, max_length=200)
    categories: dict[str, Name] = {}
    key_env: str = Field("", pattern=r"^[A-Za-z_0-9]{0,100}$")
    timeout_ms: int = Field(3000, ge=10, le=60_000)

    @model_validator(mode="after")
    def _check_url(self) -> Self:
        try:
            parts = urlsplit(self.url)
            usable = bool(parts.hostname) and parts.username is None and (parts.port or 1) > 0
        except ValueError:
            usable, parts = False, urlsplit("")
        loopback = parts.scheme == "http" and parts.hostname in LOOPBACK_HOSTS
        if not usable or not (parts.scheme == "https" or loopback):
            raise PydanticCustomError(
                "url", "use https://, or http:// to this machine itself; no user in it"
            )
        return self


class ModelProvider(_Table):
    """A guard model that the engine runs. `categories` maps its names to ours."""

    model: str = Field(min_length=1, max_length=200)
    format: Literal["llama-guard", "qwen3-guard", "granite-guardian"]
    categories: dict[str, Name] = {}
    context_tokens: int = Field(8192, ge=1024, le=32_768)


class Policy(_Table):
    """The whole policy; see the class of each part."""

    version: Literal[1]
    mask: str = Field("[{category}]", min_length=1, max_length=100)
    checks: Checks
    hold: Hold = Hold()
    say: Say
    category: dict[Name, Category]
    words: dict[Name, WordList] = {}
    http: dict[Name, HttpProvider] = {}
    model: dict[Name, ModelProvider] = {}

    @model_validator(mode="after")
    def _agree(self) -> Self:
        self._check_mask()
        known = {*BUILT_IN, *(f"http.{n}" for n in self.http), *(f"model.{n}" for n in self.model)}
        for place in ("prompt", "answer", "document"):
            for name in self.checks.at(place):
                if name not in known:
                    raise _blame(f"checks.{place}", f"no check {name!r}; there are {sorted(known)}")
        if DEFAULT_CATEGORY not in self.category:
            raise _blame("category", "there must be a category.default")
        for name in self.words:
            if name not in self.category:
                raise _blame(f"words.{name}", f"there is no category.{name}")
        return self

    def _check_mask(self) -> None:
        rest = self.mask.replace("{category}", "")
        if any(char in rest for char in '{}"\\') or not self.mask.isprintable():
            raise _blame("mask", "plain text, with {category} where the name goes")

    @property
    def sha256(self) -> str:
        """A digest of what the policy says, whatever its comments and its order."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def rule(self, category: str) -> Category:
        """Return what holds for a category that a check has found."""
        return self.category.get(category) or self.category[DEFAULT_CATEGORY]

    def speak(self, category: str, *, language: Language) -> str:
        """Return what people are told when text of a category is kept from them."""
        return (self.rule(category).say or self.say).speak(language)

    def spoken(self) -> frozenset[str]:
        """Return every text that people may be told."""
        says = [self.say, *(each.say for each in self.category.values() if each.say)]
        return frozenset(text for say in says for text in (say.en, say.zh))

    def listed(self) -> dict[str, list[str]]:
        """Return the operator's words, by category, of both languages."""
        return {name: [*words.en, *words.zh] for name, words in self.words.items()}

    def with_hold(self, **changes: int | None) -> "Policy":
        """Return this policy with other values of `hold`; None changes nothing.

        Raises InputError when a value is out of range.
        """
        given = {key: value for key, value in changes.items() if value is not None}
        try:
            hold = Hold.model_validate(self.hold.model_dump() | given)
        except ValidationError as error:
            raise InputError(_explain(error, where="the guard's hold")) from None
        return self.model_copy(update={"hold": hold})


def load(file: Path | None = None) -> Policy:
    """Read a policy; the shipped one where `file` is None. Raises InputError naming the key."""
    file = file or DEFAULT_FILE
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"can't read the guard's policy {file}: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"the guard's policy {file} is over {MAX_FILE_BYTES} bytes")
    return parse(data, where=str(file))


def parse(data: bytes, *, where: str) -> Policy:
    """Read a policy from the bytes of its file. Raises InputError naming the key."""
    try:
        table = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{where} is not valid TOML: {error}") from None
    try:
        return Policy.model_validate(table)
    except ValidationError as error:
        raise InputError(_explain(error, where=where)) from None


def pick_language(text: str) -> Language:
    """Return the language to answer a text in: Chinese where it has a fair share of Chinese."""
    chinese = sum("\u3400" <= char <= "\u9fff" for char in text)
    latin = sum(char.isascii() and char.isalpha() for char in text)
    # A Chinese character says about as much as four letters.
    return "zh" if chinese * 4 > latin else "en"


def as_kind(place: Place) -> TextKind:
    """Return what a text in this place is to a check."""
    return "answer" if place == "answer" else "prompt"


def _blame(key: str, why: str) -> PydanticCustomError:
    return PydanticCustomError("policy", "{why}", {"key": key, "why": why})


def _explain(error: ValidationError, *, where: str) -> str:
    found = error.errors(include_url=False)
    # A key that is misspelt is also missing; the first says more.
    first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
    blamed = (first.get("ctx") or {}).get("key")
    key = ".".join(str(part) for part in first["loc"] if part != "[key]") or blamed or "the file"
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key {key!r}"
    if first["type"] == "missing":
        return f"{where}: {key!r} is missing"
    return f"{where}: {key!r}: {first['msg'][:1].lower()}{first['msg'][1:]}"
