"""`fluvial config`: the settings in force, and where each can be changed."""

import os
from pathlib import Path
from typing import Any

import click

from fluvial.cli.option import config_option, json_option, load_settings, print_json


@click.group()
def config() -> None:
    """Look at the settings."""


@config.command()
@config_option
@json_option
def show(config_file: Path | None, as_json: bool) -> None:
    """Print the settings in force as TOML, with what each means and where it was set."""
    from pydantic import SecretStr

    settings = load_settings(config_file)
    values: dict[str, Any] = settings.model_dump(mode="json")
    if as_json:
        print_json(values)
        return
    for key, field in type(settings).model_fields.items():
        variable = f"FLUVIAL_{key.upper()}"
        origin = f" (from {variable})" if variable in os.environ else ""
        is_secret = isinstance(getattr(settings, key), SecretStr)
        click.echo(f"# {field.description}{origin}\n{_write(key, values[key], is_secret)}\n")


def _write(key: str, value: object, is_secret: bool) -> str:
    """Write one setting as a line of TOML, or as a comment when it has no value to show."""
    import json

    if is_secret:
        return f"# {key} is set, and not shown"
    # JSON strings, numbers and booleans are TOML too.
    return f"# {key} is not set" if value is None else f"{key} = {json.dumps(value)}"
