"""Lines for people and programs: JSON objects, or pretty text. Pure functions."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

from actors.agent.messages import Response
from actors.detection.alerts import Alert
from actors.detection.events import ConnectEvent, ExecEvent
from actors.detection.text import printable, printable_lines

_encoded = msgspec.json.Encoder().encode
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


class _ExecLine(msgspec.Struct, tag_field="type", tag="exec", gc=False):
    pid: int
    ppid: int
    user: str
    comm: str
    filename: str
    cmdline: str
    ancestry: str
    timestamp: str
    uid: int
    login_uid: int
    exe: str
    cwd: str
    argv_cut: bool
    cgroup_id: int
    start_ns: int
    error: str | msgspec.UnsetType = msgspec.UNSET


class _ConnectLine(msgspec.Struct, tag_field="type", tag="conn", gc=False):
    pid: int
    user: str
    comm: str
    dest_ip: str
    dest_port: int
    af: int
    ancestry: str
    timestamp: str
    uid: int
    path: str | msgspec.UnsetType
    start_ns: int
    error: str | msgspec.UnsetType = msgspec.UNSET


def _line(record: object) -> bytes:
    """A line of JSON; what a terminal would obey or hide is escaped in it."""
    raw = _encoded(record)
    if raw.isascii() and b"\x7f" not in raw:
        return raw + b"\n"
    return printable_lines(raw.decode()).encode() + b"\n"


def timestamp(time_ns: int, boot_unix_ns: int) -> str:
    """UTC time of a boot-clock moment, RFC 3339 with milliseconds."""
    secs, ns = divmod(time_ns + boot_unix_ns, 1_000_000_000)
    return f"{_second(secs)}.{ns // 1_000_000:03}Z"


@lru_cache(maxsize=16)
def _second(unix_secs: int) -> str:
    return datetime.fromtimestamp(unix_secs, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def event_json(event: ExecEvent | ConnectEvent, ancestry: str, boot_unix_ns: int) -> bytes:
    """One line of JSON for an execution or a connection."""
    line: _ExecLine | _ConnectLine
    if isinstance(event, ExecEvent):
        line = _ExecLine(
            event.pid,
            event.ppid,
            event.user,
            event.comm,
            event.filename,
            " ".join(event.argv),
            ancestry,
            timestamp(event.time_ns, boot_unix_ns),
            event.uid,
            event.login_uid,
            event.exe,
            event.cwd,
            event.argv_cut,
            event.cgroup_id,
            event.start_ns,
        )
    else:
        line = _ConnectLine(
            event.pid,
            event.user,
            event.comm,
            event.dest_ip,
            event.dest_port,
            event.af,
            ancestry,
            timestamp(event.time_ns, boot_unix_ns),
            event.uid,
            event.path or msgspec.UNSET,
            event.start_ns,
        )
    if event.error:
        line.error = errno.errorcode.get(event.error, str(event.error))
    return _line(line)


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
        "level": alert.level,
        "author": alert.author,
        "references": alert.references,
        "count": alert.count,
    }
    return _line(record)


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
    return _line(record)


def status_json(record: Mapping[str, Any]) -> bytes:
    """One line of JSON for a status record."""
    return _line({"kind": "status", **record})


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


def _times(count: int) -> str:
    return f", the {count}th time here" if count > 2 else ", again" if count > 1 else ""


def alert_pretty(alert: Alert, boot_unix_ns: int) -> bytes:
    """Two coloured lines for an alert."""
    clock = timestamp(alert.time_ns, boot_unix_ns)[11:23]
    colour = _SEVERITY_COLOURS.get(alert.severity, "")
    lineage = printable(alert.ancestry.replace("=>", _BEGAT), limit=_COMMAND_MAX)
    line = (
        f"{_DIM}{clock}{_RESET} {colour}{alert.severity:<8}{_RESET} {alert.pid:>7} "
        f"{printable(alert.rule)}  score {alert.score}{_times(alert.count)}\n"
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
        + "".join(f" {word} {counts[word]}" for word in ("throttled", "lost") if counts.get(word))
        for name, counts in probes.items()
    ]
    return f"{_DIM}up {record['uptime_secs']:.0f} s · {' · '.join(parts)}{_RESET}\n".encode()
