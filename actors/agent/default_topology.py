"""The topology the agent runs when the configuration names none; `lavender.toml` ships the same."""

from __future__ import annotations

from typing import Any


def _reader(ring: str) -> dict[str, Any]:
    return {
        "kind": "ring_reader",
        "to": ["correlator"],
        "restart": "transient",
        "options": {"ring": ring},
    }


DEFAULT_TOPOLOGY: dict[str, Any] = {
    "agent": {
        "strategy": "one_for_one",
        "max_restarts": 5,
        "within_secs": 30,
        "drain_secs": 5,
        "actors": {
            "ring_clock": {"kind": "ring_clock", "restart": "transient"},
            "fork_reader": _reader("FORK_EVENTS"),
            "exec_reader": _reader("EXEC_EVENTS"),
            "exit_reader": _reader("EXIT_EVENTS"),
            "open_reader": _reader("OPEN_EVENTS"),
            "conn_reader": _reader("CONN_EVENTS"),
            "listen_reader": _reader("LISTEN_EVENTS"),
            "exec_minor_reader": _reader("EXEC_MINOR"),
            "open_minor_reader": _reader("OPEN_MINOR"),
            "conn_minor_reader": _reader("CONN_MINOR"),
            "flood_reader": _reader("FLOOD_EVENTS"),
            "witness_reader": _reader("WITNESS_EVENTS"),
            "correlator": {
                "kind": "correlator",
                "to": ["responder", "alert_console", "publisher", "event_console", "recorder"],
                "mailbox": {"capacity": 64, "overflow": "block"},
            },
            "responder": {
                "kind": "responder",
                "to": ["alert_console"],
                "mailbox": {"capacity": 1024, "overflow": "block"},
            },
            "heartbeat": {
                "kind": "heartbeat",
                "to": ["correlator", "alert_console", "publisher"],
                "restart": "transient",
            },
            "rule_watcher": {
                "kind": "rule_watcher",
                "to": ["correlator"],
                "restart": "transient",
            },
            "publisher": {
                "kind": "publisher",
                "mailbox": {"capacity": 256, "overflow": "drop_newest"},
            },
            "recorder": {
                "kind": "recorder",
                "mailbox": {"capacity": 64, "overflow": "drop_newest"},
            },
            "event_console": {
                "kind": "event_console",
                "mailbox": {"capacity": 256, "overflow": "drop_newest"},
            },
            "alert_console": {
                "kind": "alert_console",
                "mailbox": {"capacity": 1024, "overflow": "drop_newest"},
            },
        },
    }
}
