"""Which executables are the host's own: their names can be believed, for only root can change them.

A path says little. Whoever may mount can show any file under any name: root in a container, a user
in a user namespace, a sandbox. So a file counts only if it is the very file (inode, device) that
the host's first process finds at that path. A service that systemd has put into a mount namespace
of its own still runs the host's files under the host's names, and is believed.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from pathlib import Path

from bpf.source import INITIAL_USER_NS

SYSTEM_FOLDERS = ("/usr/", "/bin/", "/sbin/", "/lib", "/opt/")
DELETED = " (deleted)"
_CONTROLLED_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_NS_GET_USERNS = 0xB701  # linux/nsfs.h
_PATH_MAX = 1024
_KNOWN_MAX = 1024
_KNOWN_NS = 1_000_000_000
"""How long a file is taken for what it was: an inode's number may be given again."""


def is_system_file(path: str, *, uid: int, mode: int) -> bool:
    """Whether a file lies in a system folder, is root's and only root can write it."""
    return (
        uid == 0
        and stat.S_ISREG(mode)
        and not mode & _CONTROLLED_BY_OTHERS
        and path.startswith(SYSTEM_FOLDERS)
        and not path.endswith(DELETED)
    )


class HostFiles:
    """The host's files, as its first process sees them.

    What needs a privilege is opened by the constructor. Later questions need none, but nothing in a
    folder that not everybody may search is believed then.

    Args:
        first: folder of the first process in /proc. Where the kernel forbids to look at that, the
            agent's own root and mount namespace stand for those of the host.
    """

    def __init__(self, first: Path = Path("/proc/1")) -> None:
        self.devices, self._mounted = _devices(first / "mountinfo")
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            self._root = os.open(first / "root", flags)
        except OSError:
            self._root = os.open("/", flags)
        self._namespace = _Namespace(first).number() or _Namespace(Path("/proc/self")).number()
        self._known: set[tuple[str, int, int]] = set()
        self._known_since_ns = 0

    def has(self, path: str, *, inode: int, device: int) -> bool:
        """Whether the host's file of this path is this one.

        Args:
            path: absolute, without links.
            inode: its number.
            device: of its filesystem, as the kernel numbers it (major << 20 | minor).
        """
        key = (path, inode, device)
        now_ns = time.monotonic_ns()
        if now_ns - self._known_since_ns > _KNOWN_NS or len(self._known) >= _KNOWN_MAX:
            self._known.clear()
            self._known_since_ns = now_ns
        if key in self._known:
            return True
        found = self._stat(path) if device in self.devices else None
        if found is None or found.st_ino != inode:
            return False
        shown = os.major(found.st_dev) << 20 | os.minor(found.st_dev)
        # A filesystem of several parts (btrfs, overlayfs) shows stat(2) numbers of its parts, which
        # no mount has.
        if shown != device and shown in self._mounted:
            return False
        self._known.add(key)
        return True

    def of_process(self, folder: Path) -> tuple[str, bool]:
        """The executable of a running process, and whether it is the host's own.

        Path and file are those of one descriptor. A file that was deleted, as an upgrade does, has
        no path any more: of such the name is believed in the host's own mount namespace alone.

        Args:
            folder: of the process in /proc.
        """
        try:
            descriptor = os.open(folder / "exe", os.O_PATH | os.O_CLOEXEC)
        except OSError:  # a kernel thread, or not ours to look at
            return "", False
        try:
            raw = os.readlink(b"/proc/self/fd/%d" % descriptor)  # noqa: PTH115 - whatever bytes
            file = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        told = raw.decode("utf-8", "backslashreplace")
        path = told.removesuffix(DELETED)
        if not is_system_file(path, uid=file.st_uid, mode=file.st_mode):
            return path, False
        namespace = _Namespace(folder)
        if path != told:
            beside = self._stat(path.rpartition("/")[0])
            is_there = beside is not None and beside.st_dev == file.st_dev
            return path, is_there and namespace.number() == self._namespace
        found = self._stat(path)
        is_it = found is not None and os.path.samestat(found, file)
        return path, is_it and namespace.is_roots()

    def close(self) -> None:
        """Close the descriptor of the root."""
        os.close(self._root)

    def _stat(self, path: str) -> os.stat_result | None:
        if not path.startswith("/") or len(path) > _PATH_MAX:
            return None
        try:
            return os.stat(path[1:] or ".", dir_fd=self._root, follow_symlinks=False)
        except (OSError, ValueError):
            return None


class _Namespace:
    """The mount namespace of a process.

    Args:
        folder: of the process in /proc.
    """

    def __init__(self, folder: Path) -> None:
        self._link = folder / "ns" / "mnt"

    def number(self) -> int:
        """Its inode number; 0 if it cannot be asked for."""
        try:
            return self._link.stat().st_ino
        except OSError:
            return 0

    def is_roots(self) -> bool:
        """Whether it belongs to the initial user namespace: no user has made its mounts."""
        try:
            with self._link.open("rb") as file:
                owner = fcntl.ioctl(file, _NS_GET_USERNS)
            try:
                return os.fstat(owner).st_ino == INITIAL_USER_NS
            finally:
                os.close(owner)
        except OSError:
            return False


def _devices(mountinfo: Path) -> tuple[frozenset[int], frozenset[int]]:
    """Devices of the host's system folders, and of all its mounts, as the kernel numbers them."""
    system, mounted = set(), set()
    for line in mountinfo.read_text(errors="backslashreplace").splitlines():
        fields = line.split(" ")
        major, _, minor = fields[2].partition(":")
        device = int(major) << 20 | int(minor)
        mounted.add(device)
        if fields[4] == "/" or f"{fields[4]}/".startswith(SYSTEM_FOLDERS):
            system.add(device)
    return frozenset(system), frozenset(mounted)
