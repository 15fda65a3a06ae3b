"""The program that renders one chat template, in a process of its own with little it may do.

A template is code out of a model file that anybody may have made. Jinja's sandbox keeps it from
Python's internals, but not from using up time or memory, and a loop inside native code can't be
stopped from outside. So it runs here: memory is limited by the system, no file can be opened or
written, and the parent kills the process when its time is over.

Started as a script by `renderer.py`; imports nothing of ours. It reads frames (8 bytes length, then
JSON) from standard input and answers each with one frame: first the template's source, then the
variables of each rendering.
"""

import codecs
import datetime
import importlib
import json
import math
import signal
import struct
import sys
import time
from collections.abc import Mapping
from typing import Any, BinaryIO, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY_BYTES = 2**30
# Jinja imports these when it first needs them; by then no file can be opened any more.
_LATE_IMPORTS = ("jinja2.debug", "pprint", "random", "textwrap", "unicodedata", "urllib.parse")
_HEADER = struct.Struct(">Q")


class Refusal(Exception):
    """The template called `raise_exception`: it does not accept these messages."""


class OutputError(Exception):
    """The template wrote more than it may."""


class Generation(Extension):
    """`{% generation %}...{% endgeneration %}` marks answers for training; it writes its body."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def build_environment() -> ImmutableSandboxedEnvironment:
    """Return the environment that chat templates are written for (that of `transformers`)."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation]
    )
    environment.filters["tojson"] = _dump_json
    tools: dict[str, Any] = {"raise_exception": _refuse, "strftime_now": _format_now}
    environment.globals.update(tools)
    del environment.globals["lipsum"]
    return environment


def _dump_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(message: object = "") -> NoReturn:
    raise Refusal(str(message))


def _format_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)  # noqa: DTZ005  templates mean local time


def compile_template(source: str) -> jinja2.Template:
    """Compile `source`; raises what Jinja raises."""
    return build_environment().from_string(source)


def render(template: jinja2.Template, variables: Mapping[str, Any], *, limit_chars: int) -> str:
    """Return the text; raises OutputError as soon as it is longer than `limit_chars`."""
    parts: list[str] = []
    size = 0
    for part in template.generate(variables):
        size += len(part)
        if size > limit_chars:
            raise OutputError(f"it writes more than {limit_chars:,} characters")
        parts.append(part)
    return "".join(parts)


def confine() -> None:
    """Give up what rendering does not need: memory beyond a limit, opening and writing files."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _preload()
    try:
        import resource
    except ImportError:  # Windows; the parent's time limit still holds
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))


def _preload() -> None:
    for name in _LATE_IMPORTS:
        importlib.import_module(name)
    codecs.lookup("unicode-escape")
    time.localtime()  # reads the time zone


def limit_time(limit_s: float) -> None:
    """End this process after `limit_s` more seconds of work, even if the parent is gone."""
    try:
        import resource
    except ImportError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + limit_s) + 1, hard))


def receive(stream: BinaryIO) -> Any:
    """Return the next frame's value, or None at the end of the stream."""
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    (length,) = _HEADER.unpack(header)
    return json.loads(stream.read(length))


def send(stream: BinaryIO, value: object) -> None:
    """Write one frame. JSON's escapes let lone surrogates pass: they shield characters."""
    data = json.dumps(value).encode()
    stream.write(_HEADER.pack(len(data)) + data)
    stream.flush()


def answer(request: Mapping[str, Any], template: jinja2.Template | None) -> Any:
    """Return the reply to one request, and the template if it was the one that brings it."""
    try:
        limit_time(request["limit_s"])
        if template is None:
            return {"text": ""}, compile_template(request["source"])
        text = render(template, request["variables"], limit_chars=request["limit_chars"])
        return {"text": text}, template
    except Refusal as refusal:
        return {"refused": str(refusal)[:500]}, template
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {str(error)[:300]}"}, template


def main() -> None:
    """Answer frames until the parent closes the pipe."""
    confine()
    send(sys.stdout.buffer, {"text": "ready"})
    template: jinja2.Template | None = None
    while (request := receive(sys.stdin.buffer)) is not None:
        reply, template = answer(request, template)
        send(sys.stdout.buffer, reply)


if __name__ == "__main__":
    main()
