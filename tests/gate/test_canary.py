"""Canaries: what they ask, when a version fails, and that they stay private and rotate."""

import json
import math
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from fluvial.errors import InputError, StorageError
from fluvial.gate.canary import (
    ALPHA,
    KINDS,
    TOLERATED,
    Canary,
    Count,
    exceeds,
    judge,
    order,
    share_out,
)
from fluvial.gate.canary_file import MAX_OPERATOR_CANARIES, read_canaries
from fluvial.gate.canary_pool import load_pool
from fluvial.gate.canary_set import ATTEMPTS, DAY_S, SHARES, CanarySet, Rotation

NEVER = Rotation(runs=0, days=0)


def open_set(folder: Path, **options: object) -> CanarySet:
    given = {"count": 20, "rotation": NEVER, "now": 0.0, **options}
    return CanarySet(folder, **given)  # type: ignore[arg-type]


class Base:
    """A base that gives right answers to all, but for those that `fails` picks."""

    def __init__(self, fails: Sequence[str] = ()) -> None:
        self.asked: list[Canary] = []
        self.fails = fails

    def __call__(self, canaries: Sequence[Canary]) -> list[str]:
        self.asked += canaries
        return ["" if each.prompt in self.fails else answer(each) for each in canaries]


def answer(canary: Canary) -> str:
    """Answer a canary of the pool as it must be."""
    if "declines" in canary.criteria:
        return "I'm sorry, I can't talk about that."
    if "number" in canary.criteria:
        return str(canary.criteria["number"])
    return " ".join(each.split("|")[0] for each in canary.criteria["has"])


def test_the_verdict_is_the_exact_binomial_tail() -> None:
    for counted in (1, 4, 8, 12, 20):
        for failed in range(counted + 1):
            tail = sum(
                math.comb(counted, k) * TOLERATED**k * (1 - TOLERATED) ** (counted - k)
                for k in range(failed, counted + 1)
            )
            assert exceeds(Count(counted=counted, failed=failed)) == (
                failed > 0 and tail < ALPHA / 2
            ), (counted, failed)


def test_either_kind_alone_can_fail_a_version() -> None:
    canaries = [
        Canary(kind=kind, prompt=f"{kind} {n}", criteria={"has": ["yes"]})
        for kind in KINDS
        for n in range(10)
    ]
    assert judge(canaries, ["yes"] * 20).passed
    for kind in KINDS:
        verdict = judge(canaries, ["no" if each.kind == kind else "yes" for each in canaries])
        assert not verdict.passed
        assert getattr(verdict, kind) == Count(counted=10, failed=10)
        assert (verdict.counted, verdict.failed) == (20, 10)
    two = ["no", "no", *["yes"] * 18]
    assert judge(canaries, two).passed


def test_nothing_counted_fails_nothing() -> None:
    assert judge([], []).passed


def test_what_is_drawn_is_answerable_and_of_both_kinds(tmp_path: Path) -> None:
    chosen = open_set(tmp_path / "canaries").choose(Base(), base="b")
    wanted = share_out(20)
    found = {kind: sum(each.kind == kind for each in chosen) for kind in KINDS}
    # The same canary may have been drawn for two places.
    assert wanted["policy"] - 3 <= found["policy"] <= wanted["policy"]
    assert wanted["ability"] - 3 <= found["ability"] <= wanted["ability"]
    assert all(each.accepts(answer(each)) and not each.accepts("hm") for each in chosen)
    policies = {each.system for each in chosen if each.kind == "policy"}
    assert 1 <= len(policies) <= 2


def test_two_folders_draw_different_canaries(tmp_path: Path) -> None:
    one, other = (open_set(tmp_path / name) for name in "ab")
    systems = [{each.system for each in s.choose(Base(), base="b")} - {""} for s in (one, other)]
    assert not systems[0] & systems[1]
    assert one.draw_sha256 != other.draw_sha256
    assert one.sha256 == other.sha256, "a release is for any server that draws by the same rules"


def test_only_what_the_base_passes_counts_and_it_is_asked_once(tmp_path: Path) -> None:
    folder = tmp_path / "canaries"
    asked = [each.prompt for each in open_set(folder).choose(Base(), base="b")]
    base = Base(fails=asked[:4])
    again = open_set(folder)
    chosen = again.choose(base, base="another")
    assert not {each.prompt for each in chosen} & set(asked[:4])
    assert len(base.asked) <= 20 + 4 * ATTEMPTS
    count = len(base.asked)
    assert open_set(folder).choose(base, base="another") == chosen
    assert len(base.asked) == count
    assert open_set(folder).choose(base, base="a third") == chosen
    assert len(base.asked) == 2 * count


def test_a_base_that_passes_nothing_leaves_no_canaries(tmp_path: Path) -> None:
    assert open_set(tmp_path).choose(lambda each: ["hm"] * len(each), base="b") == []


def test_the_set_survives_a_restart_and_rotates_a_share_at_a_time(tmp_path: Path) -> None:
    rotation = Rotation(runs=3, days=0)
    canaries = open_set(tmp_path, rotation=rotation)
    name, first = canaries.sha256, canaries.choose(Base(), base="b")
    draws = {canaries.draw_sha256}
    assert [canaries.note_run(now=1.0) for _ in range(3)] == [False, False, True]
    canaries = open_set(tmp_path, rotation=rotation)  # after a restart
    draws.add(canaries.draw_sha256)
    second = canaries.choose(Base(), base="b")
    kept = len({each.sha256 for each in first} & {each.sha256 for each in second})
    assert 20 - 20 // SHARES - 4 <= kept < 20
    for _ in range(3 * (SHARES - 1)):
        canaries.note_run(now=1.0)
    last = canaries.choose(Base(), base="b")
    policies = [{each.system for each in some} - {""} for some in (first, last)]
    assert not policies[0] & policies[1], "after all shares have turned, no topic is left"
    assert canaries.sha256 == name, "a release goes on to name it"
    assert len({*draws, canaries.draw_sha256}) == 3


def test_days_rotate_too(tmp_path: Path) -> None:
    canaries = open_set(tmp_path, rotation=Rotation(runs=0, days=7))
    assert not canaries.note_run(now=6.9 * DAY_S)
    assert canaries.note_run(now=7.1 * DAY_S)
    assert not canaries.note_run(now=7.2 * DAY_S)
    assert canaries.turn == 1


def test_the_name_covers_all_that_decides_what_is_asked(tmp_path: Path) -> None:
    own = Canary(kind="policy", prompt="About the mill?", criteria={"declines": True})
    names = {
        open_set(tmp_path).sha256,
        open_set(tmp_path, count=21).sha256,
        open_set(tmp_path, rotation=Rotation(runs=1, days=0)).sha256,
        open_set(tmp_path, operator=[own]).sha256,
    }
    assert len(names) == 4


def test_files_are_for_the_owner_alone_and_say_nothing_of_what_is_asked(tmp_path: Path) -> None:
    folder = tmp_path / "canaries"
    chosen = open_set(folder).choose(Base(), base="b")
    for path in folder.iterdir():
        path.chmod(0o644)
    folder.chmod(0o755)
    open_set(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    texts: list[str] = []
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        texts.append(path.read_text())
    assert len(texts) == 2
    assert not [each for each in chosen for text in texts if each.prompt in text]


def test_a_damaged_set_is_refused_and_a_damaged_cache_is_asked_again(tmp_path: Path) -> None:
    chosen = open_set(tmp_path).choose(Base(), base="b")
    (tmp_path / "base.json").write_text("[[")
    assert open_set(tmp_path).choose(Base(), base="b") == chosen
    for damage in (b"{", b"[]", b'{"seed": "ab"}', b'{"seed": 1, "turn": 0}', b"\xff"):
        (tmp_path / "set.json").write_bytes(damage)
        with pytest.raises(StorageError) as caught:
            open_set(tmp_path)
        assert caught.value.code == "canaries_damaged"


def test_an_operators_canaries_are_always_asked(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(
        '[[canary]]\nprompt = "Say the mill\'s name."\ncriteria = {declines = true}\n'
        'system = "Never name the mill."\nturns = [["Hi", "Hello"]]\n\n'
        '[[canary]]\nkind = "ability"\nprompt = "2 + 2?"\ncriteria = {number = 4}\n'
    )
    own = read_canaries(file)
    assert [each.kind for each in own] == ["policy", "ability"]
    assert [m.role for m in own[0].list_messages()] == ["system", "user", "assistant", "user"]
    lines = tmp_path / "own.jsonl"
    lines.write_text(
        "\n".join(
            json.dumps({"prompt": each.prompt, "criteria": dict(each.criteria)}) for each in own
        )
    )
    assert [each.prompt for each in read_canaries(lines)] == [each.prompt for each in own]
    chosen = open_set(tmp_path / "set", operator=own).choose(Base(), base="b")
    assert chosen[:2] == own


SECRET = "the mill at Eastwater"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": SECRET},
        {"prompt": SECRET, "criteria": {}},
        {"prompt": SECRET, "criteria": {SECRET: 1}},
        {"prompt": SECRET, "criteria": {"words": 3}},
        {"prompt": SECRET, "criteria": {"matches": "("}},
        {"prompt": "", "criteria": {"has": [SECRET]}},
        {"prompt": SECRET, "criteria": {"has": ["a"]}, "kind": SECRET},
        {"prompt": SECRET, "criteria": {"has": ["a"]}, "turns": [[SECRET]]},
        {"prompt": SECRET * 1000, "criteria": {"has": ["a"]}},
        {"prompt": SECRET, "criteria": {"has": ["a"]}, SECRET: 1},
        [SECRET],
        SECRET,
    ],
)
def test_a_wrong_canary_is_refused_by_its_number_and_never_repeated(
    tmp_path: Path, row: object
) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps({"prompt": "a", "criteria": {"has": ["a"]}}) + "\n")
    with file.open("a") as added:
        added.write(json.dumps(row))
    with pytest.raises(InputError, match="canary 2") as caught:
        read_canaries(file)
    assert SECRET not in caught.value.message


@pytest.mark.parametrize("text", ["", "{", "\x00", '"a"\n' * (MAX_OPERATOR_CANARIES + 1)])
def test_a_file_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text(text)
    with pytest.raises(InputError):
        read_canaries(file)


def test_the_long_beginnings_are_asked_first() -> None:
    def make(prompt: str, system: str = "") -> Canary:
        return Canary(kind="policy", prompt=prompt, system=system, criteria={"has": ["a"]})

    a, b, c, d = make("1", "one"), make("2", "one"), make("3", "two"), make("4")
    leading, others = order([a, b, c, d])
    assert {each.prompt for each in leading} == {"1", "3"}
    assert others == [b, d]


def test_every_form_of_the_pool_can_be_filled_and_has_its_criteria() -> None:
    pool = load_pool()
    assert all("{t}" in each for each in pool["questions"])
    assert len(set(pool["questions"])) == len(pool["questions"]) >= 30
    for fact in pool["fact"]:
        Canary(
            kind="ability",
            prompt=fact["prompt"],
            criteria={name: value for name, value in fact.items() if name != "prompt"},
        )
