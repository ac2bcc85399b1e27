"""A Docker engine of one's own, in a temporary folder, which leaves the machine's firewall alone.

It changes nothing of the machine but for what it runs: no iptables rules, no forwarding, no bridge
before a compose file asks for one. So containers reach each other and are reached on published
ports, and have no way out; builds use the host's network.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ROOT / ".venv" / "docker"
_READY_SECS = 60.0
_STOP_SECS = 60.0
_FLAGS = (
    "--storage-driver=overlay2",
    "--bridge=none",
    "--iptables=false",
    "--ip6tables=false",
    "--ip-masq=false",
    "--ip-forward=false",
)


class EngineError(AssertionError):
    """The engine, or a command given to it, failed; the text ends with what it printed."""


class Engine:
    """A `dockerd` and its folder.

    Args:
        folder: for its data, its socket, its log and the client's configuration; short, for the
            path of a socket may have 108 bytes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        plugins = folder / "client" / "cli-plugins"
        plugins.parent.mkdir()
        plugins.symlink_to(PLUGINS / "cli-plugins")

    @property
    def environment(self) -> dict[str, str]:
        """What makes a client talk to this engine, and to no other."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "DOCKER_HOST": f"unix://{self.folder}/socket",
            "DOCKER_CONFIG": str(self.folder / "client"),
            "DOCKER_BUILDKIT": "1",
            "BUILDKIT_PROGRESS": "plain",
        }

    def start(self) -> None:
        """Start it and wait until it answers."""
        here = self.folder
        words = [
            "/usr/sbin/dockerd",
            *_FLAGS,
            f"--data-root={here}/data",
            f"--exec-root={here}/run",
        ]
        words += [f"--pidfile={here}/pid", f"--host=unix://{here}/socket"]
        with (here / "log").open("ab") as log:
            self._process = subprocess.Popen(
                words, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        deadline = time.monotonic() + _READY_SECS
        while self._attempt(["version"]).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise EngineError(f"the engine did not start: {self.log()[-3000:]}")
            time.sleep(0.1)

    @property
    def running(self) -> bool:
        """Whether it was started, and not stopped since."""
        return self._process is not None

    def stop(self) -> None:
        """Stop it and every container; safe when it does not run."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(_STOP_SECS)
        for mounted in reversed(self.mounts()):  # it leaves its own network namespace
            subprocess.run(["/bin/umount", mounted], check=True, capture_output=True)

    def run(
        self,
        *words: object,
        within_secs: float = 300.0,
        environment: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
    ) -> str:
        """Run `docker` with these words; what it printed on standard output.

        Raises:
            EngineError: it failed.
        """
        done = self._attempt(
            [str(word) for word in words], within_secs, environment=environment, stdin=stdin
        )
        if done.returncode:
            said = (done.stdout + done.stderr).decode(errors="replace")
            raise EngineError(
                f"docker {' '.join(map(str, words))}: exit {done.returncode}\n{said[-6000:]}"
            )
        return done.stdout.decode()

    def _attempt(
        self,
        words: Sequence[str],
        within_secs: float = 10.0,
        *,
        environment: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["/usr/bin/docker", *words],
            cwd=ROOT,
            env={**self.environment, **(environment or {})},
            input=stdin if stdin is not None else b"",
            capture_output=True,
            check=False,
            timeout=within_secs,
        )

    def mounts(self) -> list[str]:
        """What is mounted in its folder, in order."""
        points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        return [point for point in points if point.startswith(f"{self.folder}/")]

    def log(self) -> str:
        """What the engine said."""
        return (self.folder / "log").read_text(errors="replace")


@contextmanager
def engine() -> Iterator[Engine]:
    """An engine that is gone afterwards, with its containers, images and mounts."""
    folder = Path(tempfile.mkdtemp(prefix="lavender-docker-"))
    made = Engine(folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder)
