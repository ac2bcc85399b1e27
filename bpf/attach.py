"""The agent's side of the loader: start it, receive the descriptors, hold them.

See `bpf.loader` for the protocol and the reasons.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bpf import errors, pins
from bpf.errors import BpfError, LoadError, MissingBcc
from bpf.records import RINGS
from bpf.ring import Ring

LOADER = Path(__file__).resolve().parent / "loader.py"
BCC_PACKAGE = "python3-bpfcc"
_TIMEOUT_SECS = 30.0
_PYTHONS = ("/usr/bin/python3", "/usr/libexec/platform-python")
_PACKAGE_FOLDERS = (
    "usr/lib/python3/dist-packages",  # Debian, Ubuntu
    "usr/lib/python3.*/site-packages",  # Fedora, Arch, openSUSE
    "usr/lib64/python3.*/site-packages",
)
_DESCRIPTORS_MAX = 64
_MESSAGE_MAX_BYTES = 65_536
_INT = struct.Struct("i")
# Close on exec: what the agent runs must inherit neither rings nor probes.
_RECEIVE_FLAGS = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC


@dataclass(frozen=True)
class Order:
    """What the agent asks of the loader."""

    agent_id: str
    version: str
    """Pins of another version are not taken up."""
    owner: tuple[int, int]
    """User and group that the agent will have when it removes the pins."""


@dataclass(frozen=True)
class Attached:
    """Descriptors of the loaded probes; while they or their pins are there, the probes run."""

    descriptors: dict[str, int]
    """By the names of `bpf.source.HELD`."""
    cpus: int
    """Possible CPUs, which the counters are laid out for."""
    load_id: str = "0" * 16
    """One life of the probes, from loading to detaching, through crashes of the agent."""
    gap: str | None = None
    """Why nothing watched before, in a few fixed words (`bpf.errors.PinsError`, ``no bpffs``);
    None where the probes of an earlier agent, which went on watching, were taken over."""
    detail: str = ""
    """More about that, for people."""
    folder: int | None = None
    """The folder of the pins in bpffs; None where nothing could be pinned."""
    others: tuple[str, ...] = ()
    """Folders that other agents have left."""
    bpffs: str = ""
    """What was done about a bpffs that other users could write, for people."""

    @property
    def taken_over(self) -> bool:
        """These are the probes of an earlier agent, which crashed."""
        return self.gap is None

    def rings(self) -> dict[str, Ring]:
        """The mapped rings by name."""
        return {r.map_name: Ring(self.descriptors[r.map_name], r.size_bytes) for r in RINGS}

    def detach(self) -> list[str]:
        """Remove the pins and close every descriptor, upon which the kernel removes the probes.

        Returns:
            What could not be removed; the probes run on then.
        """
        left: list[str] = []
        if self.folder is not None:
            try:
                pins.remove(self.folder)
            except OSError as error:
                left = [str(error)]
            os.close(self.folder)
        pins.close_all(self.descriptors.values())
        return left


def find_bcc_python() -> str:
    """The system's interpreter, whose folders hold the distribution's bcc.

    It looks for files: to import bcc, or only to start a Python, takes too long.

    Raises:
        MissingBcc: there is none; says what to install.
    """
    for python in _PYTHONS:
        if Path(python).exists():
            for pattern in _PACKAGE_FOLDERS:
                for folder in Path("/").glob(pattern):
                    if (folder / "bcc" / "libbcc.py").exists():
                        return python
    raise MissingBcc(
        f"bcc is not installed for the system's Python: install {BCC_PACKAGE} "
        "(Debian, Ubuntu: `make setup`); the bcc on PyPI is another program"
    )


class Loading:
    """A loader at work: it compiles, and attaches nothing before `finish`.

    Between the two the agent has time of its own.

    Raises:
        MissingBcc: as it says.
    """

    def __init__(self) -> None:
        python = find_bcc_python()
        self._ours, theirs = socket.socketpair()
        with theirs:
            self._child = subprocess.Popen(
                [python, "-I", str(LOADER), str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="backslashreplace",
            )

    def finish(self, order: Order) -> Attached:
        """Have the probes attached, and wait for the descriptors; the child is gone afterwards.

        Raises:
            UnsupportedKernel, LoadError: as the loader found; nothing stays pinned then.
        """
        with self._ours as channel, self._child as child:
            try:
                _send(channel, order)
                _, noise = child.communicate(timeout=_TIMEOUT_SECS)
            except subprocess.TimeoutExpired as error:
                child.kill()  # leaving the block waits for it and closes its pipe
                _clean_up(order)
                raise LoadError(f"the loader did not finish within {_TIMEOUT_SECS} s") from error
            raw, descriptors = _receive(channel)
        try:
            return _received(raw, descriptors, noise)
        except BpfError:
            pins.close_all(descriptors)
            _clean_up(order)
            raise

    def abandon(self) -> None:
        """Stop it; it has attached nothing. After `finish` there is nothing to stop."""
        self._child.kill()
        with self._ours, self._child:
            pass


def _clean_up(order: Order) -> None:
    with suppress(OSError):
        pins.detach(order.agent_id)


def _send(channel: socket.socket, order: Order) -> None:
    why, bpffs = "", []
    try:
        bpffs = [pins.open_bpffs(mount=True)]
    except OSError as error:
        why = error.strerror or str(error)
    try:
        # A loader that has failed already has gone, and has left its answer.
        with suppress(BrokenPipeError):
            raw = json.dumps({**asdict(order), "no_bpffs": why}).encode()
            socket.send_fds(channel, [raw], bpffs)
    finally:
        pins.close_all(bpffs)


def _receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    # Not socket.recv_fds, which ignores the flags it is given.
    try:
        raw, ancillary, _, _ = channel.recvmsg(
            _MESSAGE_MAX_BYTES, socket.CMSG_LEN(_DESCRIPTORS_MAX * _INT.size), _RECEIVE_FLAGS
        )
    except (BlockingIOError, ConnectionResetError):  # it has said nothing
        return b"", []
    return raw, [descriptor for *_, data in ancillary for (descriptor,) in _INT.iter_unpack(data)]


def _received(raw: bytes, descriptors: list[int], noise: str) -> Attached:
    if not raw:
        raise LoadError(f"the loader died without a word; it printed:\n{noise[-4000:]}")
    try:
        message: dict[str, Any] = json.loads(raw)
    except ValueError as error:
        raise LoadError(f"the loader sent no JSON but {raw[:200]!r}") from error
    if "error" in message:
        kind = getattr(errors, message["kind"], LoadError)
        detail = f"\n{noise[-4000:]}" if kind is LoadError else ""
        raise kind(message["error"] + detail)
    names: list[str] = message.pop("names")
    if len(names) != len(descriptors):
        raise LoadError(f"the loader named {len(names)} descriptors and sent {len(descriptors)}")
    held = dict(zip(names, descriptors, strict=True))
    folder = held.pop(pins.FOLDER, None)
    others = tuple(message.pop("others", ()))
    return Attached(held, folder=folder, others=others, **message)
