"""Render a chat template in a child process that can always be stopped.

The child (`renderer_program.py`) stays for the next rendering; it is started again when it had to
be killed. It ends by itself when this process does.
"""

import contextlib
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from fluvial.errors import InputError, ModelError
from fluvial.model.renderer_program import receive, send

START_LIMIT_S = 60.0
_PROGRAM = Path(__file__).with_name("renderer_program.py")
# The child gets no secrets: only what an interpreter may need to start and find Jinja.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "SYSTEMROOT", "TZ")


class Renderer:
    """One compiled template; renderings are done one at a time, each within `limit_s` seconds.

    Safe to share between threads. `close` ends the child; so does losing the last reference.
    """

    def __init__(self, source: str, *, limit_s: float) -> None:
        """Compile `source`. Raises ModelError when it is no template or takes too long."""
        self._source = source
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._children: list[_Child] = []
        weakref.finalize(self, _end_all, self._children)
        with self._lock:
            self._start()

    def render(self, variables: Mapping[str, Any], *, limit_chars: int) -> str:
        """Return the text for `variables` (plain JSON values).

        Raises InputError when the template itself refuses them; ModelError when it fails, takes
        longer than its time or writes more than `limit_chars`.
        """
        with self._lock:
            if not self._children or not self._children[0].alive:
                _end_all(self._children)
                self._start()
            return self._ask({"variables": variables, "limit_chars": limit_chars})

    def close(self) -> None:
        """End the child; a later `render` starts another."""
        with self._lock:
            _end_all(self._children)

    def _start(self) -> None:
        child = _Child()
        self._children.append(child)
        self._check(child.receive(limit_s=START_LIMIT_S))
        self._ask({"source": self._source})

    def _ask(self, request: dict[str, Any]) -> str:
        reply = self._children[0].ask(request | {"limit_s": self._limit_s}, limit_s=self._limit_s)
        return self._check(reply)

    def _check(self, reply: Mapping[str, str] | None) -> str:
        if reply is None:
            _end_all(self._children)
            raise ModelError(
                f"the model's chat template was stopped: it used more than {self._limit_s:g} s, "
                "or more memory than it may"
            )
        if "refused" in reply:
            raise InputError(
                f"the model's chat template refuses these messages: {reply['refused']}",
                code="template_refused",
                param="messages",
            )
        if "failed" in reply:
            raise ModelError(f"the model's chat template failed: {reply['failed']}")
        return reply["text"]


class _Child:
    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603  our own program, no shell
            [sys.executable, "-P", str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: dict[str, Any], *, limit_s: float) -> Mapping[str, str] | None:
        """Return the reply, or None when the child died or was killed for taking too long."""
        return self._within(limit_s, lambda: self._exchange(request))

    def receive(self, *, limit_s: float) -> Mapping[str, str] | None:
        return self._within(limit_s, lambda: receive(self._stdout))

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._stdout):
            with contextlib.suppress(OSError):
                cast("Any", stream).close()

    @property
    def _stdout(self) -> Any:
        return cast("Any", self._process.stdout)

    def _exchange(self, request: dict[str, Any]) -> Any:
        send(cast("Any", self._process.stdin), request)
        return receive(self._stdout)

    def _within(self, limit_s: float, work: Any) -> Mapping[str, str] | None:
        # A killed child closes its pipes, which ends a blocked read or write on every system.
        timer = threading.Timer(limit_s, self._process.kill)
        timer.daemon = True
        timer.start()
        try:
            return work()
        except (OSError, ValueError):
            return None
        finally:
            timer.cancel()
            timer.join()


def _end_all(children: list[_Child]) -> None:
    while children:
        children.pop().end()
