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
    settings = load_settings(config_file)
    values: dict[str, Any] = settings.model_dump(mode="json")
    if as_json:
        print_json(values)
        return
    for key, field in type(settings).model_fields.items():
        variable = f"FLUVIAL_{key.upper()}"
        origin = f" (from {variable})" if variable in os.environ else ""
        click.echo(f"# {field.description}{origin}\n{key} = {_write_toml(values[key])}\n")


def _write_toml(value: object) -> str:
    import json

    # JSON strings, numbers and booleans are TOML too (surrogates aside, which paths may carry).
    return json.dumps(value, ensure_ascii=False)
