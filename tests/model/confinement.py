"""Run a line of Python where templates are rendered, to see what it may not do."""

import subprocess
import sys

_PROGRAM = """
import socket
from fluvial.model.renderer_program import confine
confine()
try:
    {line}
except BaseException as error:
    print(OSError.__name__ if isinstance(error, OSError) else type(error).__name__)
else:
    print("nothing")
"""


def run_confined(line: str) -> str:
    """Return the class of the error that `line` raises there, or "nothing"."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(line=line)], capture_output=True, check=True
    )
    return done.stdout.decode().strip()
