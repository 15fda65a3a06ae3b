"""`hf:`, a file or a whole repository of a Hugging Face hub.

    hf:OWNER/NAME[@REVISION]/PATH/TO/FILE.gguf      one GGUF file
    hf:OWNER/NAME[@REVISION]                        safetensors with its config and tokenizer

huggingface_hub finds the hub (HF_ENDPOINT), the token (HF_TOKEN) and the files' hashes; the bytes
come through our own transfer, so that resuming, hashing and limits are the same for every source.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from fluvial.errors import InputError, SourceError
from fluvial.model.source.base import MODEL_FILE, Delivery, Plan, Progress, ask
from fluvial.model.source.transfer import Item, download

MAX_FILES = 200
_REST = re.compile(
    r"([\w.-]{1,96}/[\w.-]{1,96})(?:@([\w./-]{1,100}?))?(?:/([^\x00-\x1f\\@]{1,300}))?", re.A
)
_FOLDER_FILES = re.compile(
    r"config\.json|generation_config\.json|tokenizer\.json|tokenizer_config\.json|tokenizer\.model|"
    r"special_tokens_map\.json|vocab\.json|merges\.txt|chat_template\.(jinja|json)|"
    r"[A-Za-z0-9][\w.-]{0,100}\.safetensors(\.index\.json)?",
    re.A,
)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(kw_only=True)
class HubSource:
    """A model on a hub. `file` None: the repository's safetensors, configuration and tokenizer."""

    spec: str
    repository: str
    revision: str | None
    file: str | None
    pause_s: float = 1.0
    _items: dict[str, Item] = field(default_factory=dict[str, Item], repr=False)

    @classmethod
    def parse(cls, rest: str) -> "HubSource":
        """Read what follows `hf:`. Raises InputError showing the right form."""
        found = _REST.fullmatch(rest)
        path = found[3] if found else None
        steps = path.split("/") if path else []
        if found is None or any(step in ("", ".", "..") for step in steps):
            raise InputError(f"hf:{rest} is not of the form hf:OWNER/NAME[@REVISION][/PATH]")
        if path is not None and not path.endswith(".gguf"):
            raise InputError(
                f"{path} is not a .gguf file; leave the path out for a whole repository"
            )
        return cls(spec=f"hf:{rest}", repository=found[1], revision=found[2], file=path)

    def contact(self) -> Plan:
        """Ask the hub for the files' sizes and hashes."""
        endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
        where = endpoint or "https://huggingface.co"
        self._items = ask(lambda: self._find(endpoint), of=f"the hub {where}")
        sizes = [item.size_bytes or 0 for item in self._items.values()]
        return Plan(content_bytes=sum(sizes))

    def deliver(self, work: Path, *, progress: Progress) -> Delivery:
        """Download the files into a folder; a file that is there already is checked and kept."""
        if not self._items:
            self.contact()
        total = sum(item.size_bytes or 0 for item in self._items.values())
        progress.start(self.repository, total_bytes=total or None)
        folder = work / "content"
        folder.mkdir(exist_ok=True)
        sha256 = ""
        with httpx2.Client(timeout=httpx2.Timeout(30.0, connect=5.0)) as client:
            for name, item in self._items.items():
                part = work / f"{name}.part"
                sha256 = download(client, item, to=part, progress=progress, pause_s=self.pause_s)
        for name in self._items:
            (work / f"{name}.part").replace(folder / name)
        return Delivery(folder=folder, sha256=sha256 if self.file else None)

    def _find(self, endpoint: str | None) -> dict[str, Item]:
        from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

        try:
            if self.file is not None:
                return {MODEL_FILE: self._item(self.file, self.revision, endpoint)}
            return self._find_all(endpoint)
        except (httpx2.HTTPError, HFValidationError, OfflineModeIsEnabled, OSError) as error:
            raise SourceError(_explain(error, endpoint)) from error

    def _find_all(self, endpoint: str | None) -> dict[str, Item]:
        from huggingface_hub import HfApi

        info = HfApi(endpoint=endpoint).model_info(self.repository, revision=self.revision)
        names = [file.rfilename for file in info.siblings or []]
        wanted = sorted(name for name in names if _FOLDER_FILES.fullmatch(name))
        if len(wanted) > MAX_FILES:
            raise SourceError(f"{self.spec} has {len(wanted)} files; at most {MAX_FILES} are taken")
        if "config.json" not in wanted or not any(n.endswith(".safetensors") for n in wanted):
            raise SourceError(
                f"{self.spec} holds no safetensors model (config.json, *.safetensors)"
            )
        return {name: self._item(name, info.sha or self.revision, endpoint) for name in wanted}

    def _item(self, name: str, revision: str | None, endpoint: str | None) -> Item:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.utils import build_hf_headers

        url = hf_hub_url(self.repository, name, revision=revision, endpoint=endpoint)
        found = get_hf_file_metadata(url, timeout=5, endpoint=endpoint)
        if found.commit_hash and re.fullmatch(r"[0-9a-f]{40}", found.commit_hash):
            url = hf_hub_url(self.repository, name, revision=found.commit_hash, endpoint=endpoint)
        etag = found.etag if found.etag and _SHA256.fullmatch(found.etag) else None
        return Item(url=url, size_bytes=found.size, sha256=etag, headers=build_hf_headers())


def _explain(error: Exception, endpoint: str | None) -> str:
    hub = f"the hub {endpoint or 'https://huggingface.co'}"
    summary = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, httpx2.TransportError):
        return f"{hub} can't be reached: {summary}"
    return f"{hub} does not give it: {summary}"
