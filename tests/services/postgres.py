"""A private PostgreSQL: a cluster of its own in a temporary folder, on a free port of loopback.

It runs as an unprivileged user where the tests run as root, for PostgreSQL refuses root. Its files
are its own, and it is stopped by its pid.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER = "lavender"
PASSWORD = "correct-horse"  # noqa: S105 - of a cluster that lives for a test
_READY_SECS = 60.0


class Cluster:
    """A PostgreSQL server and its files.

    Args:
        folder: for its files; made, owned by the user it runs as.
        fsync: whether what was committed outlives a power cut; a killed server loses nothing
            either way.
        settings: lines for ``postgresql.conf``.
        port: where it listens; 0 for a free one.
    """

    def __init__(
        self, folder: Path, *, fsync: bool = False, settings: str = "", port: int = 0
    ) -> None:
        self.folder = folder
        self.port = port or free_port()
        self._databases = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._account = _unprivileged()
        self._bin = binaries()
        folder.mkdir()
        secret = folder / "password"
        secret.write_text(PASSWORD)
        _give(folder, self._account)
        _give(secret, self._account)
        self._run(
            *("initdb", "-D", self.data, "-U", USER, "-E", "UTF8", "--locale", "C", "-A"),
            *("scram-sha-256", "--pwfile", secret, "--no-sync"),
        )
        with (self.data / "postgresql.conf").open("a") as config:
            config.write(
                f"listen_addresses = '127.0.0.1'\nport = {self.port}\n"
                f"unix_socket_directories = '{folder}'\nfsync = {'on' if fsync else 'off'}\n"
                f"shared_buffers = 128MB\nlogging_collector = off\n{settings}\n"
            )

    @property
    def data(self) -> Path:
        """The cluster's own folder."""
        return self.folder / "data"

    @property
    def pid(self) -> int:
        """The postmaster's."""
        assert self._process is not None
        return self._process.pid

    def url(self, database: str = "postgres", *, password: str = PASSWORD) -> str:
        """How to reach a database over TCP."""
        return f"postgresql://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    def start(self, *, wait: bool = True) -> None:
        """Start the server and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._bin / "postgres"), "-D", str(self.data)],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                user=_user(self._account),
                group=_group(self._account),
                extra_groups=None if self._account is None else [],
            )
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until the server answers."""
        deadline = time.monotonic() + _READY_SECS
        while self._attempt("pg_isready", "-q", "-h", "127.0.0.1", "-p", self.port).returncode:
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self.folder / "log").read_text()[-2000:])
            time.sleep(0.02)

    def kill(self) -> None:
        """``kill -9`` of every process of the server at once, as when the machine dies."""
        assert self._process is not None
        os.kill(self.pid, signal.SIGSTOP)  # it starts nobody any more
        children = self._children()
        self._process.kill()
        for child in children:
            _signal(child, signal.SIGKILL)
        self._process.wait()
        # A server refuses to start while a child of the one before holds its shared memory.
        deadline = time.monotonic() + _READY_SECS
        while any(Path(f"/proc/{child}").exists() for child in children):
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def pause(self) -> None:
        """Freeze every process of the server: connections stand, and nobody answers."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: int) -> None:
        for pid in (self.pid, *self._children()):
            _signal(pid, number)

    def _children(self) -> list[int]:
        """The living children of the postmaster; the kernel's own list of them may skip some."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, parent, *_ = stat.read_text().rpartition(")")[2].split()
            except OSError:  # gone meanwhile
                continue
            if int(parent) == self.pid and state != "Z":
                found.append(int(stat.parent.name))
        return found

    def stop(self) -> None:
        """Stop the server at once, cleanly; safe when it does not run."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
        self._process = None

    def new_database(self) -> str:
        """Make an empty database; its URL."""
        self._databases += 1
        name = f"test_{self._databases}"
        self.sql(f"CREATE DATABASE {name}")
        return self.url(name)

    def sql(self, statement: str, *, database: str = "postgres") -> list[str]:
        """Run a statement with psql; the lines it printed, columns parted by ``|``."""
        done = self._run(
            "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement, self.url(database)
        )
        return done.stdout.decode().splitlines()

    def _run(self, program: str, *words: object) -> subprocess.CompletedProcess[bytes]:
        done = self._attempt(program, *words)
        if done.returncode:
            raise AssertionError(f"{program}: {done.stderr.decode()}")
        return done

    def _attempt(self, program: str, *words: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [str(self._bin / program), *map(str, words)],
            check=False,
            capture_output=True,
            cwd=self.folder,
            user=_user(self._account),
            group=_group(self._account),
            extra_groups=None if self._account is None else [],
        )


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


@contextmanager
def cluster(*, fsync: bool = False, settings: str = "") -> Iterator[Cluster]:
    """A running server; its folder is removed afterwards."""
    base = Path(tempfile.mkdtemp(prefix="lavender-postgres-"))
    base.chmod(0o755)  # the server's user must pass through
    made = Cluster(base / "cluster", fsync=fsync, settings=settings)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(base)


def binaries() -> Path:
    """Where the newest PostgreSQL's programs are."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3])
    )
    if not found:
        raise AssertionError("no PostgreSQL under /usr/lib/postgresql; run `make setup`")
    return found[-1].parent


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _unprivileged() -> pwd.struct_passwd | None:
    """Whom to run as; None for ourselves, where that is not root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return pwd.getpwnam("postgres" if "postgres" in names else "nobody")


def _user(account: pwd.struct_passwd | None) -> int | None:
    return None if account is None else account.pw_uid


def _group(account: pwd.struct_passwd | None) -> int | None:
    return None if account is None else account.pw_gid


def _give(path: Path, account: pwd.struct_passwd | None) -> None:
    if account is not None:
        os.chown(path, account.pw_uid, account.pw_gid)
