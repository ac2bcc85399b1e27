"""Pins: rings, policy, counters and links with a name in bpffs, where they outlive the agent.

``/sys/fs/bpf/lavender/<agent>/`` holds everything of `bpf.source.HELD` and IDENTITY, a sealed map
that says which load of the probes this is. Whoever removes the names stops the probes, once no
process holds a descriptor.

The agent must remove them after it has dropped root, so the folder is then the unprivileged user's,
and that user can put into it what it likes. Hence the loader, which is root, believes nothing of
the folder: it first takes the folder away from everybody, then takes up only files that are root's
own (only root can pin one) and that are, by the kernel's numbers, those IDENTITY lists; the file
IDENTITY itself only root can have made, and nobody can change it. All names are reached through
descriptors of the folders, so that none can be swapped between two looks.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import stat
import struct
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bpf import syscalls
from bpf.errors import PinsError
from bpf.records import RINGS
from bpf.removal import FOLDER_FLAGS, empty, is_at, make_ours, remove_all
from bpf.source import HELD

BPFFS = Path("/sys/fs/bpf")
PARENT = "lavender"
FOLDER = "FOLDER"
"""What the loader calls the descriptor of the folder beside the objects' own."""
IDENTITY = "IDENTITY"
_IDENTITY_BYTES = 4096
_BPF_FS_MAGIC = 0xCAFE4A11
_MS_NOSUID_NODEV_NOEXEC = 2 | 4 | 8
_NAME_MAX_BYTES = 255
_OPEN_TO_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_OTHERS_MAX = 16


def folder_name(agent_id: str) -> str:
    """The agent's folder; another one for each agent, whatever it is called."""
    name = quote(agent_id, safe="").replace(".", "%2E")
    if len(name) > _NAME_MAX_BYTES:
        return "%" + hashlib.sha256(agent_id.encode()).hexdigest()
    return name


def is_bpffs(folder: int) -> bool:
    """Whether this folder lies in bpffs."""
    buffer = ctypes.create_string_buffer(256)
    if ctypes.CDLL(None, use_errno=True).fstatfs(folder, buffer):
        return False
    kind: int = struct.unpack_from("<q", buffer)[0]
    return kind == _BPF_FS_MAGIC


def open_bpffs(*, mount: bool) -> int:
    """A descriptor of bpffs's root.

    Args:
        mount: mount it where the machine has not; for root only.

    Raises:
        OSError: there is none and none could be mounted.
    """
    folder = os.open(BPFFS, FOLDER_FLAGS)
    if is_bpffs(folder):
        return folder
    os.close(folder)
    if not mount:
        raise OSError(errno.ENOENT, f"bpffs is not mounted on {BPFFS}")
    libc = ctypes.CDLL(None, use_errno=True)
    path = os.fsencode(BPFFS)
    if libc.mount(b"bpf", path, b"bpf", _MS_NOSUID_NODEV_NOEXEC, b"mode=0700"):
        why = os.strerror(ctypes.get_errno())
        raise OSError(ctypes.get_errno(), f"bpffs cannot be mounted on {BPFFS}: {why}")
    return os.open(BPFFS, FOLDER_FLAGS)


def any_left() -> bool:
    """Whether some agent has left pins here."""
    with suppress(OSError):
        folder = os.open(BPFFS / PARENT, FOLDER_FLAGS)
        try:
            return bool(_names(folder))
        finally:
            os.close(folder)
    return False


class Folder:
    """One agent's folder, taken from whoever had it; for root only.

    Args:
        bpffs: descriptor of bpffs's root.
        agent_id: whose.
        create: make it if it is not there.

    Raises:
        OSError: it cannot be had; FileNotFoundError if it is not there.
    """

    def __init__(self, bpffs: int, agent_id: str, *, create: bool = True) -> None:
        self._name = folder_name(agent_id)
        self._parent = _seize(PARENT, bpffs, create=create)
        try:
            self.descriptor = _seize(self._name, self._parent, create=create)
        except OSError:
            os.close(self._parent)
            raise

    def others(self, owner: int) -> list[str]:
        """Folders of other agents, at most 16; what other users have put beside them is removed.

        Args:
            owner: the user that an agent gives its folder to.

        Raises:
            OSError: something cannot be removed.
        """
        found = []
        for name in _names(self._parent):
            status = os.stat(name, dir_fd=self._parent, follow_symlinks=False)
            if status.st_uid not in {0, owner}:
                remove_all(name, self._parent)
            elif name != self._name:
                found.append(name)
        return found[:_OTHERS_MAX]

    def take_up(self, digest: str) -> tuple[dict[str, int], str]:
        """Descriptors of everything pinned here, by name, and the load's id.

        Args:
            digest: of the probes that this version would load.

        Raises:
            PinsError: that is not all there, or not ours, or of another version.
        """
        try:
            return self._take_up(digest)
        except OSError as error:
            raise PinsError("incomplete", str(error)) from error

    def _take_up(self, digest: str) -> tuple[dict[str, int], str]:
        present = set(_names(self.descriptor))
        if not present:
            raise PinsError("no pins", "no earlier agent has left any")
        for name in sorted(present):
            found = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
            if found.st_uid != 0 or not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077:
                raise PinsError("not ours", f"{name} is not a pin of root's alone")
        if IDENTITY not in present:
            raise PinsError("incomplete", f"there is no {IDENTITY}")
        identity = self._identity()
        if identity.get("digest") != digest:
            raise PinsError("another version", "other probes than this agent's were left")
        if present != HELD | {IDENTITY}:
            odd = sorted(present ^ HELD ^ {IDENTITY})
            raise PinsError("incomplete", f"missing or too much: {', '.join(odd)}")
        return self._open(identity["ids"]), str(identity["load_id"])

    def _identity(self) -> dict[str, Any]:
        descriptor = syscalls.open_pin(self._path(IDENTITY))
        try:
            info = syscalls.map_info(descriptor)
            if (info.kind, info.value_size) != (syscalls.MAP_TYPE_ARRAY, _IDENTITY_BYTES):
                raise PinsError("not ours", f"{IDENTITY} is another map")
            raw = syscalls.first_value(descriptor, _IDENTITY_BYTES)
        finally:
            os.close(descriptor)
        try:
            found: Any = json.loads(raw.rstrip(b"\0"))
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise PinsError("not ours", f"{IDENTITY} holds something else")
        return found

    def _open(self, ids: Mapping[str, int]) -> dict[str, int]:
        with ExitStack() as opened:
            held: dict[str, int] = {}
            for name in sorted(HELD):
                held[name] = syscalls.open_pin(self._path(name))
                opened.callback(os.close, held[name])
                if syscalls.object_id(held[name]) != ids.get(name):
                    raise PinsError("not ours", f"{name} is another object than was pinned")
            for ring in RINGS:
                info = syscalls.map_info(held[ring.map_name])
                if (info.kind, info.max_entries) != (syscalls.MAP_TYPE_RINGBUF, ring.size_bytes):
                    raise PinsError("another version", f"{ring.map_name} is of another size")
            opened.pop_all()
        return held

    def fill(self, held: Mapping[str, int], *, digest: str, load_id: str) -> None:
        """Pin everything in the place of what is there, whose probes end with that.

        IDENTITY comes last, so that a set cut short can be told.

        Raises:
            OSError: the kernel will not have it; some of it may stay pinned.
        """
        empty(self.descriptor)
        ids = {name: syscalls.object_id(descriptor) for name, descriptor in held.items()}
        text = json.dumps({"load_id": load_id, "digest": digest, "ids": ids}).encode()
        identity = syscalls.sealed_map("lavender_id", text.ljust(_IDENTITY_BYTES, b"\0"))
        try:
            for name, descriptor in held.items():
                syscalls.pin(descriptor, self._path(name))
            syscalls.pin(identity, self._path(IDENTITY))
        finally:
            os.close(identity)

    def give_to(self, uid: int, gid: int) -> None:
        """Let the agent remove it later."""
        for folder in (self._parent, self.descriptor):
            os.fchown(folder, uid, gid)

    def close(self) -> None:
        """Let go of it; what is pinned stays."""
        os.close(self.descriptor)
        os.close(self._parent)

    def _path(self, name: str) -> str:
        return f"/proc/self/fd/{self.descriptor}/{name}"


def close_to_others(bpffs: int) -> str:
    """Let only its owner make names in bpffs, which whoever mounts it may leave open to all.

    Returns:
        What that was about, for people; empty where there was nothing to do.
    """
    mode = os.fstat(bpffs).st_mode
    if not mode & _OPEN_TO_OTHERS:
        return ""
    said = f"any user could make names in {BPFFS} (mode {stat.S_IMODE(mode):o})"
    try:
        os.fchmod(bpffs, stat.S_IMODE(mode) & ~_OPEN_TO_OTHERS)
    except OSError as error:
        return f"{said}, and still can: {error.strerror}"
    return f"{said}; from now on only its owner can"


def _seize(name: str, parent: int, *, create: bool) -> int:
    """A folder that is root's alone from now on, and is what its name stands for."""
    with suppress(FileNotFoundError):
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=parent)
    if create:
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
    with ExitStack() as opened:
        folder = os.open(name, FOLDER_FLAGS, dir_fd=parent)
        opened.callback(os.close, folder)
        make_ours(folder)
        if not is_at(name, parent, folder):
            raise OSError(errno.EBUSY, f"{name} is another folder now: a process moves it about")
        opened.pop_all()
    return folder


def _names(folder: int) -> list[str]:
    return sorted(os.listdir(folder))


def close_all(descriptors: Iterable[int]) -> None:
    """Close descriptors."""
    for descriptor in descriptors:
        os.close(descriptor)


def remove(folder: int) -> list[str]:
    """Remove an agent's folder with what is in it; the names that were. Needs no privilege.

    The parent goes too where it is empty and bpffs lets us; else it stays, empty.

    Raises:
        OSError: something cannot be removed.
    """
    names = empty(folder)
    with suppress(OSError), ExitStack() as opened:
        parent = os.open("..", FOLDER_FLAGS, dir_fd=folder)
        opened.callback(os.close, parent)
        for name in _names(parent):
            if is_at(name, parent, folder):
                os.rmdir(name, dir_fd=parent)
        above = os.open("..", FOLDER_FLAGS, dir_fd=parent)
        opened.callback(os.close, above)
        os.rmdir(PARENT, dir_fd=above)
    return names


def detach(agent_id: str) -> list[str]:
    """Remove what an agent of this id has left; the names that were pinned. For root only.

    Raises:
        OSError: something cannot be removed.
    """
    try:
        bpffs = open_bpffs(mount=False)
    except OSError:  # no bpffs, no pins
        return []
    close_to_others(bpffs)
    try:
        folder = Folder(bpffs, agent_id, create=False)
    except FileNotFoundError:
        return []
    finally:
        os.close(bpffs)
    try:
        return remove(folder.descriptor)
    finally:
        folder.close()
