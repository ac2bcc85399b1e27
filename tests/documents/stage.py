"""Where scenes are played: mount and network namespaces of their own.

There the documented ports are free, and what is written into the checkout, /etc and /var/lib lies
in memory and is gone afterwards. ``python -m tests.documents.stage NAME`` is what `play` starts in
them; it must not be started anywhere else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.documents.extract import ROOT
from tests.documents.plan import SCENES
from tests.documents.scene import Player

_COVERED = ("/etc", "/var/lib", str(ROOT))


def cover(folder: Path) -> None:
    """Let what is written into some folders land in ``folder``; only in a namespace of our own."""
    _tool("mount", "--make-rprivate", "/")
    _tool("ip", "link", "set", "lo", "up")
    for number, place in enumerate(_COVERED):
        upper, work = folder / f"upper{number}", folder / f"work{number}"
        upper.mkdir()
        upper.chmod(Path(place).stat().st_mode & 0o777)
        work.mkdir()
        options = f"lowerdir={place},upperdir={upper},workdir={work}"
        _tool("mount", "-t", "overlay", "overlay", "-o", options, place)
    shutil.rmtree("/var/lib/lavender", ignore_errors=True)  # a machine that has not had an agent


def _tool(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=30)


def usable() -> bool:
    """Whether this machine lets us have namespaces."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    words = ["unshare", "--net", "--mount", "true"]
    return not subprocess.run(words, capture_output=True, check=False, timeout=30).returncode


def play(name: str) -> None:
    """Play a scene in namespaces of its own.

    Raises:
        AssertionError: with all that was said.
    """
    words = ["unshare", "--net", "--mount", sys.executable, "-m", "tests.documents.stage", name]
    done = subprocess.run(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=900
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-8000:]


def main(name: str) -> int:
    """Play it here."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="lavender-scene-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        _tool("mount", "-t", "tmpfs", "tmpfs", str(folder))
        stack.callback(_tool, "umount", "--lazy", str(folder))
        cover(folder)
        os.chdir(ROOT)  # as it is now
        player = Player(folder, stack)
        stack.callback(player.close)
        for step in SCENES[name]:
            player.play(step)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
