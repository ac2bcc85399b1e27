"""Messages for the tests of the services, as an agent would send them."""

from __future__ import annotations

from typing import Any

import msgspec

from actors.detection.events import (
    ConnectEvent,
    ExecEvent,
    ExitEvent,
    ForkEvent,
    OpenEvent,
    SeedEvent,
)
from transport.messages import Batch, Counters, Event, Host, ProbeCounts
from transport.subjects import Address

ADDRESS = Address("acme", "web-1")
EPOCH = "00000000000000aa"
BOOT_NS = 1_700_000_000_000_000_000
HOST = Host("web", "boot", BOOT_NS)


def a_seed(number: int) -> SeedEvent:
    """A process that ran before the first event."""
    return SeedEvent(
        time_ns=10**12 - 1,
        pid=2000 + number,
        start_ns=10**9 + number * 10**7,
        ppid=1,
        parent_start_ns=10**8,
        uid=0,
        comm="cron",
        exe="/usr/sbin/cron",
        system_exe=True,
        argv=("/usr/sbin/cron", "-f"),
    )


def an_event(number: int) -> Event:
    """One of five kinds in turn."""
    stamp: dict[str, Any] = {"time_ns": 10**12 + number * 10**6, "start_ns": 10**12}
    stamp["pid"] = 100 + number % 1000
    match number % 5:
        case 0:
            return ForkEvent(**stamp, ppid=1, parent_start_ns=10**11, uid=0, comm="bash")
        case 1:
            return ExecEvent(
                **stamp,
                ppid=1,
                parent_start_ns=10**11,
                uid=0,
                login_uid=1000,
                cgroup_id=7,
                comm="curl",
                filename="/usr/bin/curl",
                exe="/usr/bin/curl",
                system_exe=True,
                argv=("curl", "-s", f"https://example.org/{number}"),
                argv_cut=False,
                cwd="/root",
                user="root",
                error=0,
                ancestry="systemd=>sshd=>bash=>curl",
            )
        case 2:
            what: dict[str, Any] = {
                "filename": "/etc/shadow",
                "resolved": True,
                "flags": 0,
                "error": 0,
            }
            return OpenEvent(**stamp, **what, uid=0, comm="cat")
        case 3:
            where: dict[str, Any] = {
                "af": 2,
                "dest_ip": "203.0.113.7",
                "dest_port": 443,
                "path": "",
                "error": 0,
            }
            return ConnectEvent(**stamp, **where, uid=0, user="root", comm="curl")
        case _:
            return ExitEvent(**stamp, exit_code=0, signal=0)


def counted(*, read: int, spooled: int, alerts: int = 0, load_id: str = EPOCH) -> Counters:
    """Counters of an agent that read and spooled so much, and lost nothing."""
    probes = {"exec": ProbeCounts(seen=read, delivered=read)}
    return Counters(load_id=load_id, probes=probes, read=read, spooled=spooled, alerts=alerts)


def a_batch(number: int = 0, *, first: int = 0, count: int = 5, **changes: Any) -> Batch:
    """Batch ``number`` with the events ``first`` and on."""
    batch = Batch(
        batch_id=f"{EPOCH}-{number}",
        agent_id=ADDRESS.agent_id,
        tenant_id=ADDRESS.tenant_id,
        host=HOST,
        epoch=EPOCH,
        observed_at_unix_ms=1_700_000_000_000,
        first_seq=first,
        last_seq=first + count - 1,
        counters=counted(read=first + count, spooled=first + count),
        events=[an_event(index) for index in range(first, first + count)],
    )
    return msgspec.structs.replace(batch, **changes)
