"""The agent's sections of ``lavender.toml``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from actors.agent.default_topology import DEFAULT_TOPOLOGY
from actors.detection.settings import FilterSettings, Names

Token = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^.*>\s\x00-\x1f\x7f]+$")]
"""One NATS subject token: no ``.``, ``*``, ``>``, space or control character."""
SubjectPrefix = Annotated[
    str, Field(min_length=1, max_length=128, pattern=r"^[^.*>\s]+(\.[^.*>\s]+)*$")
]


class AgentSettings(BaseModel):
    """``[agent]``: who this endpoint is and whom it reports to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    agent_id: Token = Field(default="dev-agent-1", description="Name of this endpoint.")
    tenant_id: Token = Field(default="dev", description="Name of its tenant.")
    nats_url: str = Field(
        default="nats://127.0.0.1:4222",
        max_length=1024,
        pattern=r"^(nats|tls|ws|wss)://\S+$",
        description="The broker.",
    )
    telemetry_subject_prefix: SubjectPrefix = Field(
        default="telemetry.raw", description="Subject of telemetry, before tenant and agent."
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


class ResponseSettings(BaseModel):
    """``[response]``: what may be done about a process."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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

    model_config = ConfigDict(extra="forbid", frozen=True)

    agent: AgentSettings = AgentSettings()
    filters: FilterSettings = FilterSettings()
    response: ResponseSettings = ResponseSettings()
    topology: dict[str, Any] = Field(
        default=DEFAULT_TOPOLOGY, description="Actors, mailboxes and edges; see actors/runtime."
    )
