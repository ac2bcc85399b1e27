"""The broker's accounts: one for the services and their streams, and one for each agent. Pure.

What is in one account cannot be reached from another but by what is exported and imported. An agent
publishes through an import, so the broker's ack goes back into the agent's own account, whatever
subject the agent chose for it: to no stream, no service and no other agent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from transport.subjects import ALERTS, COMMAND, HEARTBEAT, RAW

SERVICES = "SERVICES"
"""The account of the services; no agent's has this name, for theirs have a dot."""
ANY_AGENT = "*.*"
_PUBLISHED = (RAW, ALERTS, HEARTBEAT)


def services(users: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The account of the services, with the streams in it."""
    exported = [{"service": f"{prefix}.*.*"} for prefix in _PUBLISHED]
    return {
        "jetstream": "enabled",
        "users": list(users),
        "exports": [*exported, {"stream": f"{COMMAND}.*.*"}],
    }


def agent(address: str, public_key: str) -> dict[str, Any]:
    """The account of an agent: it publishes as itself, and hears its commands and acks.

    Args:
        address: ``<tenant>.<agent_id>``, or `ANY_AGENT`.
        public_key: its nkey.
    """
    publishes = [f"{prefix}.{address}" for prefix in _PUBLISHED]
    hears = f"{COMMAND}.{address}"
    permissions = {"publish": publishes, "subscribe": [hears, f"_INBOX.{address}.>"]}
    imported = [{"service": {"account": SERVICES, "subject": each}} for each in publishes]
    return {
        "users": [{"nkey": public_key, "permissions": permissions}],
        "imports": [*imported, {"stream": {"account": SERVICES, "subject": hears}}],
    }
