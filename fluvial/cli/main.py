"""The `fluvial` command: its subcommands, and what every one of them does with errors.

Modules that take long to load (web server, models, settings) are imported where they are used, so
that `fluvial --help` is quick. Exit codes: 0 done, 1 an error (one line on stderr), 2 wrong usage,
130 Ctrl-C.
"""

import os
import sys
from collections.abc import Sequence

import click

from fluvial import __version__
from fluvial.cli.adapt import adapt
from fluvial.cli.audit import audit
from fluvial.cli.bench import bench
from fluvial.cli.chat import chat
from fluvial.cli.config import config
from fluvial.cli.gate import gate
from fluvial.cli.guard import guard
from fluvial.cli.model import models
from fluvial.cli.read import read
from fluvial.cli.serve import serve
from fluvial.cli.session import sessions
from fluvial.cli.terminal import clean
from fluvial.errors import FluvialError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="fluvial", message="%(prog)s %(version)s")
def cli() -> None:
    """Fluvial: a self-hosted assistant that adapts while it reads."""


for command in (serve, chat, read, sessions, models, adapt, audit, config, gate, guard, bench):
    cli.add_command(command)


def main() -> None:
    """Run the command line and leave the process with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(args: Sequence[str]) -> int:
    """Run one command line; return its exit code."""
    try:
        result = cli.main(args=list(args), prog_name="fluvial", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except FluvialError as error:
        click.echo(f"error: {clean(' '.join(error.message.split()))}", err=True)
        return 1
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; keep the interpreter from trying again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
