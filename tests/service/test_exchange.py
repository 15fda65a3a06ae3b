"""Versions as files of other formats, through the service, on a tiny model of a real family."""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest

from fluvial.adapt.bounding import Measure
from fluvial.adapt.history import History
from fluvial.config import load
from fluvial.errors import ConflictError, FluvialError, ModelError, TooLargeError, UnsupportedError
from fluvial.model.adapter import Tensors
from fluvial.model.adapter_file import encode
from fluvial.model.checkpoint import open_checkpoint
from fluvial.service import Service
from fluvial.service import archive as archive_module
from fluvial.service.exchange import Format
from fluvial.testing import MODEL, ScriptedLearner, make_rig
from fluvial.types import Session, Version
from fluvial.version_note import Compressed, Imported, ScaledBack, Unmeasured
from tests.families import create_random_adapter

FORMATS: list[Format] = ["peft", "gguf"]


@dataclass
class Bench:
    """A service whose adapters fit a tiny llama, and a session of it."""

    service: Service
    history: History
    session: Session
    checkpoint: str
    plain: Tensors
    gained: Tensors

    def put(self, tensors: Tensors) -> Version:
        made = self.history.add(
            self.session, tensors, origin="import", parents=(), rule="", drift=None
        )
        self.session = made[0]
        return made[1]

    def load(self, version: Version) -> Tensors:
        adapter = self.history.load(self.session, version.number)
        assert adapter is not None
        return adapter.tensors


Open = Callable[..., Bench]


@pytest.fixture
def open_bench(tmp_path: Path, tiny_model: Path) -> Iterator[Open]:
    rig = make_rig(tmp_path / "data")
    checkpoint = open_checkpoint(tiny_model)
    history = History(rig.store, declaration=checkpoint.declaration, checkpoint=checkpoint.sha256)
    gained = create_random_adapter(checkpoint.declaration, rank=2, seed=3)
    plain = {
        name: np.zeros_like(array) if name.endswith(".gain") else array
        for name, array in gained.items()
    }

    def build(*, measure: Measure | None = None, declared: bool = True) -> Bench:
        service = Service(
            settings=load(overrides={"data_dir": tmp_path / "data"}),
            model=replace(MODEL, sha256=checkpoint.sha256),
            engine=rig.engine,
            store=rig.store,
            history=history,
            reader=rig.reader,
            learner=ScriptedLearner(),
            hub=rig.hub,
            audit=rig.service.audit,
            clearance=rig.service.clearance,
            guarding=rig.service.guarding,
            installed=list,
            checkpoint=checkpoint if declared else None,
            measure=measure,
        )
        session = service.create_session(owner="me")
        return Bench(service, history, session, checkpoint.sha256, plain, gained)

    yield build
    rig.service.close()


def same(one: Tensors, two: Tensors) -> bool:
    return one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("format", ["fluvial", *FORMATS])
def test_what_goes_out_comes_back_bit_for_bit(open_bench: Open, format: Format) -> None:
    bench = open_bench()
    before = bench.put(bench.plain)
    made = bench.service.exchange.write(bench.session, "1", format=format)
    assert made.loss == 0
    taken = bench.service.exchange.take(bench.session, made.data)
    version = taken.version
    assert (taken.format, taken.loss, version.origin) == (format, 0, "import")
    assert same(bench.load(version), bench.plain)
    assert (version.sha256, version.parents, version.parent) == (before.sha256, (), 1)
    assert version.id != before.id  # the rule that made it is another
    assert json.loads(version.rule) == {"import": format}
    assert version.drift is None
    assert version.notes == (Imported(format=taken.format), Unmeasured())
    again = bench.service.exchange.write(bench.session, "1", format=format)
    assert (again.name, again.data) == (made.name, made.data)


@pytest.mark.parametrize("format", FORMATS)
def test_gains_are_refused_unless_they_may_be_folded_in(open_bench: Open, format: Format) -> None:
    bench = open_bench()
    bench.put(bench.gained)
    with pytest.raises(UnsupportedError, match="gain"):
        bench.service.exchange.write(bench.session, "1", format=format)
    made = bench.service.exchange.write(bench.session, "1", format=format, lossy=True)
    assert made.loss < 1e-6  # the tiny model is no wider than the rank that takes gains up
    taken = bench.load(bench.service.exchange.take(bench.session, made.data).version)
    assert not any(array.any() for name, array in taken.items() if name.endswith(".gain"))


def test_a_rank_limit_compresses_and_tells(open_bench: Open) -> None:
    bench = open_bench()
    bench.put(bench.plain)
    data = bench.service.exchange.write(bench.session, "1", format="gguf").data
    taken = bench.service.exchange.take(bench.session, data, rank=1)
    assert 0 < taken.loss < 1
    assert Compressed(rank=1, loss=taken.loss) in taken.version.notes
    assert {a.shape[1] for n, a in bench.load(taken.version).items() if n.endswith(".a")} == {1}


def test_an_import_is_scaled_back_to_the_drift_budget(open_bench: Open) -> None:
    def measure(tensors: Tensors) -> float:
        return float(sum((array**2).sum() for name, array in tensors.items() if name[-1] == "b"))

    bench = open_bench(measure=measure)
    budget = load().drift_budget
    assert measure(bench.plain) > budget
    data = encode(bench.plain, checkpoint=bench.checkpoint)
    version = bench.service.exchange.take(bench.session, data).version
    assert version.drift is not None
    assert 0.8 * budget < version.drift <= budget
    assert version.drift == pytest.approx(measure(bench.load(version)))
    assert 0 < version.scale < 1
    assert any(isinstance(note, ScaledBack) for note in version.notes)


def test_an_import_that_no_scale_helps_is_refused(open_bench: Open) -> None:
    bench = open_bench(measure=lambda _: float("nan"))
    data = encode(bench.plain, checkpoint=bench.checkpoint)
    with pytest.raises(ConflictError, match="budget") as caught:
        bench.service.exchange.take(bench.session, data)
    assert caught.value.code == "drift_over_budget"
    assert bench.service.versions.list_all(bench.session).versions == []


def test_a_model_without_a_declaration_exchanges_our_own_format_only(open_bench: Open) -> None:
    bench = open_bench(declared=False)
    bench.put(bench.plain)
    data = bench.service.exchange.write(bench.session, "1", format="fluvial").data
    assert bench.service.exchange.take(bench.session, data).version.number == 2
    for format in FORMATS:
        with pytest.raises(UnsupportedError, match="declaration"):
            bench.service.exchange.write(bench.session, "1", format=format)
    with pytest.raises(UnsupportedError, match="declaration"):
        bench.service.exchange.take(bench.session, b"GGUF....")


def test_hostile_files_are_refused_and_nothing_changes(open_bench: Open) -> None:
    bench = open_bench()
    bench.put(bench.plain)
    good = encode(bench.plain, checkpoint=bench.checkpoint)
    wide = create_random_adapter(bench.history._declaration, rank=65, seed=1)  # type: ignore[arg-type]
    nan = {**bench.plain, "layers.0.o.b": np.full_like(bench.plain["layers.0.o.b"], np.nan)}
    files = {
        "empty": b"",
        "text": b"hello",
        "cut": good[:-1],
        "long header": (2**40).to_bytes(8, "little") + good[8:],
        "another model": encode(bench.plain, checkpoint="ab" * 32),
        "not finite": encode(nan, checkpoint=bench.checkpoint),
        "a tensor missing": encode(dict(list(good_items(bench))[1:]), checkpoint=bench.checkpoint),
        "rank over the limit": encode(wide, checkpoint=bench.checkpoint),
        "gguf cut": bench.service.exchange.write(bench.session, "1", format="gguf").data[:-9],
        "gguf nothing": b"GGUF",
        "zip nothing": b"PK\x03\x04",
    }
    for name, data in files.items():
        with pytest.raises(FluvialError) as caught:
            bench.service.exchange.take(bench.session, data)
        assert caught.value.status in (400, 413, 422), name
    assert [v.number for v in bench.service.versions.list_all(bench.session).versions] == [1]


def good_items(bench: Bench) -> Iterator[tuple[str, np.ndarray]]:
    yield from bench.plain.items()


def pack(files: dict[str, bytes], *, compression: int = ZIP_DEFLATED) -> bytes:
    target = io.BytesIO()
    with ZipFile(target, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return target.getvalue()


def unzip(data: bytes) -> dict[str, bytes]:
    with ZipFile(io.BytesIO(data)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def test_zips_are_taken_in_any_form_but_only_with_what_belongs_there(
    open_bench: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = open_bench()
    bench.put(bench.plain)
    data = bench.service.exchange.write(bench.session, "1", format="peft").data
    files = unzip(data)
    config, weights = sorted(files)
    assert (config, weights) == (archive_module.CONFIG_FILE, archive_module.WEIGHTS_FILE)
    inside = pack({f"../../mine/{name}": each for name, each in files.items()})
    taken = bench.service.exchange.take(bench.session, inside)
    assert same(bench.load(taken.version), bench.plain)
    bad: list[tuple[bytes, type[FluvialError]]] = [
        (pack({config: files[config]}), ModelError),
        (pack({**files, "README.md": b"hi"}), UnsupportedError),
        (pack({**files, "adapter_model.bin": b"\x80\x04."}), UnsupportedError),
        (pack({**files, f"a/{config}": files[config]}), UnsupportedError),
        (pack({**files, config: b"{"}), FluvialError),
        (pack({**files, weights: files[weights][:50]}), ModelError),
        (data[:-30], ModelError),
        (data[:200] + b"\xff" * 100 + data[300:], FluvialError),
    ]
    for each, error in bad:
        with pytest.raises(error):
            bench.service.exchange.take(bench.session, each)
    monkeypatch.setattr(archive_module, "WEIGHTS_BYTES", len(files[weights]) - 1)
    with pytest.raises(TooLargeError):
        bench.service.exchange.take(bench.session, data)


def test_a_file_that_unpacks_to_more_than_its_limit_is_not_unpacked(
    open_bench: Open, tmp_path: Path
) -> None:
    bomb = pack({archive_module.CONFIG_FILE: bytes(2**24), archive_module.WEIGHTS_FILE: b""})
    assert len(bomb) < 2**15
    with pytest.raises(TooLargeError):
        open_bench().service.exchange.take(open_bench().session, bomb)
