"""The services' sections of ``lavender.toml``; every service validates all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

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
    model_config = ConfigDict(extra="forbid", frozen=True)

    listen: Listen = ""


class IngestSettings(_Section):
    """``[ingest]``: what an agent may send."""

    agent_events_per_sec: int = Field(
        default=20_000, ge=1, le=10_000_000, description="Events an agent may send for long."
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


class StackSettings(_Section):
    """``[stack]``: the whole backend in one process."""

    data: Path = Field(
        default=Path("lavender-data"), description="Folder of the broker's streams and the store."
    )
    broker_host: str = Field(
        default="127.0.0.1", max_length=255, description="Address the broker listens on."
    )
    broker_port: int = Field(
        default=4222, ge=0, le=65_535, description="Its port; 0 for a free one."
    )


class Settings(BaseModel):
    """Everything a service reads from the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    broker: BrokerSettings = BrokerSettings()
    store: StoreSettings = StoreSettings()
    ingest: IngestSettings = IngestSettings()
    telemetry_writer: TelemetryWriterSettings = TelemetryWriterSettings()
    alert_writer: AlertWriterSettings = AlertWriterSettings()
    stack: StackSettings = StackSettings()
    topology: dict[str, Any] = Field(
        default={}, description="Topologies by name; a service without one runs its own."
    )
