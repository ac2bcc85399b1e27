"""A host of our own: a folder that stands for that of the first process in /proc."""

from __future__ import annotations

import os
from pathlib import Path

from actors.agent.hostfiles import HostFiles

LS = "/usr/bin/ls"


class HostTree:
    """A host whose files lie under a folder, and who has one program.

    Args:
        folder: an empty one.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.ls = self.root / "usr" / "bin" / "ls"
        self.ls.parent.mkdir(parents=True)
        self.ls.write_text("ls")
        found = self.ls.stat()
        major, minor = os.major(found.st_dev), os.minor(found.st_dev)
        self.inode = found.st_ino
        self.device = major << 20 | minor
        self.first = folder
        self.mount(f"{major}:{minor}")

    def mount(self, *devices: str) -> None:
        """Have these mounted: the first at the root, the others elsewhere."""
        places = ("/", *(f"/srv/{number}" for number in range(len(devices))))
        lines = [
            f"22 1 {device} / {place} rw - ext4 /dev/sda rw"
            for device, place in zip(devices, places, strict=False)
        ]
        (self.first / "mountinfo").write_text("\n".join(lines) + "\n")

    def files(self) -> HostFiles:
        """What the agent makes of it."""
        return HostFiles(self.first)
