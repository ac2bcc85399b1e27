"""A Redis of one's own: in a temporary folder, on a socket there or a free port of loopback."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.services.postgres import free_port

_READY_SECS = 20.0


class RedisServer:
    """A `redis-server` that keeps nothing on disk.

    Args:
        folder: for its log; made.
        settings: more words of its command.
        port: where it listens; 0 for a free one.
    """

    def __init__(self, folder: Path, *, settings: tuple[str, ...] = (), port: int = 0) -> None:
        self.port = port or free_port()
        self._folder = folder
        self._settings = settings
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(exist_ok=True)

    @property
    def url(self) -> str:
        """How to reach it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        path = shutil.which("redis-server")
        assert path is not None, "redis-server is not installed: make setup"
        words = [path, "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self._folder)]
        words += ["--save", "", "--appendonly", "no", "--logfile", str(self._folder / "redis.log")]
        self.process = subprocess.Popen(
            [*words, *self._settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + _READY_SECS
        while self.say("PING") not in ("PONG", "NOAUTH Authentication required."):
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.02)

    def say(self, *words: str) -> str:
        """What it answers a command."""
        path = shutil.which("redis-cli")
        assert path is not None
        command = [path, "-p", str(self.port), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    def kill(self) -> None:
        """SIGKILL: what it had is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextmanager
def redis(folder: Path, *, settings: tuple[str, ...] = ()) -> Iterator[RedisServer]:
    """A running one that is gone afterwards."""
    server = RedisServer(folder, settings=settings)
    try:
        server.start()
        yield server
    finally:
        server.kill()
