"""`hf:` against a hub on loopback, through huggingface_hub's own client."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fluvial.errors import InputError, SourceError
from fluvial.model.source.base import Delivery
from fluvial.model.source.hf import HubSource
from tests.model.web import Blob, Recorder, Stub, digest, run_stub

DATA = bytes(range(256)) * 1024
REPOSITORY = "Maker/Tiny-GGUF"
SPEC = f"{REPOSITORY}/sub/tiny-q4.gguf"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    with run_stub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def deliver(spec: str, work: Path) -> Delivery:
    source = HubSource.parse(spec)
    source.pause_s = 0
    source.contact()
    return source.deliver(work, progress=Recorder())


def test_a_file_comes_from_the_hub(hub: Stub, tmp_path: Path) -> None:
    hub.add_hub_file(REPOSITORY, "sub/tiny-q4.gguf", DATA)
    delivery = deliver(SPEC, tmp_path)
    assert delivery.sha256 == digest(DATA)
    assert (delivery.folder / "model.gguf").read_bytes() == DATA
    assert ("HEAD", f"/{REPOSITORY}/resolve/main/sub/tiny-q4.gguf", None) in hub.requests


def test_a_stopped_download_goes_on_at_the_same_commit(hub: Stub, tmp_path: Path) -> None:
    blob = hub.add_hub_file(REPOSITORY, "sub/tiny-q4.gguf", DATA, cuts=[70_000, 0, 0, 0])
    with pytest.raises(SourceError, match="broke off after 70000"):
        deliver(SPEC, tmp_path)
    blob.cuts.clear()
    hub.requests.clear()
    assert deliver(SPEC, tmp_path).sha256 == digest(DATA)
    commit = "0" * 39 + "1"
    path = f"/{REPOSITORY}/resolve/{commit}/sub/tiny-q4.gguf"
    assert hub.requests[-1] == ("GET", path, "bytes=70000-")


def test_the_hub_s_own_hash_is_checked(hub: Stub, tmp_path: Path) -> None:
    blob = hub.add_hub_file(REPOSITORY, "sub/tiny-q4.gguf", DATA)
    blob.headers["ETag"] = f'"{"0" * 64}"'
    with pytest.raises(SourceError, match="was promised"):
        deliver(SPEC, tmp_path)


def test_a_token_is_sent_to_the_hub_but_not_to_its_storage(
    hub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with run_stub() as storage:
        hub.add_hub_file(REPOSITORY, "sub/tiny-q4.gguf", b"", status=302)
        storage.blobs["/blob"] = Blob(DATA)
        for blob in hub.blobs.values():
            blob.headers |= {
                "Location": f"{storage.url}/blob",
                "X-Linked-Size": str(len(DATA)),
                "X-Linked-Etag": digest(DATA),
            }
        assert deliver(SPEC, tmp_path).sha256 == digest(DATA)
        assert hub.headers[0]["authorization"] == "Bearer hf_secret"
        assert storage.headers
        assert all("authorization" not in headers for headers in storage.headers)


def test_a_missing_file_is_an_error(hub: Stub, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not give it"):
        deliver(SPEC, tmp_path)


def test_a_hub_that_can_t_be_reached_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_stub() as server:
        url = server.url
    monkeypatch.setenv("HF_ENDPOINT", url)
    with pytest.raises(SourceError, match="can't be reached"):
        deliver(SPEC, tmp_path)


def test_a_hub_that_does_not_answer_is_left(
    hub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fluvial.model.source.base.ANSWER_LIMIT_S", 0.05)
    blob = hub.add_hub_file(REPOSITORY, "sub/tiny-q4.gguf", DATA)
    blob.delay_s = 0.5
    with pytest.raises(SourceError, match=r"did not answer within 0\.05 s"):
        deliver(SPEC, tmp_path)


def add_repository(hub: Stub, names: dict[str, bytes]) -> None:
    listing = {
        "id": "Maker/Tiny",
        "modelId": "Maker/Tiny",
        "sha": "0" * 39 + "1",
        "siblings": [{"rfilename": name} for name in names],
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "private": False,
    }
    hub.add_json("/api/models/Maker/Tiny", listing, "application/json")
    for name, data in names.items():
        hub.add_hub_file("Maker/Tiny", name, data)


def test_a_repository_brings_weights_config_and_tokenizer_only(hub: Stub, tmp_path: Path) -> None:
    names = {
        "config.json": b"{}",
        "model.safetensors": DATA,
        "tokenizer.json": b"[]",
        "pytorch_model.bin": b"pickled",
        "evil.py": b"import os",
        "../../escape.safetensors": b"x",
        "onnx/model.safetensors": b"x",
        "README.md": b"#",
    }
    add_repository(hub, names)
    delivery = deliver("Maker/Tiny", tmp_path)
    found = {file.name: file.read_bytes() for file in delivery.folder.iterdir()}
    assert found == {k: names[k] for k in ("config.json", "model.safetensors", "tokenizer.json")}
    assert delivery.sha256 is None


def test_a_repository_without_safetensors_is_refused(hub: Stub, tmp_path: Path) -> None:
    add_repository(hub, {"config.json": b"{}", "pytorch_model.bin": b"pickled"})
    with pytest.raises(SourceError, match="holds no safetensors model"):
        deliver("Maker/Tiny", tmp_path)


@pytest.mark.parametrize(
    "spec",
    ["", "name", "a/b/../c.gguf", "a/b/model.bin", "a/b//x.gguf", "a/b@", "a/b/x\\y.gguf", "a b/c"],
)
def test_a_malformed_spec_is_an_input_error(spec: str) -> None:
    with pytest.raises(InputError):
        HubSource.parse(spec)


def test_a_revision_is_understood() -> None:
    source = HubSource.parse("Maker/Tiny@v1.0/sub/x.gguf")
    assert (source.repository, source.revision, source.file) == ("Maker/Tiny", "v1.0", "sub/x.gguf")
    assert HubSource.parse("Maker/Tiny@abc").revision == "abc"
