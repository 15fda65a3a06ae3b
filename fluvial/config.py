"""Settings: a TOML file, under environment variables, under command-line options.

Every setting `x` is also `FLUVIAL_X`. An unknown key in the file is an error that names it.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from fluvial.errors import InputError

DEFAULT_MODEL = "qwen2.5-coder-0.5b-instruct"


def _read_digits(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isdecimal() else value


class Settings(BaseSettings):
    """What a Fluvial process runs with. Sizes are in bytes or tokens as their names say."""

    model_config = SettingsConfigDict(env_prefix="FLUVIAL_", extra="forbid", frozen=True)

    data_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_data_dir("fluvial", appauthor=False)),
        description="Where models, sessions and versions live.",
    )
    host: str = Field(
        "127.0.0.1", description="Address to listen on; loopback unless told otherwise."
    )
    port: int = Field(
        8420, ge=0, le=65535, description="Port to listen on; 0 lets the system choose."
    )
    api_key: SecretStr | None = Field(
        None,
        min_length=16,
        description="Key that every request must bring; needed in production beyond loopback.",
    )
    mode: Literal["development", "production"] = Field(
        "development",
        description="development: for this machine alone, with any model. production: for others, "
        "and only what a valid release covers.",
    )
    release: Path | None = Field(
        None, description="The signed release of what is served; needed in production."
    )
    release_key: Path | None = Field(
        None, description="The public key of who signs releases; needed in production."
    )
    model: str = Field(DEFAULT_MODEL, description="Name of an installed or catalogue model.")
    offline: bool = Field(
        False, description="Never use the network; a model that is missing is an error."
    )
    threads: int = Field(0, ge=0, le=256, description="Decoding threads; 0 measures at start.")
    learner_threads: int = Field(0, ge=0, le=256, description="Learner threads; 0 lets it choose.")
    context_tokens: int = Field(
        4096,
        ge=256,
        le=1_048_576,
        description="Longest conversation, capped by the model's own limit.",
    )
    document_context_tokens: int = Field(
        512,
        ge=0,
        le=65_536,
        description="Most tokens of matching passages shown beside a question.",
    )
    answer_tokens: int = Field(
        1024, ge=1, description="Longest answer where a request names no max_tokens."
    )
    queue_limit: int = Field(
        64, ge=1, le=10_000, description="Answers that may wait for the engine."
    )
    batch_limit: int = Field(
        8, ge=1, le=256, description="Answers written at once; others wait in the queue."
    )
    step_tokens: int = Field(
        256, ge=16, le=8192, description="Most tokens computed in one step of the engine."
    )
    answer_deadline_s: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds after which an answer ends, waiting included; 0 sets none.",
    )
    weights: Literal["packed", "float32"] = Field(
        "packed",
        description="Form of the model's weights: packed into few bits, or whole and slower.",
    )
    cache_bits: Annotated[Literal["auto", 8, 16], BeforeValidator(_read_digits)] = Field(
        "auto",
        description="Bits of keys and values in the caches. auto: 8 where the model bears it, "
        "16, which take twice the memory, where it does not.",
    )
    cache_bytes: int = Field(
        2**30, ge=2**20, description="Memory for keys and values of all conversations together."
    )
    cache_disk_bytes: int = Field(
        4 * 2**30, ge=0, description="Disk for the caches of idle conversations; 0 keeps none."
    )
    cache_idle_s: float = Field(
        600.0, gt=0, description="Seconds after which the cache of a conversation goes to disk."
    )
    learning: bool = Field(
        True,
        description="Whether sessions may learn from what they read; off wins over every session.",
    )
    rule: Literal["adam", "normed", "sign", "muon"] = Field(
        "adam", description="What the learner makes of a gradient; see docs/adaptation.md."
    )
    rank: int = Field(
        0,
        ge=0,
        le=256,
        description="Rank of the adapter on every linear layer; 0 chooses it for the model.",
    )
    calibrate: bool = Field(
        True,
        description="Whether first factors keep away from what the model does in all its answers; "
        "see `fluvial adapt calibrate`. Off: they are random.",
    )
    learn_a: bool = Field(
        False, description="Whether both factors of a low-rank term learn, or only the second."
    )
    learn_gains: bool = Field(
        False, description="Whether the gains on the activations of MLPs learn, too."
    )
    learning_rate: float = Field(
        3e-3, gt=0, le=1, description="Step size of first factors and gains, where they learn."
    )
    weight_rate: float = Field(
        1.2e-3, gt=0, le=1, description="Step of the weights, relative to their size."
    )
    decay: float = Field(
        1e-2, ge=0, lt=1, description="Share of what was learned that each step takes off again."
    )
    chunk_tokens: int = Field(
        64, ge=16, le=4096, description="Tokens scored, then learned from, at once."
    )
    stride_tokens: int = Field(
        512, ge=16, le=8192, description="Tokens read before a window of context begins anew."
    )
    overlap_tokens: int = Field(
        128, ge=1, le=8192, description="Tokens of the window before that begin the next one."
    )
    gate: float = Field(
        0.0,
        ge=0,
        le=2,
        description="Chunks are not learned from whose loss is under so many times the running "
        "mean; 0 learns from all, 1 from about half.",
    )
    share: float = Field(
        1.0, gt=0, le=1, description="Share of the chunks that are learned from, evenly chosen."
    )
    depth: float = Field(
        0.65, gt=0, le=1, description="Share of the layers that learn, from the last one down."
    )
    version_tokens: int = Field(8192, ge=16, description="Tokens read between two saved versions.")
    drift_budget: float = Field(
        0.04,
        gt=0,
        allow_inf_nan=False,
        description="Most divergence of a version from the base on a fixed probe, nats a token.",
    )
    canaries: Literal["on", "off"] = Field(
        "on", description="Whether hidden test questions are asked of each version."
    )
    canary_count: int = Field(
        20, ge=4, le=200, description="How many of them are drawn; an operator's own come on top."
    )
    canary_rotation_checks: int = Field(
        500, ge=0, description="Checks after which a quarter of them is drawn anew; 0 is never."
    )
    canary_rotation_days: float = Field(
        7.0, ge=0, le=36_500, description="Days after which a quarter is drawn anew; 0 is never."
    )
    canary_file: Path | None = Field(
        None, description="An operator's own test questions: TOML or JSON lines."
    )
    session_versions_bytes: int = Field(
        512 * 2**20, ge=2**20, description="Disk for the versions of one session."
    )
    owner_versions_bytes: int = Field(
        4 * 2**30, ge=2**20, description="Disk for the versions of all sessions of one owner."
    )
    version_expiry_days: float = Field(
        0.0, ge=0, le=36_500, description="Days that a version is kept unless pinned; 0 for ever."
    )
    max_adapter_bytes: int = Field(
        256 * 2**20, ge=2**20, description="Largest adapter file that is taken in."
    )
    compare_tokens: int = Field(
        8192, ge=16, description="Longest text that two versions are compared on."
    )
    audit_texts: bool = Field(
        False,
        description="Whether texts that the guard acted on are kept beside the audit log, until "
        "their session is deleted; off: digests only.",
    )
    audit_bytes: int = Field(
        2**30, ge=2**24, description="Disk for the audit log; the oldest entries go first."
    )
    guard: Literal["on", "off"] = Field(
        "on", description="Whether prompts and answers are checked before anyone sees them."
    )
    guard_policy: Path | None = Field(
        None, description="The guard's policy, a TOML file; none uses the one that ships."
    )
    guard_window_tokens: int | None = Field(
        None, ge=0, le=1024, description="Checked text held back; none: as the policy says."
    )
    guard_delay_ms: int | None = Field(
        None,
        ge=10,
        le=60_000,
        description="After so long held text is checked early; none: as the policy says.",
    )
    max_body_bytes: int = Field(8 * 2**20, ge=1024, description="Largest JSON request.")
    max_document_bytes: int = Field(32 * 2**20, ge=1024, description="Largest document.")


def load(*, file: Path | None = None, overrides: dict[str, Any] | None = None) -> Settings:
    """Read settings: `file` (TOML) < environment < `overrides` (None values are ignored).

    Raises InputError naming the key when a value is out of range or a key is unknown.
    """
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    table = _read_toml(file) if file is not None else {}

    class Layered(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            from pydantic_settings import InitSettingsSource

            return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=table)

    try:
        return Layered(**given)
    except ValidationError as error:
        raise InputError(_explain(error)) from None


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no configuration file at {file}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not valid TOML: {error}") from None


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = ", ".join(sorted(Settings.model_fields))
        return f"unknown setting {key!r}; the settings are: {known}"
    if key == "api_key":  # never repeat a secret
        return f"setting {key!r}: {first['msg']}"
    return f"setting {key!r}: {first['msg']} (got {first.get('input')!r})"
