"""The ``[store]`` section."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class StoreSettings(BaseModel):
    """``[store]``: where telemetry is kept, and for how long."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    url: str = Field(
        default="sqlite:lavender.db",
        max_length=1024,
        pattern=r"^(sqlite:.+|postgres(ql)?://.*)$",
        repr=False,  # it may hold a password
        description="`sqlite:PATH` or `postgresql://user:password@host/database`; the password may "
        "instead come from the environment (`PGPASSWORD`) or `~/.pgpass`.",
    )
    password_file: Path | None = Field(
        strict=False,
        default=None,
        description="A file with the password of PostgreSQL, instead of in `url`.",
    )
    retention_days: int = Field(
        default=30,
        ge=2,  # a message the broker still holds (for a day) must find its line, or comes in twice
        le=3650,
        description="Events older than this are removed.",
    )
    alert_retention_days: int = Field(
        default=365, ge=1, le=3650, description="Alerts older than this are removed."
    )
    compress_after_days: int = Field(
        default=7,
        ge=1,
        le=3650,
        description="TimescaleDB compresses chunks older than this; other stores do not compress.",
    )

    @property
    def sqlite_path(self) -> Path | None:
        """The file of the embedded store; None for PostgreSQL."""
        scheme, _, rest = self.url.partition(":")
        return Path(rest) if scheme == "sqlite" else None
