"""What several commands need of models that are installed, and of output for programs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from fluvial.config import Settings


def ensure_model(name: str, settings: "Settings") -> Path:
    """Return the file of a model, pulled first when it is not installed."""
    from fluvial.cli.progress import TransferBar
    from fluvial.model.registry import Registry

    with TransferBar() as bar:
        info = Registry(settings.data_dir).ensure(name, offline=settings.offline, progress=bar)
    return Path(info.path)


def print_line(result: dict[str, Any]) -> None:
    """Print one JSON object on one line."""
    import json

    click.echo(json.dumps(result, ensure_ascii=False))
