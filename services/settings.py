"""The services' sections of ``lavender.toml``; every service validates all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from actors.detection.settings import FilterSettings
from actors.rulebook import RulesSettings
from services.store.settings import StoreSettings
from transport.settings import BrokerSettings

Listen = Annotated[
    str,
    Field(
        pattern=r"^$|^(\[[0-9a-fA-F:]+\]|[^\s:\[\]]+):[0-9]{1,5}$",
        max_length=300,
        description="Where `/metrics` and `/healthz` are served, `host:port`; empty for nowhere.",
    ),
]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    listen: Listen = ""


class IngestSettings(_Section):
    """``[ingest]``: what an agent may send."""

    agent_events_per_sec: int = Field(
        default=20_000,
        ge=1,
        le=10_000_000,
        description=(
            "Events an agent may send for long. Every message counts as one at least, as one for "
            "each KiB, and as sixteen where it is refused."
        ),
    )
    agent_burst_events: int = Field(
        default=200_000,
        ge=500,
        le=100_000_000,
        description="Events an agent may send at once; what is beyond waits in the stream.",
    )


class TelemetryWriterSettings(_Section):
    """``[telemetry_writer]``: events into the store."""

    batch_messages: int = Field(
        default=32, ge=1, le=1000, description="Messages stored in one transaction at most."
    )


class AlertWriterSettings(_Section):
    """``[alert_writer]``: alerts into the store."""

    batch_messages: int = Field(
        default=256, ge=1, le=1000, description="Alerts stored in one transaction at most."
    )


class DetectionSettings(_Section):
    """``[detection]``: events into alerts."""

    state: str = Field(
        default="memory:",
        max_length=1024,
        pattern=r"^(memory:|(redis|rediss|unix)://\S+)$",
        description=(
            "Where workers keep what they know: `redis://host:6379/0` (`rediss://` with TLS), or "
            "`memory:` for one worker, which forgets it when it ends."
        ),
    )
    state_password_file: Path | None = Field(
        strict=False,
        default=None,
        description="A file with the password of Redis, instead of in `state`.",
    )
    key_prefix: str = Field(
        default="lavender:",
        min_length=1,
        max_length=64,
        pattern=r"^[!-~]+$",
        description="What the names of all keys in Redis begin with.",
    )
    batch_messages: int = Field(
        default=64, ge=1, le=1000, description="Messages dealt with together at most."
    )
    max_agents: int = Field(
        default=1024,
        ge=1,
        le=1_000_000,
        description="Engines in a worker's memory at most; the others wait in the state.",
    )

    @field_validator("state")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        parts = urlsplit(url)
        database = parts.path.strip("/") if parts.scheme.startswith("redis") else ""
        if parts.scheme.startswith("redis") and (parts.port == 0 or not parts.hostname):
            raise ValueError("give host and port, redis://127.0.0.1:6379/0")
        if database and not database.isdecimal():
            raise ValueError(f"{database!r} is no number of a database")
        return url


class StackSettings(_Section):
    """``[stack]``: the whole backend in one process."""

    data: Path = Field(
        strict=False,
        default=Path("lavender-data"),
        description="Folder of the broker's streams and the store.",
    )
    broker_host: str = Field(
        default="127.0.0.1", max_length=255, description="Address the broker listens on."
    )
    broker_port: int = Field(
        default=4222, ge=0, le=65_535, description="Its port; 0 for a free one."
    )


class Settings(BaseModel):
    """Everything a service reads from the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    broker: BrokerSettings = BrokerSettings()
    store: StoreSettings = StoreSettings()
    ingest: IngestSettings = IngestSettings()
    telemetry_writer: TelemetryWriterSettings = TelemetryWriterSettings()
    alert_writer: AlertWriterSettings = AlertWriterSettings()
    detection: DetectionSettings = DetectionSettings()
    filters: FilterSettings = FilterSettings()
    rules: RulesSettings = RulesSettings()
    stack: StackSettings = StackSettings()
    topology: dict[str, Any] = Field(
        default={}, description="Topologies by name; a service without one runs its own."
    )
