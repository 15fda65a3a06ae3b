"""One risk's samples through Inspect: a task, a server, a log. Imports inspect_ai.

The log is written as samples end, so what was done before an interruption is in it.
"""

import contextlib
import io
import logging
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspect_ai import Task
from inspect_ai import eval as run_eval
from inspect_ai.hooks import Hooks, SampleEnd, hooks
from inspect_ai.log import EvalLog, EvalSample, list_eval_logs, read_eval_log
from inspect_ai.model import GenerateConfig, Model, get_model

from fluvial.errors import FluvialError, InputError
from fluvial.gate.provider import MAX_CONNECTIONS, PROVIDER

_QUIET: Mapping[str, Any] = {"display": "none", "score_display": False, "log_level": "error"}


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server that is tested, and the name of the model it serves."""

    url: str
    model: str
    api_key: str | None = None


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """An Inspect task of someone else's: "path.py@name" or a registered name, and its arguments."""

    name: str
    arguments: Mapping[str, Any]
    samples: int


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What Inspect wrote. `interrupted` tells that the user stopped it; samples may be missing."""

    samples: list[EvalSample]
    log: Path | None
    interrupted: bool


def run_trial(
    task: Task | Foreign,
    *,
    server: Server,
    seed: int,
    log_dir: Path,
    on_sample: Callable[[], None] = lambda: None,
    part: Mapping[str, Any] | None = None,
) -> Trial:
    """Run a task against a server; samples that break are part of what is returned.

    `on_sample` is called when a sample has come to an end. `part` are options of Inspect's eval
    that choose some of the samples (`stopping.py`). Raises InputError when the task itself
    can't be run.
    """
    known = _list_logs(log_dir)
    with _listen(on_sample):
        logs = _evaluate(task, server=server, seed=seed, log_dir=log_dir, **(part or {}))
    paths = _list_logs(log_dir) - known
    path = max(paths) if paths else None
    log = read_eval_log(str(path)) if path else None
    stopped = not logs or logs[0].status == "cancelled"
    if log is not None and log.status == "error" and not log.samples:
        raise InputError(f"the task could not be run: {log.error.message if log.error else ''}")
    samples = list(log.samples or []) if log else []
    return Trial(samples=samples, log=path, interrupted=stopped)


def check_foreign(task: Foreign, *, server: Server, log_dir: Path) -> None:
    """Load a task of someone else's without running it. Raises InputError when that fails."""
    _evaluate(task, server=server, seed=0, log_dir=log_dir, run_samples=False)


def _evaluate(
    task: Task | Foreign, *, server: Server, seed: int, log_dir: Path, **options: Any
) -> list[EvalLog]:
    if isinstance(task, Foreign):
        options = {
            "task_args": dict(task.arguments),
            "limit": task.samples,
            "sample_shuffle": seed,
        } | options
    try:
        # Inspect prints what it loaded on stdout, even when told to be quiet.
        with _keep_logging(), contextlib.redirect_stdout(io.StringIO()):
            return run_eval(
                task.name if isinstance(task, Foreign) else task,
                model=_open_model(server, seed=seed),
                log_dir=str(log_dir),
                log_format="eval",
                fail_on_error=False,
                max_samples=MAX_CONNECTIONS,
                **_QUIET,
                **options,
            )
    except FluvialError:
        raise
    except Exception as error:  # whatever the code of a task raises while it is loaded
        name = task.name if isinstance(task, Foreign) else str(task.name)
        raise InputError(
            f"the task {name!r} can't be run: {error}; write fluvial/NAME, PATH.py@NAME, or the "
            "name of a registered Inspect task",
            param="task",
        ) from error


@contextlib.contextmanager
def _keep_logging() -> Generator[None]:
    """Put the root logger back as it was: Inspect sets its level and its handlers for good."""
    root = logging.getLogger()
    level, handlers = root.level, [*root.handlers]
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers


def _open_model(server: Server, *, seed: int) -> Model:
    # A connection belongs to one event loop, and each trial has one of its own.
    return get_model(
        f"{PROVIDER}/{server.model}",
        base_url=server.url,
        api_key=server.api_key,
        memoize=False,
        config=GenerateConfig(seed=seed, max_connections=MAX_CONNECTIONS, max_retries=20),
    )


def _list_logs(folder: Path) -> set[Path]:
    if not folder.is_dir():
        return set()
    return {_locate(info.name) for info in list_eval_logs(str(folder), formats=["eval"])}


def _locate(name: str) -> Path:
    return Path(name.removeprefix("file://"))


_LISTENERS: list[Callable[[], None]] = []


class _Counter(Hooks):
    """Inspect makes one instance for good; who listens comes and goes."""

    def enabled(self) -> bool:
        """Be part of our own runs only."""
        return bool(_LISTENERS)

    async def on_sample_end(self, data: SampleEnd) -> None:
        """Count."""
        del data
        for listener in _LISTENERS:
            listener()


hooks(name="fluvial_gate", description="counts the samples of a gate that ended")(_Counter)


@contextlib.contextmanager
def _listen(listener: Callable[[], None]) -> Generator[None]:
    _LISTENERS.append(listener)
    try:
        yield
    finally:
        _LISTENERS.remove(listener)
