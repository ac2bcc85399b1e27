"""What the agent takes from itself at its start: files, ports and calls that it will not need.

An attacker who makes a decoder run code of his has what is left: the spool, the pins, the open
recording, the broker's port. In two steps. Landlock comes before any thread is started; the
seccomp filter when everything has started, for all threads at once. A kernel without one of them
is said to be so, and the agent runs with the other.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog

from actors.agent import calls, landlock, seccomp

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

_DNS_PORT = 53
_NATS_PORT = 4222
_SYSTEM = (
    "/usr",
    "/lib",
    "/lib64",
    "/etc",
    "/proc",
    "/sys/devices/system/cpu",
    "/run/systemd/resolve",  # what /etc/resolv.conf may lead to, as the next two
    "/run/NetworkManager",
    "/run/resolvconf",
)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the agent has to reach after its start."""

    spool: Path | None
    """Folder of the spool; None where nothing is published."""
    pins: int | None
    """Descriptor of the folder of the pins."""
    rules: Path | None
    """Folder of the rule files."""
    broker_url: str | None
    """None where nothing is published."""
    kills: bool
    """Processes may be killed."""


class Confinement:
    """What is in force; says so to whoever asks."""

    def __init__(self) -> None:
        self.landlock = 0
        """Version of the kernel's Landlock; 0 where it does not hold us."""
        self.seccomp = False

    def status(self) -> dict[str, Any]:
        """For the heartbeat."""
        return {"landlock": self.landlock, "seccomp": self.seccomp}

    def close_files(self, work: Work) -> None:
        """Hold this process to the files and ports of its work. No other thread may run yet."""
        found = landlock.version()
        if not found:
            log.warning("this kernel has no Landlock: any file of the agent's user is in reach")
            return
        try:
            _ruleset(found, work).enforce()
        except OSError as error:
            log.warning("Landlock does not hold the agent", why=str(error))
            return
        self.landlock = found

    def close_calls(self, work: Work) -> None:
        """Hold every thread of this process to the calls of its work."""
        host = None if work.broker_url is None else urlsplit(work.broker_url).hostname
        rules = calls.rules(
            connects=host is not None, names=host is not None and is_name(host), kills=work.kills
        )
        try:
            seccomp.install(seccomp.program(rules, calls.refused()))
        except OSError as error:
            log.warning("no seccomp filter holds the agent", why=str(error))
            return
        self.seccomp = True


def is_name(host: str) -> bool:
    """Whether a host is named by something that DNS has to be asked about."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host != "localhost"
    return False


def _ruleset(found: int, work: Work) -> landlock.Ruleset:
    ruleset = landlock.Ruleset(found, signals=work.kills)
    ruleset.allow(_readable(work), landlock.READ)
    ruleset.allow([Path(os.devnull)], landlock.WRITE)
    if work.spool is not None:
        ruleset.allow([work.spool], landlock.WRITE)
    if work.pins is not None:
        above = os.open("..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=work.pins)
        ruleset.allow([work.pins, above], landlock.REMOVE)
        os.close(above)
    if work.broker_url is not None:
        parts = urlsplit(work.broker_url)
        ports = {parts.port or _NATS_PORT}
        if is_name(parts.hostname or ""):
            ports.add(_DNS_PORT)
        ruleset.allow_ports(ports)
    return ruleset


def _readable(work: Work) -> Iterator[Path]:
    """The system's libraries and tables, Python's, our own, and the rules."""
    yield from map(Path, _SYSTEM)
    ours = Path(__file__).resolve().parents[2]
    yield from (ours / package for package in ("actors", "bpf", "transport"))
    yield from map(Path, (sys.prefix, sys.base_prefix))
    if work.rules is not None:
        # The folder above: rules are exchanged by putting another folder in the place.
        above = work.rules.absolute().parent
        yield work.rules if above == Path("/") else above
