"""Lines for people and programs: JSON objects, or pretty text. Pure functions."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from actors.agent.messages import Response
from actors.detection.alerts import Alert
from actors.detection.events import ConnectEvent, ExecEvent
from actors.detection.text import printable

_encode = msgspec.json.Encoder().encode
_COMMAND_MAX = 160

_RESET = "\x1b[0m"
_DIM = "\x1b[2m"
_CYAN = "\x1b[36m"
_BLUE = "\x1b[34m"
_SEVERITY_COLOURS = {
    "INFO": "\x1b[34m",
    "WARNING": "\x1b[33m",
    "HIGH": "\x1b[31m",
    "CRITICAL": "\x1b[1;97;41m",
}
_BEGAT = " › "  # noqa: RUF001 - the arrow between parent and child, not a greater-than sign
_ACTION_COLOURS = {"killed": "\x1b[1;31m", "failed": "\x1b[31m"}


def timestamp(time_ns: int, boot_unix_ns: int) -> str:
    """UTC time of a boot-clock moment, RFC 3339 with milliseconds."""
    moment = datetime.fromtimestamp((time_ns + boot_unix_ns) / 1e9, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def event_json(event: ExecEvent | ConnectEvent, ancestry: str, boot_unix_ns: int) -> bytes:
    """One line of JSON for an execution or a connection."""
    record: dict[str, Any]
    if isinstance(event, ExecEvent):
        record = {
            "type": "exec",
            "pid": event.pid,
            "ppid": event.ppid,
            "user": event.user,
            "comm": event.comm,
            "filename": event.filename,
            "cmdline": " ".join(event.argv),
            "ancestry": ancestry,
            "timestamp": timestamp(event.time_ns, boot_unix_ns),
            "uid": event.uid,
            "login_uid": event.login_uid,
            "exe": event.exe,
            "cwd": event.cwd,
            "argv_cut": event.argv_cut,
            "cgroup_id": event.cgroup_id,
        }
    else:
        record = {
            "type": "conn",
            "pid": event.pid,
            "user": event.user,
            "comm": event.comm,
            "dest_ip": event.dest_ip,
            "dest_port": event.dest_port,
            "af": event.af,
            "ancestry": ancestry,
            "timestamp": timestamp(event.time_ns, boot_unix_ns),
            "uid": event.uid,
        }
        if event.path:
            record["path"] = event.path
    record["start_ns"] = event.start_ns
    if event.error:
        record["error"] = errno.errorcode.get(event.error, str(event.error))
    return _encode(record) + b"\n"


def alert_json(alert: Alert, boot_unix_ns: int) -> bytes:
    """One line of JSON for an alert."""
    record = {
        "type": "alert",
        "pid": alert.pid,
        "rule": alert.rule,
        "detail": alert.detail,
        "ancestry": alert.ancestry,
        "timestamp": timestamp(alert.time_ns, boot_unix_ns),
        "score": alert.score,
        "severity": alert.severity,
        "base_score": alert.base_score,
        "lineage_bonus": alert.lineage_bonus,
        "rarity_bonus": alert.rarity_bonus,
        "sequence_bonus": alert.sequence_bonus,
        "rule_id": alert.rule_id,
        "techniques": alert.techniques,
        "comm": alert.comm,
        "exe": alert.exe,
        "uid": alert.uid,
        "start_ns": alert.start_ns,
        "event": alert.event,
    }
    return _encode(record) + b"\n"


def response_json(response: Response, boot_unix_ns: int) -> bytes:
    """One line of JSON for a decision of the responder."""
    record = {
        "kind": "response",
        "pid": response.pid,
        "comm": response.comm,
        "action": response.action,
        "dry_run": response.dry_run,
        "score": response.score,
        "timestamp": timestamp(response.time_ns, boot_unix_ns),
        "reason": response.reason,
        "rule": response.rule,
        "start_ns": response.start_ns,
    }
    return _encode(record) + b"\n"


def status_json(record: Mapping[str, Any]) -> bytes:
    """One line of JSON for a status record."""
    return _encode({"kind": "status", **record}) + b"\n"


def event_pretty(event: ExecEvent | ConnectEvent, ancestry: str, boot_unix_ns: int) -> bytes:
    """One coloured line for an execution or a connection; nothing in it can move the cursor."""
    clock = timestamp(event.time_ns, boot_unix_ns)[11:23]
    lineage = printable(ancestry.replace("=>", _BEGAT), limit=_COMMAND_MAX)
    if isinstance(event, ExecEvent):
        what = printable(" ".join(event.argv) or event.filename, limit=_COMMAND_MAX)
        label, colour = "exec", _CYAN
    else:
        host = f"[{event.dest_ip}]" if ":" in event.dest_ip else event.dest_ip
        target = event.path or f"{host}:{event.dest_port}"
        what = printable(f"{event.comm} → {target}", limit=_COMMAND_MAX)
        label, colour = "conn", _BLUE
    failed = f" ({errno.errorcode.get(event.error, event.error)})" if event.error else ""
    user = printable(event.user, limit=32)
    line = (
        f"{_DIM}{clock}{_RESET} {colour}{label}{_RESET} {event.pid:>7} {user:<10} "
        f"{what}{failed}  {_DIM}{lineage}{_RESET}\n"
    )
    return line.encode()


def alert_pretty(alert: Alert, boot_unix_ns: int) -> bytes:
    """Two coloured lines for an alert."""
    clock = timestamp(alert.time_ns, boot_unix_ns)[11:23]
    colour = _SEVERITY_COLOURS.get(alert.severity, "")
    lineage = printable(alert.ancestry.replace("=>", _BEGAT), limit=_COMMAND_MAX)
    line = (
        f"{_DIM}{clock}{_RESET} {colour}{alert.severity:<8}{_RESET} {alert.pid:>7} "
        f"{alert.rule}  score {alert.score}\n"
        f"             {printable(alert.detail)}\n             {_DIM}{lineage}{_RESET}\n"
    )
    return line.encode()


def response_pretty(response: Response, boot_unix_ns: int) -> bytes:
    """One coloured line for a decision."""
    clock = timestamp(response.time_ns, boot_unix_ns)[11:23]
    colour = _ACTION_COLOURS.get(response.action, _DIM)
    comm, reason = printable(response.comm, limit=32), printable(response.reason)
    line = (
        f"{_DIM}{clock}{_RESET} {colour}{response.action}{_RESET} {response.pid} "
        f"{comm} (score {response.score}): {reason}\n"
    )
    return line.encode()


def status_pretty(record: Mapping[str, Any]) -> bytes:
    """One dim line for a status record."""
    probes = record.get("probes", {})
    parts = [
        f"{name} {counts['delivered']}/{counts['seen']}"
        + (f" lost {counts['lost']}" if counts["lost"] else "")
        for name, counts in probes.items()
    ]
    return f"{_DIM}up {record['uptime_secs']:.0f} s · {' · '.join(parts)}{_RESET}\n".encode()
