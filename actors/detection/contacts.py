"""What a process has in common with other machines and other processes, as far as events show it.

Addresses are inherited by a fork, for sockets are. An execution keeps them where the new program is
a pass-through program or none of the system's, which may go on with what it was given; any other
program begins anew. They are remembered of the process that connected or listened, not of one that
was handed the socket.
"""

from __future__ import annotations

import errno
from functools import lru_cache

import msgspec

from actors.detection.addresses import is_external
from actors.detection.events import ConnectEvent, ExecEvent, ListenEvent
from actors.detection.programs import Program
from actors.detection.text import memory_bytes, shortened

_UNIX = 1
_CONNECTED = (0, errno.EINPROGRESS)
_UNSPECIFIED = ("0.0.0.0", "::")  # noqa: S104 - nothing is bound here
_PIPES = ("pipe:", "fifo:")
_INTERPRETERS = {
    "python": ("c", "m"),
    "perl": ("e", "E"),
    "ruby": ("e",),
    "node": ("e", "p", "eval", "print"),
    "php": ("r",),
    "lua": ("e",),
}
"""Families, and the ends of options after which code or a module comes, and no file."""
_FAMILIES = tuple(_INTERPRETERS)
WRITABLE = ("/tmp/", "/var/tmp/", "/dev/shm/")  # noqa: S108 - to tell what lies there
"""Folders in which every user may make files."""


class Contact(msgspec.Struct, frozen=True, gc=False):
    """What is remembered of one process; empty texts for what it has not."""

    peer: str = ""
    """The latest address on another machine to which it, or who forked it, has connected."""
    listens: str = ""
    """The latest address, other than loopback, at which it, or who forked it, listens."""
    stdin: str = ""
    """The pipe that was its descriptor 0 at its latest exec."""
    stdout: str = ""
    """The pipe that was its descriptor 1."""
    script: str = ""
    """Of an interpreter, the file that it runs, if that lies where every user may write."""

    @property
    def text_bytes(self) -> int:
        """At most how many bytes its words take."""
        return sum(map(memory_bytes, msgspec.structs.astuple(self)))


NONE = Contact()


def connected(before: Contact | None, event: ConnectEvent) -> Contact | None:
    """Return what is known of a process once it has connected."""
    if event.af == _UNIX or event.error not in _CONNECTED or not is_external(event.dest_ip):
        return before
    return _with_peer(before or NONE, _address(event.dest_ip, event.dest_port))


def listening(before: Contact | None, event: ListenEvent) -> Contact | None:
    """Return what is known of a process once it listens."""
    if event.ip not in _UNSPECIFIED and not is_external(event.ip):
        return before
    return msgspec.structs.replace(before or NONE, listens=_address(event.ip, event.port))


def executed(
    before: Contact | None, event: ExecEvent, program: Program, *, passes: bool
) -> Contact | None:
    """Return what is known of a process once it has executed a program."""
    peer = listens = ""
    if before is not None and (passes or not program.system_exe):
        peer, listens = before.peer, before.listens
    stdin, stdout = map(_pipe, event.stdio[:2]) if event.stdio else ("", "")
    script = _script(program, event)
    if not (peer or listens or stdin or stdout or script):
        return None
    return Contact(peer, listens, stdin, stdout, script)


@lru_cache(maxsize=1024)
def _with_peer(before: Contact, peer: str) -> Contact:
    """Return the same object for the same words: processes connect to the same addresses."""
    return msgspec.structs.replace(before, peer=peer)


@lru_cache(maxsize=1024)
def _address(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _pipe(descriptor: str) -> str:
    return descriptor if descriptor.startswith(_PIPES) else ""


def _script(program: Program, event: ExecEvent) -> str:
    name = program.exe_name
    if not name.startswith(_FAMILIES):
        return ""
    code = next(ends for family, ends in _INTERPRETERS.items() if name.startswith(family))
    if event.filename != event.exe and event.filename.startswith(WRITABLE):
        return shortened(event.filename)
    for argument in event.argv[1:]:
        if argument.startswith("-"):
            if argument.endswith(code):
                return ""
        else:
            path = argument if argument.startswith("/") else f"{event.cwd}/{argument}"
            return shortened(path) if path.startswith(WRITABLE) else ""
    return ""
