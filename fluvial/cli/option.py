"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from fluvial.config import Settings

F = TypeVar("F", bound=Callable[..., Any])

config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Settings file (TOML). Environment variables and options go over it.",
)
data_dir_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where models and sessions live.",
)
url_option = click.option(
    "--url", help="Address of the running server. [default: from the settings]"
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def load_settings(config_file: Path | None, **overrides: Any) -> "Settings":
    """Read the settings; options left out (None) override nothing."""
    from fluvial.config import load

    return load(file=config_file, overrides=overrides)


def server_options(function: F) -> F:
    """Add `--url` and `--config` to a command that talks to a running server."""
    return url_option(config_option(function))


def print_json(value: object) -> None:
    """Print `value` as JSON on stdout."""
    import json

    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
