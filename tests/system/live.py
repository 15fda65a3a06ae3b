"""A server as people start it: its own process, a model file, a data folder, a free port."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from fluvial.model.catalogue import Entry
from fluvial.model.registry import Registry

MODEL = "tiny"
COMMAND = "import sys; from fluvial.cli.main import main; sys.exit(main())"


@dataclass(kw_only=True)
class Live:
    """A running server."""

    url: str
    data_dir: Path
    process: subprocess.Popen[str]
    client: httpx2.Client

    def create_session(self) -> str:
        return self.client.post("/v1/sessions").json()["id"]

    def stop(self, *, by: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(by)
        return self.process.wait(20)


def install(data_dir: Path, model_path: Path, *, name: str = MODEL) -> None:
    """Install a model file, unless it is."""
    Registry(data_dir).install(Entry(name=name, sources=(f"file:{model_path}",)))


def launch(data_dir: Path, *options: str, model: str = MODEL) -> subprocess.Popen[str]:
    """Start `fluvial serve` on a free port; its output is piped."""
    return subprocess.Popen(
        [
            *(sys.executable, "-c", COMMAND, "serve", "--offline", "--port", "0"),
            *("--data-dir", str(data_dir), "--model", model, "--threads", "1", *options),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "FLUVIAL_LEARNER_THREADS": "1"},
    )


@contextmanager
def run_live(data_dir: Path, *options: str, model: str = MODEL) -> Iterator[Live]:
    """Serve an installed model until the end of the block."""
    process = launch(data_dir, *options, model=model)
    try:
        url = wait_until_ready(process)
        with httpx2.Client(base_url=url, timeout=60) as client:
            yield Live(url=url, data_dir=data_dir, process=process, client=client)
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()
            if process.stdout is not None:
                process.stdout.close()


def wait_until_ready(process: subprocess.Popen[str]) -> str:
    """Read the output until the address comes, and return it."""
    said: list[str] = []
    for line in process.stdout or ():
        said.append(line)
        found = re.search(r"ready at (http://\S+)", line)
        if found:
            return found[1]
    raise AssertionError(f"the server ended with {process.wait()}: {''.join(said)}")
