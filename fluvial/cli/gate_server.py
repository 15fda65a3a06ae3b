"""A server of our own for the time of a test: a child on a free port, in a data folder of its own.

The folder shares models, graphs and first factors with the given one, and nothing else: no session
is touched, and a server that runs on the given folder goes on.
"""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

from fluvial.config import Settings
from fluvial.errors import EngineError

SHARED_FOLDERS = ("models", "graphs", "bases")
START_LIMIT_S = 900.0
"""A model that is served for the first time is packed first; a large one takes minutes."""

_END_LIMIT_S = 20.0
_POLL_S = 0.1
_TAIL_BYTES = 2000


@contextlib.contextmanager
def run_server(settings: Settings, *, model: str, config_file: Path | None) -> Generator[str]:
    """Serve an installed model until the end of the block; yield the server's address.

    Raises EngineError with the server's last words when it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="fluvial-gate-") as folder:
        data_dir, log = Path(folder) / "data", Path(folder) / "server.log"
        data_dir.mkdir()
        for name in SHARED_FOLDERS:
            shared = settings.data_dir.resolve() / name
            shared.mkdir(parents=True, exist_ok=True)
            (data_dir / name).symlink_to(shared, target_is_directory=True)
        process = _launch(data_dir, log, model=model, config_file=config_file)
        try:
            yield _wait(process, log)
        finally:
            _end(process)


def _launch(
    data_dir: Path, log: Path, *, model: str, config_file: Path | None
) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "fluvial.cli", "serve", "--offline", "--port", "0"]
    command += ["--host", "127.0.0.1", "--data-dir", str(data_dir), "--model", model]
    command += ["--config", str(config_file)] if config_file else []
    with log.open("wb") as output:
        return subprocess.Popen(  # noqa: S603  our own program, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Nobody has released yet what is to be tested.
            env={**os.environ, "PYTHONUNBUFFERED": "1", "FLUVIAL_MODE": "development"},
            # Ctrl-C is for us: the server must go on until the last answers are in.
            process_group=0 if os.name == "posix" else None,
        )


def _wait(process: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline_s = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline_s:
        ended = process.poll() is not None
        found = re.search(r"ready at (http://\S+)", log.read_text(encoding="utf-8"))
        if found:
            return found[1]
        if ended:
            break
        time.sleep(_POLL_S)
    said = log.read_bytes()[-_TAIL_BYTES:].decode("utf-8", "replace").strip()
    raise EngineError(f"the server to be tested did not start: {said or 'it said nothing'}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_END_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
