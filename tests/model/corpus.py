"""Lines of English, Chinese, code, emoji, control characters and mixtures; the same for a seed."""

import argparse
import ast
import asyncio.base_events
import collections
import email.message
import inspect
import random
import textwrap
import typing
import unicodedata
from types import ModuleType

SEED = 20_261_122
_MODULES: tuple[ModuleType, ...] = (
    argparse,
    ast,
    asyncio.base_events,
    collections,
    email.message,
    inspect,
    random,
    textwrap,
    typing,
)
_SUBJECTS = (
    "这台机器|我们的模型|她的祖父|一封旧信|图书馆的管理员|北京的秋天|数据库|每个孩子|春风|工程师"
)
_VERBS = "记得|慢慢地读完了|无法解释|正在学习|悄悄改变了|昨天忘记了|反复计算|喜欢|需要|看见"
_OBJECTS = (
    "一本很厚的书|三千二百个字|窗外的雨声|自己的错误|第42页"
    "|矩阵的秩|山那边的灯火|Python程序|新的词语"
)
_ENDS = "。|!|？|……|,然后睡着了。|；仅此而已。|——真的吗？|、以及别的。"
_EMOJI = "😀😂🥲❤️🔥✨🎉🐍🧠👩🏽‍🚀👨‍👩‍👧‍👦🏳️‍🌈🇨🇳🇪🇺1️⃣☕️👍🏿🤷‍♀️🫠"
_SPACES = " \t\n\r\v\f\u00a0\u2003\u2028\u3000\u200b\ufeff"
_MARKS = "\u0301\u0300\u0308\u0327\u0323\u20e3\u3099\ufe0f\u200d\u202e"
_SCRIPTS = "éñßøçŁЖщΔλאבجदेไทย한글かなｶﾅＡ１②½Ⅷ٣१𝔘𝟘𐍈ﬁǅ"


def make_lines(count: int = 5000, *, seed: int = SEED) -> list[str]:
    """Return `count` lines in a mixed order. The same seed gives the same lines on one Python."""
    rng = random.Random(seed)
    source = [
        line for module in _MODULES for line in inspect.getsource(module).splitlines() if line
    ]
    makers = (
        lambda: rng.choice(source),
        lambda: "\n".join(_pick_run(rng, source)),
        lambda: _make_chinese(rng),
        lambda: _make_emoji(rng),
        lambda: _make_controls(rng),
        lambda: _make_numbers(rng),
        lambda: _make_any(rng),
        lambda: _make_mixture(rng, source),
    )
    return [makers[index % len(makers)]() for index in range(count)]


def _pick_run(rng: random.Random, source: list[str]) -> list[str]:
    start = rng.randrange(len(source) - 8)
    return source[start : start + rng.randrange(2, 8)]


def _make_chinese(rng: random.Random) -> str:
    parts = (_SUBJECTS, _VERBS, _OBJECTS, _ENDS)
    return "".join(
        "".join(rng.choice(part.split("|")) for part in parts) for _ in range(rng.randrange(1, 5))
    )


def _make_emoji(rng: random.Random) -> str:
    plain = "".join(rng.choices(_EMOJI + _SCRIPTS, k=rng.randrange(1, 12)))
    return rng.choice(("", " ", "ok ")) + plain + rng.choice((" !", "\n", ""))


def _make_controls(rng: random.Random) -> str:
    controls = [chr(code) for code in (*range(32), *range(0x7F, 0xA0))]
    return "".join(
        rng.choices([*controls, *_SPACES, *_MARKS, "a", "Z", "7"], k=rng.randrange(1, 24))
    )


def _make_numbers(rng: random.Random) -> str:
    forms = ("{:,}", " {}", "  {}.", "${}", "x{}y", "{:08x}", "{}%\n", "\t{}", "第{}页", "{}'s")
    return " ".join(
        rng.choice(forms).format(rng.randrange(10 ** rng.randrange(1, 9))) for _ in range(6)
    )


def _make_any(rng: random.Random) -> str:
    codes = (rng.randrange(0x30000) for _ in range(rng.randrange(1, 16)))
    return "".join(chr(code) for code in codes if unicodedata.category(chr(code)) != "Cs")


def _make_mixture(rng: random.Random, source: list[str]) -> str:
    pieces = (
        lambda: rng.choice(source)[: rng.randrange(1, 20)],
        lambda: _make_chinese(rng)[: rng.randrange(1, 8)],
        lambda: rng.choice(_EMOJI),
        lambda: rng.choice(_SPACES) * rng.randrange(1, 6),
        lambda: rng.choice(("'s", "'LL", "n't", "'Ré", "--", "...", "<|", "|>", "[", "\r\n\r\n")),
        lambda: rng.choice("eoaAuUcn") + rng.choice(_MARKS) * rng.randrange(1, 3),
        lambda: str(rng.randrange(10_000)),
    )
    return "".join(rng.choice(pieces)() for _ in range(rng.randrange(2, 14)))
