"""The events that detection works on: one record per observation, as plain data.

Every event names its process by identity (pid, start time) and carries the kernel's
boot-time nanoseconds. The boot id is the third part of the identity and is the same for all
events of one recording, so it stands in the recording's header instead of in each event.

Text a watched process controls (names, arguments, paths) was bytes in the kernel. It is decoded
once, as UTF-8 with ``backslashreplace``, so it is always valid Unicode here; it may still hold
control characters and is hostile.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

Identity: TypeAlias = tuple[int, int]
"""(pid, start time in boot nanoseconds): a process, safe against reuse of its pid."""


class Event(msgspec.Struct, frozen=True, gc=False, tag_field="type"):
    """What every event has: when it happened and which process did it."""

    time_ns: int
    """Boot-time nanoseconds (CLOCK_BOOTTIME) at which the kernel recorded it."""
    pid: int
    start_ns: int
    """Start time of the process, boot nanoseconds; with the pid, its identity."""

    @property
    def identity(self) -> Identity:
        """The process that did it."""
        return (self.pid, self.start_ns)


class SeedEvent(Event, frozen=True, gc=False, tag="seed"):
    """A process that was already running when the agent started, read from /proc."""

    ppid: int
    parent_start_ns: int
    """0 when the parent is the kernel or had gone."""
    uid: int
    comm: str
    exe: str
    """Path of the executable; empty for a kernel thread."""
    system_exe: bool
    argv: tuple[str, ...]


class ForkEvent(Event, frozen=True, gc=False, tag="fork"):
    """A new process (not a thread); ``pid`` and ``start_ns`` are the child's."""

    ppid: int
    parent_start_ns: int
    uid: int
    comm: str


class ExecEvent(Event, frozen=True, gc=False, tag="exec"):
    """A program was started, or an attempt failed (then ``error`` is its errno)."""

    ppid: int
    parent_start_ns: int
    uid: int
    login_uid: int
    """Audit login uid; 4294967295 when unset."""
    cgroup_id: int
    comm: str
    filename: str
    """The path given to execve, from the kernel's copy; for a script, the script."""
    exe: str
    """Path of the file that runs, by dentry walk; for a script, its interpreter."""
    system_exe: bool
    """The file lies in a system directory, is root's and only root can write it: its name can be
    believed. Decided from the kernel's inode, not from the path alone."""
    argv: tuple[str, ...]
    argv_cut: bool
    """True when arguments beyond 8 KiB or the 256th were left out."""
    cwd: str
    user: str
    """Name of ``uid`` on this host, or its digits."""
    error: int
    """0 for success; otherwise the errno of the failed call (then exe and cwd are empty)."""


class ExitEvent(Event, frozen=True, gc=False, tag="exit"):
    """The last thread of a process has gone."""

    exit_code: int
    """0 to 255; 0 when killed by a signal."""
    signal: int
    """The signal that ended it, or 0."""


class OpenEvent(Event, frozen=True, gc=False, tag="open"):
    """A file was opened, or an attempt failed."""

    uid: int
    comm: str
    filename: str
    """Absolute path of the file the kernel opened when ``resolved``; else the caller's text."""
    resolved: bool
    flags: int
    """The flags of open(2); ``flags & 3`` is the access mode."""
    error: int
    origin: str = ""
    """Where a listed name lies in its own filesystem, when a mount of a part of that filesystem
    (a bind mount, a subvolume) shows it somewhere else; else empty."""


class ConnectEvent(Event, frozen=True, gc=False, tag="connect"):
    """A socket was connected, or an attempt failed (EINPROGRESS is not a failure)."""

    uid: int
    user: str
    comm: str
    af: int
    """Address family: 1 unix, 2 IPv4, 10 IPv6."""
    dest_ip: str
    """Canonical text of the address; empty for a unix socket."""
    dest_port: int
    path: str
    """Path of a unix socket (an abstract name begins with @); empty otherwise."""
    error: int


AnyEvent: TypeAlias = SeedEvent | ForkEvent | ExecEvent | ExitEvent | OpenEvent | ConnectEvent
