"""`fluvial sessions` on versions, against a real server over doubles of engine and reader."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fluvial.cli.main import run
from fluvial.cli.publication import parse_part
from fluvial.config import load
from fluvial.errors import InputError
from tests.server.conftest import Running, run_server

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    with run_server(tmp_path / "served") as running:
        monkeypatch.setenv("FLUVIAL_PORT", running.url.rpartition(":")[2])
        yield running


@pytest.fixture
def session(server: Running) -> str:
    """A session with two versions."""
    return learn(server)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(["sessions", *arguments])
        return code, *capsys.readouterr()

    return call


def learn(server: Running) -> str:
    id = server.create_session(title="Rivers")
    for number in (1, 2):
        body = {"name": f"{number}.txt", "text": "Rivers carve valleys. " * 10}
        server.client.post(f"/v1/sessions/{id}/readings", json=body)
        server.wait_for(f"/v1/sessions/{id}", lambda found, n=number: found["version"] == n)
    return id


def list_versions(say: Say, session: str) -> list[dict[str, object]]:
    return json.loads(say("versions", session, "--json")[1])["data"]


def test_versions_are_shown_with_their_evidence(say: Say, session: str) -> None:
    code, out, _ = say("versions", session)
    first, second = list_versions(say, session)
    assert code == 0
    for version in (first, second):
        assert str(version["short"]) in out
    assert "1.0000 -> 0.5000" in out
    assert f"{second['drift']:.4f} of {load().drift_budget:g}" in out


def test_two_versions_are_compared_on_a_file(say: Say, session: str, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("Rivers. " * 20)
    code, out, _ = say(
        "compare", session, "1", str(list_versions(say, session)[1]["id"]), str(file)
    )
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert ["base", "1.4427", "+0.00%"] in rows
    assert {row[1] for row in rows if row[:1] == ["version"]} == {"1", "2"}
    assert "a.txt: 160 tokens, 160 bytes" in out
    assert json.loads(say("compare", session, "1", "2", str(file), "--json")[1])["tokens"] == 160
    assert say("compare", session, "1", "9", str(file))[0] == 1
    file.write_bytes(b"\xff\xfe")
    code, _, err = say("compare", session, "1", "2", str(file))
    assert (code, "is not a text in UTF-8" in err) == (1, True)


def test_pin_and_unpin(say: Say, session: str) -> None:
    assert "is pinned" in say("pin", session, "1")[1]
    assert [v["pinned"] for v in list_versions(say, session)] == [True, False]
    assert "no longer pinned" in say("unpin", session, "1")[1]
    assert [v["pinned"] for v in list_versions(say, session)] == [False, False]
    assert say("pin", session, "0")[0] == 1


def test_branch_begins_a_session(say: Say, session: str, server: Running) -> None:
    server.say(session, "hello")
    code, out, _ = say("branch", session, "1", "--messages", "--title", "Aside")
    assert code == 0
    made = server.client.get(f"/v1/sessions/{out.split()[1]}").json()
    assert (made["title"], made["version"]) == ("Aside", 1)
    messages = server.client.get(f"/v1/sessions/{made['id']}/messages").json()["data"]
    assert [m["content"] for m in messages] == ["hello", "You said: hello"]


def test_versions_are_deleted_when_confirmed(
    say: Say, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("click.confirm", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    assert say("delete-version", session, "1")[0] == 130
    assert len(list_versions(say, session)) == 2
    assert "is deleted" in say("delete-version", session, "1", "--yes")[1]
    code, _, err = say("delete-version", session, "2", "--yes")
    assert (code, "is in force" in err) == (1, True)
    assert [v["number"] for v in list_versions(say, session)] == [2]


def test_undo_takes_an_id(say: Say, session: str) -> None:
    first = list_versions(say, session)[0]
    assert say("undo", session, str(first["id"]))[1] == "version 1 is in force\n"


def test_undo_says_when_what_came_before_is_deleted(say: Say, session: str) -> None:
    say("delete-version", session, "1", "--yes")
    code, _, err = say("undo", session)
    assert (code, "version 1, which came before, is deleted" in err) == (1, True)
    assert say("undo", session, "0")[1] == "version 0 is in force\n"


def test_publish_adopt_unpublish(say: Say, session: str, server: Running) -> None:
    assert "is published as rivers" in say("publish", session, "1", "rivers")[1]
    assert say("publish", session, "2", "rivers")[0] == 1
    assert say("publish", session, "2", "No Name")[0] == 1
    assert "rivers" in say("published")[1]
    assert json.loads(say("published", "--json")[1])[0]["yours"] is True
    other = server.create_session()
    assert say("adopt", other, "rivers")[0] == 0
    (adopted,) = list_versions(say, other)
    assert (adopted["origin"], adopted["note"]) == ("adopt", "adopted rivers")
    assert adopted["id"] == list_versions(say, session)[0]["id"]
    assert say("unpublish", "rivers")[0] == 0
    assert say("unpublish", "rivers")[0] == 1
    assert say("adopt", other, "rivers")[0] == 1


def test_merge_takes_versions_from_everywhere_one_may(
    say: Say, session: str, server: Running
) -> None:
    other = learn(server)
    say("publish", session, "1", "rivers")
    code, out, _ = say("merge", session, "2", f"{other}/1:0.5", "@rivers:-0.25", "--rank", "1")
    assert code == 0
    assert "rank 1 of 3 holds all but" in out
    merged = list_versions(say, session)[-1]
    assert (merged["origin"], len(merged["parents"])) == ("merge", 3)  # type: ignore[arg-type]
    assert "[" in say("versions", session, "--json")[1]
    assert say("merge", session, "2")[0] == 1


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("3", {"version": "3", "weight": 1.0}),
        ("abcd:0.5", {"version": "abcd", "weight": 0.5}),
        ("sess_1/2:-1", {"session": "sess_1", "version": "2", "weight": -1.0}),
        ("@team.a:2", {"published": "team.a", "weight": 2.0}),
    ],
)
def test_parts_of_a_merge(text: str, part: dict[str, object]) -> None:
    assert parse_part(text) == part


@pytest.mark.parametrize("text", ["", ":", "3:", "3:x", "sess_1/", ":1"])
def test_bad_parts_of_a_merge(text: str) -> None:
    with pytest.raises(InputError):
        parse_part(text)


def test_a_version_goes_out_and_comes_in(say: Say, session: str, tmp_path: Path) -> None:
    file = tmp_path / "v.safetensors"
    assert say("export", session, "1", "-o", str(file))[0] == 0
    code, out, _ = say("import", session, str(file))
    assert code == 0
    assert "version 3" in out
    one, _, three = list_versions(say, session)
    assert (three["sha256"], three["origin"]) == (one["sha256"], "import")
    assert three["id"] != one["id"]
    assert say("export", session, "1", "--format", "peft", "-o", str(tmp_path / "p"))[0] == 1
    file.write_bytes(file.read_bytes()[:-1])
    code, _, err = say("import", session, str(file))
    assert (code, "damaged" in err) == (1, True)
