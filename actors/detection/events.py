"""The events that detection works on: one record per observation, as plain data.

Every event names its process by identity (pid, start time) and carries the kernel's
boot-time nanoseconds. The boot id is the third part of the identity and is the same for all
events of one recording, so it stands in the recording's header instead of in each event.

Text a watched process controls (names, arguments, paths) was bytes in the kernel. It is decoded
once, as UTF-8 with ``backslashreplace``, so it is always valid Unicode here; it may still hold
control characters and is hostile.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

# Bounds hold when an event is decoded, from a recording or from the wire; what the probes deliver
# keeps them by itself. They are what a store can hold (signed 64 bits) and what the kernel knows.
Ns = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Pid = Annotated[int, Meta(ge=0, le=(1 << 31) - 1)]
U32 = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]
I63 = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Port = Annotated[int, Meta(ge=0, le=65_535)]
Family = Annotated[int, Meta(ge=0, le=65_535)]
Errno = Annotated[int, Meta(ge=0, le=4095)]
Byte = Annotated[int, Meta(ge=0, le=255)]
Name = Annotated[str, Meta(max_length=256)]
"""A comm or a user's name; a byte that is not UTF-8 takes four characters."""
Path = Annotated[str, Meta(max_length=32_768)]
Arguments = Annotated[tuple[Annotated[str, Meta(max_length=65_536)], ...], Meta(max_length=256)]

Level: TypeAlias = Literal["informational", "low", "medium", "high", "critical"]
"""How much a rule's author makes of an event that fits, in Sigma's words."""
LEVELS: tuple[Level, ...] = ("informational", "low", "medium", "high", "critical")

Identity: TypeAlias = tuple[int, int]
"""(pid, start time in boot nanoseconds): a process, safe against reuse of its pid."""


class LineageProcess(msgspec.Struct, frozen=True, gc=False):
    """A process of an alert's lineage, as the alert tells it."""

    pid: Pid
    """Its pid."""
    start_ns: Ns
    """When it started, boot nanoseconds; with the pid, its identity."""
    ppid: Pid
    """Pid of the process that made it."""
    parent_start_ns: Ns
    """0 when the parent is not known."""
    name: Name
    """The program, printable."""


class Event(msgspec.Struct, frozen=True, gc=False, tag_field="type"):
    """What every event has: when it happened and which process did it."""

    time_ns: Ns
    """Boot-time nanoseconds (CLOCK_BOOTTIME) at which the kernel recorded it."""
    pid: Pid
    """The process that did it; of a fork, the new one."""
    start_ns: Ns
    """Start time of the process, boot nanoseconds; with the pid, its identity."""

    @property
    def identity(self) -> Identity:
        """The process that did it."""
        return (self.pid, self.start_ns)


class SeedEvent(Event, frozen=True, gc=False, tag="seed"):
    """A process that was already running when the agent started, read from /proc."""

    ppid: Pid
    """Pid of its parent at that moment; 0 for none."""
    parent_start_ns: Ns
    """0 when the parent is the kernel or had gone."""
    uid: U32
    """Effective user id of the process."""
    comm: Name
    """Name of the process as the kernel has it, which the process can change."""
    exe: Path
    """Path of the executable; empty for a kernel thread."""
    system_exe: bool
    """As in `ExecEvent`, judged by the file system."""
    argv: Arguments
    """Its arguments, as it shows them now."""


class ForkEvent(Event, frozen=True, gc=False, tag="fork"):
    """A new process (not a thread); ``pid`` and ``start_ns`` are the child's."""

    ppid: Pid
    """Pid of the parent."""
    parent_start_ns: Ns
    """When the parent started."""
    uid: U32
    """User id of whoever made the call."""
    comm: Name
    """Name of whoever made the call."""


class ExecEvent(Event, frozen=True, gc=False, tag="exec"):
    """A program was started, or an attempt failed (then ``error`` is its errno)."""

    ppid: Pid
    """Pid of its parent at that moment."""
    parent_start_ns: Ns
    """When the parent started; 0 if it is not known."""
    uid: U32
    """Real user id of the process."""
    login_uid: U32
    """Audit login uid; 4294967295 when unset."""
    cgroup_id: I63
    """Of the control group (version 2), which tells containers apart."""
    comm: Name
    """Name of the process: of the new program; after a failed call, of the caller."""
    filename: Path
    """The path given to execve, from the kernel's copy; for a script, the script."""
    exe: Path
    """Path of the file that runs, by dentry walk; for a script, its interpreter."""
    system_exe: bool
    """The file lies in a system directory, is root's and only root can write it: its name can be
    believed. Decided from the kernel's inode, not from the path alone."""
    argv: Arguments
    """The arguments, from the memory of the new program."""
    argv_cut: bool
    """True when arguments beyond 8 KiB or the 256th were left out."""
    cwd: Path
    """Working directory; empty if the call failed."""
    user: Name
    """Name of ``uid`` on this host, or its digits."""
    error: Errno
    """0 for success; otherwise the errno of the failed call (then exe and cwd are empty)."""
    ancestry: Path = ""
    """The lineage as people read it, ``init=>sshd=>bash=>curl``; set when the event leaves the
    agent, for only there the process table is at hand."""
    stdio: Annotated[tuple[Annotated[str, Meta(max_length=64)], ...], Meta(max_length=3)] = ()
    """What the descriptors 0, 1 and 2 are: ``socket:[N]``, ``unix:[N]`` (a socket of
    this machine alone), ``pipe:[N]`` and ``fifo:[N]`` with the inode's number, ``tty``, ``file``,
    ``null``, ``other``; empty for a closed one. Empty as a whole where nothing is known."""


class ExitEvent(Event, frozen=True, gc=False, tag="exit"):
    """The last thread of a process has gone."""

    exit_code: Byte
    """0 to 255; 0 when killed by a signal."""
    signal: Byte
    """The signal that ended it, or 0."""


class OpenEvent(Event, frozen=True, gc=False, tag="open"):
    """A file was opened, or an attempt failed."""

    uid: U32
    """User id of the process."""
    comm: Name
    """Name of the process as the kernel has it, which the process can change."""
    filename: Path
    """Absolute path of the file the kernel opened when ``resolved``; else the caller's text."""
    resolved: bool
    """Whether ``filename`` is the kernel's; a failed call has the caller's text."""
    flags: U32
    """The flags of open(2); ``flags & 3`` is the access mode."""
    error: Errno
    """0 for success; otherwise the errno of the failed call."""
    origin: Path = ""
    """Where a listed name lies in its own filesystem, when a mount of a part of that filesystem
    (a bind mount, a subvolume) shows it somewhere else; else empty."""
    witness: bool = False
    """No probe delivered it: only the mark on the file itself (fanotify) has seen the open."""


class ConnectEvent(Event, frozen=True, gc=False, tag="connect"):
    """A socket was connected, or an attempt failed (EINPROGRESS is not a failure)."""

    uid: U32
    """User id of the process."""
    user: Name
    """Name of ``uid`` on this host, or its digits."""
    comm: Name
    """Name of the process as the kernel has it, which the process can change."""
    af: Family
    """Address family: 1 unix, 2 IPv4, 10 IPv6."""
    dest_ip: Annotated[str, Meta(max_length=64)]
    """Canonical text of the address; empty for a unix socket."""
    dest_port: Port
    """Destination port; 0 for a unix socket."""
    path: Path
    """Path of a unix socket (an abstract name begins with @); empty otherwise."""
    error: Errno
    """0 for success; otherwise the errno, EINPROGRESS (115) too."""
    ancestry: Path = ""
    """As in `ExecEvent`."""
    claimed: Annotated[str, Meta(max_length=256)] = ""
    """The address that the caller's memory named when the call ended, where the kernel's socket has
    another one; else empty."""
    socket: I63 = 0
    """Inode number of the socket; 0 if it is not known."""


class ListenEvent(Event, frozen=True, gc=False, tag="listen"):
    """A TCP socket began to listen."""

    uid: U32
    """User id of the process."""
    user: Name
    """Name of ``uid`` on this host, or its digits."""
    comm: Name
    """Name of the process as the kernel has it, which the process can change."""
    af: Family
    """Address family: 2 IPv4, 10 IPv6."""
    ip: Annotated[str, Meta(max_length=64)]
    """Canonical text of the local address; ``0.0.0.0`` or ``::`` for any."""
    port: Port
    """Local port."""
    socket: I63 = 0
    """Inode number of the socket; 0 if it is not known."""


class FloodEvent(Event, frozen=True, gc=False, tag="flood"):
    """A process made more calls that one probe watches than are delivered for one process."""

    uid: U32
    """User id of the process."""
    user: Name
    """Name of ``uid`` on this host, or its digits."""
    comm: Name
    """Name of the process as the kernel has it, which the process can change."""
    probe: Name
    """The probe: ``exec``, ``open`` or ``connect``."""
    failed: bool
    """The calls failed."""
    throttled: I63
    """Calls that were counted and left out."""
    lost: I63
    """Calls that did not fit the ring."""
    span_ns: Ns
    """The time before ``time_ns`` in which they were made."""


KernelEvent: TypeAlias = (
    ForkEvent | ExecEvent | ExitEvent | OpenEvent | ConnectEvent | ListenEvent | FloodEvent
)
"""What comes while the agent runs."""
ActingEvent: TypeAlias = ExecEvent | OpenEvent | ConnectEvent | ListenEvent | FloodEvent
"""What tells of a process only in passing, with its user and its name."""
AnyEvent: TypeAlias = SeedEvent | KernelEvent
