"""A small Debian with a systemd of its own, in namespaces: pids, mounts, network, cgroups.

The kernel is this machine's, so an agent in it sees all of this machine.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
AGENT, STACK = "lavender-agent.service", "lavender-stack.service"
SOURCES = ("docker", "docs", "dist", "lavender.toml", "LICENSE", "README.md", "CHANGELOG.md")
"""What a checkout has for `docker/install`."""
_PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "adduser"),
    *("python3", "python3-venv", "python3-bpfcc", "linux-libc-dev"),
)
_SOURCE = re.compile(r"^(?:URIs:|deb(?: +\[[^]]*\])?) *(\S+)", re.MULTILINE)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_WITHIN_SECS = 60.0
# Not of interest: logs, and what the machine itself notes while it runs.
_APART = ("/proc/*", "/sys/*", "/dev/*", "/run/*", "/tmp/*", "/src*", "/var/log/*", "/var/tmp/*")


def debootstrap(folder: Path) -> None:
    """Unpack Debian's base system and what Lavender needs, from where this machine has its own."""
    places = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    found = _SOURCE.search("".join(place.read_text() for place in places if place.is_file()))
    assert found, "apt has no source to derive one from"
    release = re.search(
        r"^VERSION_CODENAME=(\S+)", Path("/etc/os-release").read_text(), re.MULTILINE
    )
    assert release
    include = f"--include={','.join(_PACKAGES)}"
    words = ["debootstrap", "--variant=minbase", include, release[1], str(folder), found[1]]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:]


class Machine:
    """A booted one.

    Args:
        folder: its root; a checkout is copied to ``/src`` in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        source = folder / "src"
        source.mkdir()
        for name in SOURCES:
            place = ROOT / name
            if place.is_dir():
                shutil.copytree(place, source / name, symlinks=True)
            else:
                shutil.copy2(place, source)
        flags = ("--mount", "--uts", "--ipc", "--net", "--cgroup", "--pid", "--fork")
        words = ["unshare", *flags, "--kill-child", str(HERE / "boot"), str(folder)]
        self._parent = subprocess.Popen(words, stdin=subprocess.DEVNULL)
        self._init = ""

    def boot(self) -> None:
        """Wait until everything has been started."""
        children = Path(f"/proc/{self._parent.pid}/task/{self._parent.pid}/children")
        self._init = wait_for(lambda: children.read_text().strip())
        wait_for(lambda: self.answers("systemctl", "is-system-running") == "running")

    def answers(self, *words: str) -> str:
        """What a command prints, however it ends."""
        return self._run(words).stdout.strip()

    def run(self, *words: str) -> str:
        """Run a command that must succeed; what it printed."""
        done = self._run(words)
        assert done.returncode == 0, f"{words}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout

    def shell(self, script: str) -> str:
        """The same for a line of shell."""
        return self.run("sh", "-ec", script)

    def _run(self, words: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        into = ("nsenter", "-t", self._init, "-m", "-u", "-i", "-n", "-p", "-C")
        clean = ("env", "-i", f"PATH={_PATH}", "DEBIAN_FRONTEND=noninteractive")
        return subprocess.run(
            [*into, *clean, *words], capture_output=True, text=True, check=False, timeout=180
        )

    def files(self) -> set[str]:
        """Everything that is in its file system, that is pinned, and our own in /run."""
        apart = [word for place in _APART for word in ("-not", "-path", place)]
        lines = self.run("find", "/", "-xdev", *apart).splitlines()
        told = self.shell("find /sys/fs/bpf; find /run -path '/run/lavender*'").splitlines()
        return {*lines, *told}

    def state(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.answers("systemctl", "show", "--value", "-p", name, unit)

    def journal(self, unit: str) -> str:
        """What a unit has said."""
        return self.answers("journalctl", "--no-pager", "-o", "cat", "-u", unit)

    def balanced(self) -> bool:
        """Whether the ledger of its own store balances."""
        url = "sqlite:/var/lib/lavender-backend/lavender.db"
        said = self.answers("env", f"LAVENDER_STORE__URL={url}", "lavender", "ledger")
        return "  balanced" in said

    @contextmanager
    def installed(self, *, put: str, remove: str) -> Iterator[None]:
        """Lavender is there, and then nothing of it is."""
        before = self.files()
        self.shell(put)
        try:
            yield
        finally:
            self.shell(remove)
        assert self.files() ^ before == set()
        assert "lavender" not in self.run("cat", "/etc/passwd", "/etc/group", "/etc/shadow")
        assert self.answers("systemctl", "list-units", "--all", "--no-legend", "lavender*") == ""

    def stop(self) -> None:
        """As if the cord was pulled: with the first process all others of the namespace end."""
        self._parent.kill()
        self._parent.wait()


def wait_for(found: Callable[[], str | bool], *, within_secs: float = _WITHIN_SECS) -> str:
    """Poll until it is true; that."""
    deadline = time.monotonic() + within_secs
    while not (result := found()):
        assert time.monotonic() < deadline, f"not within {within_secs} s"
        time.sleep(0.2)
    return str(result)
