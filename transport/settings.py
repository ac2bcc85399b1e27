"""The ``[broker]`` section: how to reach NATS and who one is there."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

NatsUrl = Field(
    default="nats://127.0.0.1:4222",
    max_length=1024,
    pattern=r"^(nats|tls)://\S+$",
    description="The broker of the services; an agent's is `agent.nats_url`.",
)


class BrokerSettings(BaseModel):
    """``[broker]``: the services' broker, and this machine's credentials for it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    url: str = NatsUrl
    credentials_file: Path | None = Field(
        strict=False, default=None, description="A NATS credentials file (`.creds`: JWT and seed)."
    )
    nkey_seed_file: Path | None = Field(
        strict=False, default=None, description="A file with an nkey seed."
    )
    tls_ca_file: Path | None = Field(
        strict=False,
        default=None,
        description="Certificates that may sign the broker's; else the system's.",
    )
    tls_certificate_file: Path | None = Field(
        strict=False,
        default=None,
        description="This client's certificate, where the broker asks for one.",
    )
    tls_key_file: Path | None = Field(
        strict=False, default=None, description="The key of that certificate."
    )
    replicas: int = Field(
        default=1, ge=1, le=5, description="Copies of each stream, in a cluster of brokers."
    )
