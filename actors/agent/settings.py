"""The agent's sections of ``lavender.toml``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from actors.agent.default_topology import DEFAULT_TOPOLOGY
from actors.detection.settings import FilterSettings, Names
from actors.rulebook import RulesSettings
from transport.messages import EVENT_TYPES, EventType
from transport.settings import BrokerSettings

Token = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^.*>\s\x00-\x1f\x7f]+$")]
"""One NATS subject token: no ``.``, ``*``, ``>``, space or control character."""
SubjectPrefix = Annotated[
    str, Field(min_length=1, max_length=128, pattern=r"^[^.*>\s]+(\.[^.*>\s]+)*$")
]


class AgentSettings(BaseModel):
    """``[agent]``: who this endpoint is and whom it reports to."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    agent_id: Token = Field(
        default="dev-agent-1", description="Name of this endpoint; one subject token."
    )
    tenant_id: Token = Field(default="dev", description="Name of its tenant; one subject token.")
    nats_url: str = Field(
        default="nats://127.0.0.1:4222",
        max_length=1024,
        pattern=r"^(nats|tls)://\S+$",
        description="The broker that this agent publishes to; its credentials are in `[broker]`.",
    )
    telemetry_subject_prefix: SubjectPrefix = Field(
        default="telemetry.raw",
        description="Subject of telemetry, before tenant and agent; streams expect the default.",
    )
    heartbeat_subject_prefix: SubjectPrefix = Field(
        default="heartbeat", description="Subject of heartbeats, before tenant and agent."
    )
    heartbeat_interval_secs: float = Field(
        default=15, ge=0.1, le=3600, description="Seconds between two status records."
    )
    open_repeat_secs: float = Field(
        default=1.0,
        ge=0,
        le=3600,
        description="Repeats of one open by one process within this are suppressed in the kernel.",
    )


class PublishSettings(BaseModel):
    """``[publish]``: what goes to the broker, and what is kept until it has it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    enabled: bool = Field(default=True, description="Publish to the broker.")
    events: tuple[EventType, ...] = Field(
        strict=False, default=EVENT_TYPES, description="Types of events that are published."
    )
    alerts: bool = Field(default=True, description="Publish alerts.")
    batch_ms: int = Field(
        default=50, ge=1, le=10_000, description="A batch is closed after this long at the latest."
    )
    spool: Path = Field(
        strict=False,
        default=Path("/var/lib/lavender/spool"),
        description="Folder of what the broker has not confirmed yet.",
    )
    spool_max_bytes: int = Field(
        default=256 << 20,
        ge=1 << 20,
        le=1 << 40,
        description="The spool's bound; above it the oldest telemetry goes first, alerts last.",
    )
    spool_max_age_secs: int = Field(
        default=86_400, ge=1, le=31_536_000, description="What is older leaves the spool."
    )


class ResponseSettings(BaseModel):
    """``[response]``: what may be done about a process."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    dry_run: bool = Field(default=True, description="Log what would be done, and do nothing.")
    kill_threshold: int = Field(
        default=200, ge=1, le=10_000, description="Score at which a process is killed."
    )
    protected_comms: Names = Field(
        default=("systemd", "sshd", "sudo", "init", "lavender", "agent", "kernel"),
        description="Trusts: programs that are never killed.",
    )


class Settings(BaseModel):
    """Everything the agent reads from the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    agent: AgentSettings = AgentSettings()
    filters: FilterSettings = FilterSettings()
    response: ResponseSettings = ResponseSettings()
    publish: PublishSettings = PublishSettings()
    rules: RulesSettings = RulesSettings()
    broker: BrokerSettings = BrokerSettings()
    topology: dict[str, Any] = Field(
        default=DEFAULT_TOPOLOGY, description="Actors, mailboxes and edges; see actors/runtime."
    )
