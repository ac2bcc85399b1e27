"""What systemd is told of this process, as sd_notify(3) has it: that it is ready, and not stuck.

Started by anything else there is no NOTIFY_SOCKET, and nothing is said. Nothing here waits or
fails: a service manager that does not listen must not hold up what it manages.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping

SOCKET = "NOTIFY_SOCKET"
WATCHDOG_USEC = "WATCHDOG_USEC"
WATCHDOG_PID = "WATCHDOG_PID"


def ready(status: str = "") -> None:
    """The process does its work from now on."""
    _say("READY=1", *([f"STATUS={status}"] if status else []))


def alive() -> None:
    """The process is not stuck; to be said again within the watchdog's time."""
    _say("WATCHDOG=1")


def watchdog_secs(environment: Mapping[str, str] = os.environ) -> float | None:
    """Within what time `alive` must be said, or None if nobody waits for it."""
    pid, microseconds = environment.get(WATCHDOG_PID), environment.get(WATCHDOG_USEC, "")
    if not microseconds.isdecimal() or pid not in (None, str(os.getpid())):
        return None
    return int(microseconds) / 1e6 or None


def allow_secs(seconds: float) -> None:
    """Have the watchdog wait this long, if it waits for less."""
    waits = watchdog_secs()
    if waits is not None and waits < seconds:
        _say(f"{WATCHDOG_USEC}={round(seconds * 1e6)}")


def connect() -> None:
    """Connect to the service manager now, for a process that may make no such socket later."""
    _channel.connect(os.environ.get(SOCKET, ""))


class _Channel:
    """A socket that is connected to the service manager, and stays so."""

    def __init__(self) -> None:
        self._address = ""
        self._socket: socket.socket | None = None

    def connect(self, address: str) -> None:
        if address == self._address and self._socket is not None:
            return
        self.close()
        if address[:1] not in ("/", "@"):
            return
        self._address = address
        if address.startswith("@"):  # an abstract address begins with a zero byte
            address = "\0" + address[1:]
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        with contextlib.suppress(OSError):
            channel = socket.socket(socket.AF_UNIX, kind)
            try:
                channel.connect(address)
            except OSError:
                channel.close()
                raise
            self._socket = channel

    def send(self, data: bytes) -> None:
        if self._socket is not None:
            try:
                self._socket.send(data)
            except BlockingIOError:  # it does not read
                pass
            except OSError:  # it is another one now
                self.close()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


_channel = _Channel()


def _say(*lines: str) -> None:
    connect()
    _channel.send("\n".join(lines).encode())
