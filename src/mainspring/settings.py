"""Every setting, typed and validated: keyword, then environment `MAINSPRING_*`, then `HOME/config.toml`, then default."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from mainspring import __version__
from mainspring.core.errors import UsageError
from mainspring.core.health import FATAL_XIDS

VERSION = __version__


class Settings(BaseSettings):
    """The server's settings. Times in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix="MAINSPRING_", extra="forbid", frozen=True)

    home: Path = Field(default_factory=lambda: Path.home() / ".mainspring", description="Everything lives under this folder.")
    database_url: str = Field(default="", description="Empty: SQLite under home. Or postgresql+psycopg://user@host/name.")
    blob_url: str = Field(default="", description="Empty: home/blobs. Or s3://bucket/prefix.")
    blob_config: dict[str, str] = Field(default_factory=dict, description="Keys and endpoint of the object store.")
    bind: str = Field(default="127.0.0.1", description="Address to listen on beside loopback; with TLS where it is none.")
    port: int = Field(default=0, ge=0, le=65535, description="Port to listen on; 0 takes a free one, and keeps it.")
    advertise_url: str = Field(default="", description="Where machines and people elsewhere reach this server.")
    insecure_http: bool = Field(default=False, description="Listen without TLS beyond loopback: tokens can be read on the way.")
    tls_certificate: Path | None = Field(default=None, description="A certificate of an authority (PEM, whole chain).")
    tls_key: Path | None = Field(default=None, description="Its key (PEM).")
    allowed_hosts: tuple[str, ...] = Field(default=(), description="Host names accepted beside loopback ones.")
    gpus: int = Field(default=0, ge=0, le=1024, description="GPUs declared on this machine; 0 takes the real ones.")
    gpu_model: str = Field(default="gpu", description="Model name of declared GPUs.")
    gpu_memory_bytes: int = Field(default=0, ge=0, description="Memory of each declared GPU.")
    cpus: float = Field(default=0, ge=0, description="CPUs declared on this machine; 0 takes the real ones.")
    notifiers: dict[str, dict[str, str]] = Field(
        default_factory=dict, description="Who is told of failures and verdicts: plug-in name to its settings."
    )
    has_ui: bool = Field(default=True, description="Serve the web page.")
    lost_after_s: float = Field(default=600, gt=0, description="Silence after which a run that is not exclusive is tried again.")
    quiet_beat_s: float = Field(default=10, gt=0, description="How often a runner with nothing to tell beats.")
    sweep_grace_s: float = Field(default=60, gt=0, description="How long something of ours without a row may live.")
    blob_grace_s: float = Field(default=86400, gt=0, description="How long a blob that no record names is kept.")
    logs_days: float = Field(default=90, gt=0, description="How long logs of ended runs are kept.")
    events_days: float = Field(default=365, gt=0, description="How long events are kept.")
    decisions_days: float = Field(default=7, gt=0, description="How long plans and their snapshots are kept.")
    archived_days: float = Field(default=365, gt=0, description="How long archived runs are kept.")
    checkpoint_limit_bytes: int = Field(default=64 << 30, gt=0, description="A larger checkpoint of a run is not kept.")
    health_launch_failures: int = Field(
        default=3, ge=1, description="Runs in a row that fail to launch on a node, and begin elsewhere, until it takes none."
    )
    health_lone_launch_failures: int = Field(
        default=10, ge=1, description="The same, of so many different kinds, where there is no other node to compare with."
    )
    health_ecc_errors: int = Field(default=1, ge=1, description="Uncorrected ECC errors since a reset that take a GPU out.")
    health_xids: tuple[int, ...] = Field(default=FATAL_XIDS, description="XIDs that take a GPU out.")
    health_retry_s: float = Field(default=600, gt=0, description="When a quarantine is tried to end; doubles each time.")
    health_retry_max_s: float = Field(default=86400, gt=0, description="How long a quarantine lasts at most until it is tried.")
    drain_checkpoint_s: float = Field(
        default=300, ge=0, description="How long before the time of a drain runs are asked for a checkpoint."
    )
    node_blobs_limit_bytes: int = Field(
        default=0, ge=0, description="Blobs that each node keeps, the last used ones; 0: what its disk has, less a reserve."
    )
    node_environments_limit_bytes: int = Field(
        default=0,
        ge=0,
        description="Environments that a node keeps, the last used ones; 0: what its disk has, less a reserve.",
    )
    python: str = Field(default=sys.executable, description="Interpreter of serving replicas.")

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().resolve()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the TOML file of the home folder below the environment."""
        del dotenv_settings, file_secret_settings
        given: dict[str, Any] = {**env_settings(), **init_settings()}
        home = Path(given.get("home") or Path.home() / ".mainspring").expanduser()
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, home / "config.toml")


def load_settings(**given: object) -> Settings:
    """Return the settings. Raises UsageError that names the wrong one."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as wrong:
        first = wrong.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"Setting {name!r} is wrong: {first['msg']}.", hint="See the settings page of the documentation."
        ) from wrong
    except ValueError as wrong:
        raise UsageError(f"The settings file cannot be read: {wrong}.", hint="It is HOME/config.toml.") from wrong
