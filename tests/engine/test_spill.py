import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluvial.engine import spill as module
from fluvial.engine import spill_file
from fluvial.engine.spill import Spill

Open = Callable[..., Spill]
TOKENS = np.arange(100, dtype=np.int32)


@pytest.fixture
def open_spill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    opened: list[Spill] = []
    monkeypatch.setattr(module, "SPARE_BYTES", 0)

    def start(folder: Path = tmp_path, **options: object) -> Spill:
        given = {"checkpoint": "c1", "version": "1", "budget_bytes": 10**9} | options
        opened.append(Spill(folder, **given))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def tensors(tokens: np.ndarray) -> dict[str, np.ndarray]:
    return {"pages": np.outer(tokens, [1, 2]).astype(np.float16), "state": np.ones(3, np.float32)}


def put(spill: Spill, tokens: np.ndarray = TOKENS, *, lane: str = "a", **options: object) -> None:
    origin = {"owner": "me", "key": None} | options
    spill.put(tokens, export=lambda: tensors(tokens), lane=lane, **origin)


def look(spill: Spill, tokens: np.ndarray = TOKENS, **options: object) -> int:
    found = spill.find(tokens.tolist(), **({"owner": "me", "key": None} | options))
    return 0 if found is None else found.common_tokens


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_what_was_put_comes_back_from_memory_and_from_disk(open_spill: Open, tmp_path: Path):
    spill = open_spill()
    put(spill)
    for wait in (lambda: None, spill.flush):
        wait()
        found = spill.find([*TOKENS.tolist(), 5, 6], owner="me", key=None)
        assert found is not None
        assert (found.common_tokens, found.kept.lane) == (96, "a")
        loaded = spill.load(found)
        assert loaded is not None
        assert loaded[0] == TOKENS.tolist()
        assert {name: each.tolist() for name, each in loaded[1].items()} == {
            name: each.tolist() for name, each in tensors(TOKENS).items()
        }
    assert found.kept.tensors is None
    (file,) = files(tmp_path)
    assert file.suffix == ".safetensors"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_beginnings_are_found_in_whole_links(open_spill: Open):
    spill = open_spill()
    put(spill)
    other = TOKENS.copy()
    other[40] = 7
    assert look(spill, other) == 32
    assert look(spill, TOKENS[:50]) == 48
    assert look(spill, TOKENS[1:]) == 0


def test_another_owner_or_version_finds_nothing(open_spill: Open):
    spill = open_spill()
    put(spill, key="s/1")
    assert look(spill, key="s/1") == 96
    assert look(spill, key="s/2") == look(spill, key=None) == look(spill, key="s/1", owner="x") == 0


def test_it_survives_a_restart_but_not_another_checkpoint_or_version(
    open_spill: Open, tmp_path: Path
):
    first = open_spill()
    put(first)
    first.close()
    assert look(open_spill()) == 96
    assert look(open_spill(version="2")) == 0
    assert not files(tmp_path)
    again = open_spill()
    put(again)
    again.close()
    assert look(open_spill(checkpoint="c2")) == 0
    assert not files(tmp_path)


def test_forgotten_lane_leaves_nothing_on_disk(open_spill: Open, tmp_path: Path):
    spill = open_spill()
    put(spill, lane="a")
    put(spill, TOKENS + 1, lane="b")
    spill.forget("a")
    spill.flush()
    assert len(files(tmp_path)) == 1
    assert (look(spill), look(spill, TOKENS + 1)) == (0, 96)
    put(spill, lane="a")
    spill.close()
    later = open_spill()
    later.forget("a")
    assert len(files(tmp_path)) == 1


def test_forgotten_adapter_leaves_nothing_on_disk(open_spill: Open, tmp_path: Path):
    spill = open_spill()
    put(spill, key="s/1")
    spill.flush()
    for n, (key, owner) in enumerate([("s/1", "me"), ("s/2", "me"), ("s/1", "you"), (None, "me")]):
        put(spill, TOKENS + n, key=key, owner=owner)
    spill.forget_adapter("s/1", owner="me")
    spill.flush()
    assert len(files(tmp_path)) == 3
    assert look(spill, key="s/1") == 0
    spill.close()
    later = open_spill()
    assert look(later, key="s/1") == 0
    assert look(later, TOKENS + 1, key="s/2") == look(later, TOKENS + 3, key=None) == 96


def test_forgotten_while_it_is_written(open_spill: Open, tmp_path: Path):
    spill = open_spill()
    for n in range(50):
        put(spill, TOKENS + n, lane="a")
    spill.forget("a")
    assert not files(tmp_path)
    assert spill.bytes == 0
    spill.flush()
    assert not files(tmp_path)


def test_longer_conversation_takes_the_place_of_its_beginning(open_spill: Open, tmp_path: Path):
    spill = open_spill()
    put(spill, TOKENS[:70])
    spill.flush()
    put(spill)
    spill.flush()
    assert len(files(tmp_path)) == 1
    assert look(spill) == 96


def test_least_lately_used_goes_first_over_the_budget(open_spill: Open, tmp_path: Path):
    spill = open_spill()
    put(spill)
    spill.flush()
    size = spill.bytes
    spill.close()
    spill = open_spill(budget_bytes=int(2.5 * size))
    put(spill, TOKENS + 1)
    spill.flush()
    found = spill.find(TOKENS.tolist(), owner="me", key=None)
    assert found is not None
    assert spill.load(found)
    put(spill, TOKENS + 2)
    spill.flush()
    assert [look(spill, TOKENS + n) for n in range(3)] == [96, 0, 96]
    assert len(files(tmp_path)) == 2
    assert spill.bytes <= 2.5 * size


def test_short_and_known_prefixes_are_not_written(open_spill: Open, tmp_path: Path):
    def never() -> dict[str, np.ndarray]:
        raise AssertionError("asked for")

    spill = open_spill()
    spill.put(TOKENS[:10], export=never, lane="a", owner="me", key=None)
    put(spill)
    spill.put(TOKENS, export=never, lane="a", owner="me", key=None)
    spill.flush()
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize("at", [0, 9, 200, -1])
def test_damaged_file_is_ignored_and_deleted(open_spill: Open, tmp_path: Path, at: int):
    spill = open_spill()
    put(spill)
    spill.close()
    (file,) = files(tmp_path)
    data = bytearray(file.read_bytes())
    data[at] ^= 0xFF
    file.write_bytes(data)
    spill = open_spill()
    found = spill.find(TOKENS.tolist(), owner="me", key=None)
    assert found is None or spill.load(found) is None
    assert look(spill) == 0
    assert not files(tmp_path)


def test_file_under_another_name_is_not_believed(open_spill: Open, tmp_path: Path):
    spill = open_spill()
    put(spill)
    put(spill, TOKENS + 1)
    spill.close()
    one, two = files(tmp_path)
    two.write_bytes(one.read_bytes())
    spill = open_spill()
    loaded = [spill.find((TOKENS + n).tolist(), owner="me", key=None) for n in range(2)]
    for n, found in enumerate(loaded):
        got = None if found is None else spill.load(found)
        assert got is None or got[0] == (TOKENS + n).tolist()


@settings(max_examples=40, deadline=None)
@given(data=st.binary(max_size=200), header=st.dictionaries(st.text(max_size=8), st.text()))
def test_hostile_files_are_deleted(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, header: dict[str, str]
):
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "a.safetensors").write_bytes(data)
    text = json.dumps({"__metadata__": {"format": spill_file.FORMAT, **header}}).encode()
    (folder / "b.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    (folder / "c.safetensors").write_bytes((2**62).to_bytes(8, "little") + data)
    (folder / "left.tmp").write_bytes(data)
    (folder / "notes.txt").write_bytes(data)
    spill = Spill(folder, checkpoint="c1", version="1", budget_bytes=10**9)
    spill.close()
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_full_disk_is_nobodys_error(
    open_spill: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "SPARE_BYTES", 2**62)
    spill = open_spill()
    put(spill)
    spill.flush()
    assert not files(tmp_path)
    assert look(spill) == 0


def test_folder_that_can_not_be_made_is_nobodys_error(
    open_spill: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "file").write_text("in the way")
    spill = open_spill(tmp_path / "file" / "caches")
    put(spill)
    spill.flush()
    assert look(spill) == 0
    assert "was not written" in caplog.text


def test_what_waits_for_a_slow_disk_is_bounded(open_spill: Open, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "PENDING_BYTES", -1)
    spill = open_spill()
    put(spill)
    assert look(spill) == 0


@given(
    left=st.lists(st.integers(0, 2), max_size=90), right=st.lists(st.integers(0, 2), max_size=90)
)
def test_links_in_common_are_the_whole_ones(left: list[int], right: list[int]):
    right = left[:50] + right
    arrays = [np.array(tokens, np.int32) for tokens in (left, right)]
    chains = [spill_file.make_chain(tokens, "salt") for tokens in arrays]
    common = next(
        (n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b),
        min(len(left), len(right)),
    )
    assert spill_file.count_links(chains[0][0], chains[1][0]) == common // spill_file.LINK_TOKENS
    assert (chains[0][1] == chains[1][1]) == (left == right)


def test_names_do_not_tell_what_they_stand_for(open_spill: Open, tmp_path: Path):
    spill = open_spill()
    put(spill, owner="a name", lane=spill_file.digest("sess_1"))
    spill.close()
    (file,) = files(tmp_path)
    assert b"a name" not in file.read_bytes()
    assert b"sess_1" not in file.read_bytes()
