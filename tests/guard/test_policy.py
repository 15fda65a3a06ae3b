"""The operator's policy: read strictly, with errors that name the key."""

import pytest

from fluvial.errors import InputError
from fluvial.guard import policy
from fluvial.guard.policy import pick_language
from tests.guard.world import POLICY, make_policy


def refuse(text: str) -> str:
    with pytest.raises(InputError) as caught:
        policy.parse(text.encode(), where="p.toml")
    return caught.value.message


def test_the_shipped_policy_is_valid_and_speaks_both_languages() -> None:
    shipped = policy.load()
    assert shipped.rule("never heard of") is shipped.category["default"]
    assert "ask" in shipped.say.en
    assert pick_language(shipped.say.zh) == "zh"
    assert shipped.sha256 == policy.load().sha256


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("version = 1", "version = 2", "version"),
        ("version = 1", "version = 1\ncolour = 3", "unknown key 'colour'"),
        ("every_tokens = 2", "every_tokens = 0", "hold.every_tokens"),
        ("every_tokens = 2", "every_tokens = '2'", "hold.every_tokens"),
        ("every_tokens = 2", "stream_first = true", "unknown key 'hold.stream_first'"),
        ('prompt = ["words"]', 'prompt = ["wards"]', "checks.prompt"),
        ("[category.default]", "[category.other]", "category.default"),
        ("[category.default]", "[category.default]\nthreshold = 1.5", "category.default.threshold"),
        ("[category.default]", "[category.default]\nthreshold = nan", "category.default.threshold"),
        ("[category.default]", '[category.default]\nprompt = "stop"', "category.default.prompt"),
        ("[category.default]", '[category.default]\nanswer = "refuse"', "category.default.answer"),
        ("[category.default]", '[category.default]\ndocument = "refuse"', "default.document"),
        ("[words.odd]", "[words.strange]", "words.strange"),
        ('en = ["odd"]', 'en = [" "]', "words.odd.en.0"),
        ('mask = "[{category}]"', 'mask = "{name}"', "mask"),
        ('zh = "请问我别的问题。"', "", "say.zh"),
        ("[category.odd]", '[http.x]\nurl = "http://example.com/"\n[category.odd]', "http.x"),
        ("[category.odd]", '[http.x]\nurl = "https://a@b.c/"\n[category.odd]', "http.x"),
        ("[category.odd]", '[http.x]\nurl = "file:///etc/passwd"\n[category.odd]', "http.x"),
        (
            "[category.odd]",
            '[model.x]\nmodel = "m"\nformat = "y"\n[category.odd]',
            "model.x.format",
        ),
        ("version = 1", "version = ", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_named(old: str, new: str, named: str) -> None:
    assert old in POLICY
    message = refuse(POLICY.replace(old, new))
    assert named in message
    assert "p.toml" in message


def test_every_single_key_of_the_policy_may_be_misspelt_and_is_found() -> None:
    lines = POLICY.strip().splitlines()
    for at, line in enumerate(lines):
        if " = " not in line or line.startswith(("version", "en", "zh")):
            continue
        broken = [*lines[:at], "x" + line, *lines[at + 1 :]]
        assert "x" + line.split(" ")[0] in refuse("\n".join(broken))


def test_the_digest_tells_of_every_change_but_not_of_comments() -> None:
    plain = make_policy()
    assert make_policy(("version = 1", "# hello\nversion = 1")).sha256 == plain.sha256
    changes = [
        ("every_tokens = 2", "every_tokens = 3"),
        ('en = ["odd"]', 'en = ["odder"]'),
        ("天气", "诗"),
        ("[category.default]", "[category.default]\nthreshold = 0.51"),
    ]
    digests = {make_policy(change).sha256 for change in changes}
    assert len(digests | {plain.sha256}) == len(changes) + 1


def test_settings_go_over_the_hold_of_the_file() -> None:
    changed = make_policy().with_hold(window_tokens=7, delay_ms=None)
    assert (changed.hold.window_tokens, changed.hold.delay_ms) == (7, 60_000)
    assert changed.sha256 != make_policy().sha256
    with pytest.raises(InputError, match="window_tokens"):
        make_policy().with_hold(window_tokens=-1)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("How do I bake bread?", "en"),
        ("面包怎么烤？", "zh"),
        ("用 Python 写一个排序函数", "zh"),
        ("What does 你好 mean in English, and when do people say it?", "en"),
        ("", "en"),
        ("1234", "en"),
    ],
)
def test_the_language_of_a_refusal_is_that_of_the_prompt(text: str, language: str) -> None:
    assert pick_language(text) == language


def test_a_policy_that_is_not_there_or_too_large(tmp_path) -> None:
    with pytest.raises(InputError, match="can't read"):
        policy.load(tmp_path / "none.toml")
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * (policy.MAX_FILE_BYTES + 1))
    with pytest.raises(InputError, match="over"):
        policy.load(large)
