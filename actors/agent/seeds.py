"""The processes that run already, read from ``/proc`` (proc(5)).

Limits: a process that ends while it is read is left out; one that starts meanwhile is announced by
the kernel anyway. Arguments are what the process says of itself, up to 8 KiB or the 256th, as those
of an exec are.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from actors.agent.hostfiles import HostFiles
from actors.detection.events import SeedEvent
from bpf.records import TICK_NS

PROC = Path("/proc")
_ARGUMENTS_MAX_BYTES = 8192
_ARGUMENTS_MAX = 256
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def start_ns_of(pid: int, proc: Path = PROC) -> int | None:
    """Start time of a process, boot nanoseconds in whole ticks; None if there is no such one."""
    fields = _stat_fields(proc / str(pid))
    return None if fields is None else _start_ns(fields)


def running(pid: int, proc: Path = PROC) -> tuple[int, int, str] | None:
    """Start time, user and comm of a process; None if there is no such one."""
    folder = proc / str(pid)
    try:
        uid = folder.stat().st_uid
    except OSError:
        return None
    fields = _stat_fields(folder)
    return None if fields is None else (_start_ns(fields), uid, fields[0])


def _stat_fields(folder: Path) -> tuple[str, list[str]] | None:
    try:
        raw = (folder / "stat").read_bytes().decode("utf-8", "backslashreplace")
    except OSError:
        return None
    # The comm stands in parentheses and may itself hold parentheses and spaces.
    opening, closing = raw.find("("), raw.rfind(")")
    fields = raw[closing + 2 :].split()
    return (raw[opening + 1 : closing], fields) if opening > 0 and len(fields) > 19 else None


def _start_ns(stat: tuple[str, list[str]]) -> int:
    return int(stat[1][19]) * (1_000_000_000 // _TICKS_PER_SECOND) // TICK_NS * TICK_NS


def read_seeds(host: HostFiles, proc: Path = PROC) -> list[SeedEvent]:
    """Every process of ``/proc``, ordered by start time, parents before children.

    Args:
        host: says which executables are the host's own.
        proc: where the processes are.
    """
    now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    stats = {}
    for entry in proc.iterdir():
        if entry.name.isdecimal() and (found := _stat_fields(entry)) is not None:
            stats[int(entry.name)] = found
    starts = {pid: _start_ns(stat) for pid, stat in stats.items()}
    seeds = []
    for pid, (comm, fields) in stats.items():
        folder = proc / str(pid)
        try:
            uid = folder.stat().st_uid
            argv = _arguments(folder)
            exe, system_exe = host.of_process(folder)
        except OSError:
            continue
        ppid = int(fields[1])
        seeds.append(
            SeedEvent(
                time_ns=now_ns,
                pid=pid,
                start_ns=starts[pid],
                ppid=ppid,
                parent_start_ns=starts.get(ppid, 0),
                uid=uid,
                comm=comm,
                exe=exe,
                system_exe=system_exe,
                argv=argv,
            )
        )
    return sorted(seeds, key=lambda seed: (seed.start_ns, seed.pid))


def _arguments(folder: Path) -> tuple[str, ...]:
    with (folder / "cmdline").open("rb") as file:
        raw = file.read(_ARGUMENTS_MAX_BYTES)
    return tuple(raw.decode("utf-8", "backslashreplace").split("\0")[:-1][:_ARGUMENTS_MAX])


def ancestors_of(pid: int, proc: Path = PROC) -> frozenset[int]:
    """``pid`` and its ancestors, as pids."""
    found: set[int] = set()
    while pid > 0 and pid not in found:
        found.add(pid)
        fields = _stat_fields(proc / str(pid))
        if fields is None:
            break
        pid = int(fields[1][1])
    return frozenset(found)
