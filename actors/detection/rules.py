"""The rules: what one event can tell, as data.

A rule raises an alert when all its conditions hold, once per process. Its label, points and
meaning are known to people outside; change a condition, never a label.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from actors.detection.conditions import Condition, EventType, must, must_not

Level: TypeAlias = Literal["low", "medium", "high", "critical"]


class Rule(msgspec.Struct, frozen=True):
    """One rule."""

    id: str
    """Stable slug, for exclusions and statistics."""
    label: str
    """The name people know."""
    points: int
    """What it adds to the score of a process, once."""
    level: Level
    """How serious it is by itself."""
    techniques: tuple[str, ...]
    """MITRE ATT&CK technique ids."""
    event: EventType
    when: tuple[Condition, ...]
    """All must hold; cheap ones first."""
    detail: str
    """The alert's sentence; ``$words`` are filled in by ``alerts.py``."""


SENSITIVE_READ = (
    must("opens-sensitive"),
    must("succeeded"),
    must("reads"),
    must_not("program-trusted-in", "safe_file_readers"),
)
OUTBOUND = (must("over-ip"), must("to-external"))

RULES = (
    Rule(
        id="unexpected-shell-spawn",
        label="T1059 [Unexpected shell spawn]",
        points=40,
        level="medium",
        techniques=("T1059", "T1059.004"),
        event="exec",
        when=(
            must("succeeded"),
            must("program-in", "shell_names"),
            must_not("launcher-trusted-in", "safe_shell_launchers"),
            must_not("launcher-trusted-in", "shell_names"),
        ),
        detail="$launcher started the shell $program",
    ),
    Rule(
        id="sensitive-file-read",
        label="T1003 [Sensitive file read]",
        points=35,
        level="medium",
        techniques=("T1003", "T1003.008"),
        event="open",
        when=SENSITIVE_READ,
        detail="$program opened $target for reading",
    ),
    Rule(
        id="suspicious-port",
        label="T1071 [Connection to suspicious port]",
        points=45,
        level="medium",
        techniques=("T1071", "T1571"),
        event="connect",
        when=(must("over-ip"), must("to-port-in", "suspicious_ports")),
        detail="$program $outcome $target",
    ),
    Rule(
        id="shell-outbound-connection",
        label="T1059 [Shell making outbound connection]",
        points=60,
        level="high",
        techniques=("T1059", "T1059.004"),
        event="connect",
        when=(*OUTBOUND, must("program-in", "shell_names")),
        detail="the shell $program $outcome $target",
    ),
    Rule(
        id="first-network-caller",
        label="T1071 [First time Network Caller]",
        points=15,
        level="low",
        techniques=("T1071",),
        event="connect",
        when=(
            *OUTBOUND,
            must_not("program-trusted-in", "known_network_callers"),
            must("first-network-call"),
        ),
        detail="$program used the network for the first time on this host: it $outcome $target",
    ),
    Rule(
        id="obfuscated-command",
        label="T1027 [Obfuscated command execution]",
        points=55,
        level="high",
        techniques=("T1027", "T1059"),
        event="exec",
        when=(
            must("succeeded"),
            must("program-in", "interpreters"),
            must_not("launcher-trusted-in", "safe_command_launchers"),
            must("obfuscated"),
        ),
        detail="$launcher ran $program with $note: $arguments",
    ),
)
