"""Messages and events for tests and measures of the stores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actors.detection.events import (
    ConnectEvent,
    ExecEvent,
    ExitEvent,
    FloodEvent,
    ForkEvent,
    ListenEvent,
    OpenEvent,
    SeedEvent,
)
from transport.messages import (
    Alert,
    CanonicalBatch,
    CanonicalSingle,
    Counters,
    Event,
    EventV1,
    Host,
    Invalid,
    Rejected,
    alert_id,
)

NOW_MS = 1_764_000_000_000
BOOT_NS = 1_763_900_000_000_000_000
EPOCH = "00112233445566aa"
HOST = Host(hostname="web-1", boot_id="6f9a", boot_unix_ns=BOOT_NS)


def exec_event(**own: Any) -> ExecEvent:
    values: dict[str, Any] = {
        "time_ns": 5_000_000_000,
        "pid": 400,
        "start_ns": 4_999_000_000,
        "ppid": 300,
        "parent_start_ns": 3_000_000_000,
        "uid": 1000,
        "login_uid": 1000,
        "cgroup_id": 77,
        "comm": "curl",
        "filename": "/usr/bin/curl",
        "exe": "/usr/bin/curl",
        "system_exe": True,
        "argv": ("curl", "-s", "https://example.org/a/b?c=d"),
        "argv_cut": False,
        "cwd": "/home/ann",
        "user": "ann",
        "error": 0,
        "ancestry": "init=>sshd=>bash=>curl",
        "stdio": ("pipe:[71]", "socket:[72]", ""),
    }
    return ExecEvent(**{**values, **own})


def open_event(**own: Any) -> OpenEvent:
    values: dict[str, Any] = {
        "time_ns": 6_000_000_000,
        "pid": 400,
        "start_ns": 4_999_000_000,
        "uid": 1000,
        "comm": "curl",
        "filename": "/etc/ssl/certs/ca-certificates.crt",
        "resolved": True,
        "flags": 0,
        "error": 0,
        "witness": True,
    }
    return OpenEvent(**{**values, **own})


def connect_event(**own: Any) -> ConnectEvent:
    values: dict[str, Any] = {
        "time_ns": 7_000_000_000,
        "pid": 400,
        "start_ns": 4_999_000_000,
        "uid": 1000,
        "user": "ann",
        "comm": "curl",
        "af": 2,
        "dest_ip": "93.184.216.34",
        "dest_port": 443,
        "path": "",
        "error": 0,
        "ancestry": "init=>sshd=>bash=>curl",
        "claimed": "198.51.100.20:443",
        "socket": 72,
    }
    return ConnectEvent(**{**values, **own})


def exit_event(**own: Any) -> ExitEvent:
    values: dict[str, Any] = {
        "time_ns": 8_000_000_000,
        "pid": 400,
        "start_ns": 4_999_000_000,
        "exit_code": 0,
        "signal": 0,
    }
    return ExitEvent(**{**values, **own})


def fork_event(**own: Any) -> ForkEvent:
    values: dict[str, Any] = {
        "time_ns": 4_999_000_000,
        "pid": 400,
        "start_ns": 4_999_000_000,
        "ppid": 300,
        "parent_start_ns": 3_000_000_000,
        "uid": 1000,
        "comm": "bash",
    }
    return ForkEvent(**{**values, **own})


def seed_event(**own: Any) -> SeedEvent:
    values: dict[str, Any] = {
        "time_ns": 4_000_000_000,
        "pid": 300,
        "start_ns": 3_000_000_000,
        "ppid": 1,
        "parent_start_ns": 10_000_000,
        "uid": 1000,
        "comm": "bash",
        "exe": "/usr/bin/bash",
        "system_exe": True,
        "argv": ("bash", "-l"),
    }
    return SeedEvent(**{**values, **own})


def listen_event(**own: Any) -> ListenEvent:
    values: dict[str, Any] = {
        "time_ns": 7_500_000_000,
        "pid": 400,
        "start_ns": 4_999_000_000,
        "uid": 1000,
        "user": "ann",
        "comm": "nc",
        "af": 2,
        "ip": "0.0.0.0",  # noqa: S104 - a value, nothing binds
        "port": 4444,
        "socket": 73,
    }
    return ListenEvent(**{**values, **own})


def flood_event(**own: Any) -> FloodEvent:
    values: dict[str, Any] = {
        "time_ns": 7_600_000_000,
        "pid": 400,
        "start_ns": 4_999_000_000,
        "uid": 1000,
        "user": "ann",
        "comm": "flood",
        "probe": "exec",
        "failed": True,
        "throttled": 344_000,
        "lost": 0,
        "span_ns": 1_000_000_000,
    }
    return FloodEvent(**{**values, **own})


MIXED = (fork_event, exec_event, open_event, open_event, connect_event, exit_event)


def mixed(count: int) -> list[Event]:
    """Events of all types, in turn."""
    return [MIXED[n % len(MIXED)](time_ns=5_000_000_000 + n * 1_000_000) for n in range(count)]


def batch(
    number: int = 0,
    *,
    events: Sequence[Event] | None = None,
    first_seq: int | None = None,
    rejected: Sequence[Rejected] = (),
    counters: Counters | None = None,
    **own: Any,
) -> CanonicalBatch:
    """The n-th batch of ten events, unless said otherwise."""
    events = mixed(10) if events is None else list(events)
    first = number * 10 if first_seq is None else first_seq
    last = first + len(events) + len(rejected) - 1
    epoch = own.get("epoch", EPOCH)
    values: dict[str, Any] = {
        "batch_id": f"{epoch}-{number}",
        "agent_id": "agent-1",
        "tenant_id": "acme",
        "host": HOST,
        "epoch": epoch,
        "observed_at_unix_ms": NOW_MS - 40,
        "first_seq": first,
        "last_seq": last,
        "events": events,
        "rejected": list(rejected),
        "received_at_unix_ms": NOW_MS + number,
        "counters": counters or Counters(spooled=last + 1),
    }
    return CanonicalBatch(**{**values, **own})


def single(event: EventV1, *, event_id: str = "event-1", **own: Any) -> CanonicalSingle:
    values: dict[str, Any] = {
        "event_id": event_id,
        "agent_id": "agent-1",
        "tenant_id": "acme",
        "host": Host(hostname="web-1"),
        "observed_at_unix_ms": NOW_MS - 40,
        "event": event,
        "received_at_unix_ms": NOW_MS,
    }
    return CanonicalSingle(**{**values, **own})


def alert(number: int = 0, **own: Any) -> Alert:
    event_id = f"{EPOCH}-{number}"
    values: dict[str, Any] = {
        "alert_id": alert_id(event_id, "rule"),
        "tenant_id": "acme",
        "agent_id": "agent-1",
        "hostname": "web-1",
        "rule": "rule",
        "severity": "WARNING",
        "detail": "curl",
        "event_type": "exec",
        "event_pid": 400,
        "event_comm": "curl",
        "created_at_unix_ms": NOW_MS - 30,
        "observed_at_unix_ms": NOW_MS - 40,
        "received_at_unix_ms": NOW_MS,
        "event_id": event_id,
        "epoch": EPOCH,
        "rule_id": "r1",
        "techniques": ("T1059", "T1071"),
    }
    return Alert(**{**values, **own})


def invalid(number: int = 0, **own: Any) -> Invalid:
    values: dict[str, Any] = {
        "invalid_id": f"TELEMETRY_RAW-{number}",
        "tenant_id": "acme",
        "agent_id": "agent-1",
        "reason": "malformed",
        "detail": "not JSON",
        "size_bytes": 12,
        "payload": "{",
        "received_at_unix_ms": NOW_MS,
    }
    return Invalid(**{**values, **own})
