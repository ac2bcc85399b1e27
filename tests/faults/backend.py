"""The backend as separate processes, which a test may kill: broker, services, store, emitters."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.faults.emitter import ALERT_EVERY
from tests.services.messages import BOOT_NS
from tests.services.postgres import Cluster, free_port
from transport.server import find_server

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("ingest", "telemetry_writer", "alert_writer")
TABLES = (
    "seed_events",
    "fork_events",
    "exec_events",
    "open_events",
    "connect_events",
    "exit_events",
)
DEADLINE_SECS = 120.0
FIRST_UNIX_MS = (BOOT_NS + 10**12) // 10**6
"""Time of event 0; event ``k`` happened ``k`` milliseconds later."""

T = TypeVar("T")


class Process:
    """A program of the backend.

    Args:
        name: for its log.
        words: its command.
        folder: where the log goes.
        environment: added to ours.
        prefix: words before the command, to run it elsewhere.
    """

    def __init__(
        self,
        name: str,
        words: Sequence[str],
        folder: Path,
        *,
        environment: dict[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self.name = name
        self._words = [*prefix, *words]
        self._log = folder / f"{name}.log"
        self._out = folder / f"{name}.out"
        self._environment = {**os.environ, **(environment or {})}
        self.process: subprocess.Popen[bytes] | None = None
        self.listen = self._environment.get("LISTEN", "")
        """Where it serves metrics and health; empty for nowhere."""

    def start(self) -> None:
        """Start it."""
        with self._log.open("ab") as log, self._out.open("wb") as out:
            self.process = subprocess.Popen(
                self._words, cwd=ROOT, env=self._environment, stdout=out, stderr=log
            )

    @property
    def running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None
        return self.process

    def kill(self) -> None:
        """SIGKILL."""
        self.running.kill()
        self.running.wait()

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        if self.running.poll() is None:
            self.running.send_signal(signal.SIGTERM)
        return self.running.wait(30)

    def finish(self, *, within_secs: float = DEADLINE_SECS) -> dict[str, Any]:
        """Wait for its end; what it printed."""
        code = self.running.wait(within_secs)
        assert code == 0, self.log()
        return dict(json.loads(self._out.read_text().splitlines()[-1]))

    def log(self) -> str:
        """What it said."""
        return self._log.read_text()


class Backend:
    """Broker, services and store in a folder.

    Args:
        folder: for everything.
        cluster: a PostgreSQL; SQLite without.
        ingest: lines for ``[ingest]``.
        listen: the address the broker listens on.
    """

    def __init__(
        self,
        folder: Path,
        *,
        cluster: Cluster | None = None,
        ingest: str = "",
        listen: str = "127.0.0.1",
        store_dir: Path | None = None,
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"nats://{listen}:{self.port}"
        self._cluster = cluster
        self.database = folder / "lavender.db"
        store = cluster.url() if cluster is not None else f"sqlite:{self.database}"
        config = folder / "lavender.toml"
        config.write_text(
            f'[broker]\nurl = "{self.url}"\n[store]\nurl = "{store}"\n[ingest]\n{ingest}\n'
        )
        self.environment = {"LAVENDER_CONFIG": str(config)}
        conf = folder / "nats.conf"
        where = store_dir or folder / "js"
        conf.write_text(
            f'listen: "{listen}:{self.port}"\n'
            f'jetstream {{ store_dir: "{where}", max_file_store: 20GB }}\n'
        )
        server = [str(find_server()), "--config", str(conf)]
        self.broker = Process("broker", server, folder)
        self.services = {name: self._service(name) for name in SERVICES}
        self.emitters: list[Process] = []

    def _service(self, name: str) -> Process:
        listen = f"127.0.0.1:{free_port()}"
        return Process(
            name,
            [sys.executable, "-m", f"services.{name}"],
            self.folder,
            environment={
                **self.environment,
                f"LAVENDER_{name.upper()}__LISTEN": listen,
                "LISTEN": listen,
            },
        )

    def add_detection(self) -> None:
        """Have a detection worker too, which remembers by itself."""
        self.services["detection"] = self._service("detection")

    def start(self, *, broker: bool = True) -> None:
        """Start everything."""
        if broker:
            self.broker.start()
        for service in self.services.values():
            service.start()

    def emitter(
        self,
        total: int,
        *,
        rate: int,
        agent: str = "web-1",
        prefix: Sequence[str] = (),
        **more: Any,
    ) -> Process:
        """A make-believe agent, not yet started."""
        options = {f"--{name.replace('_', '-')}": str(value) for name, value in more.items()}
        flags = [word for pair in options.items() for word in pair if word != "True"]
        words = [sys.executable, "-m", "tests.faults.emitter", "--url", self.url, "--agent", agent]
        words += ["--spool", str(self.folder / f"spool-{agent}"), "--total", str(total)]
        made = Process(
            f"emitter-{agent}", [*words, "--rate", str(rate), *flags], self.folder, prefix=prefix
        )
        self.emitters.append(made)
        return made

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the store."""
        if self._cluster is not None:
            try:
                lines = self._cluster.sql(query)
            except AssertionError as error:
                if "does not exist" not in str(error):
                    raise
                return []  # not migrated yet
            return [tuple(line.split("|")) for line in lines]
        if not self.database.exists():
            return []
        connection = sqlite3.connect(self.database, timeout=30)
        try:
            return connection.execute(query).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            return []  # not migrated yet
        finally:
            connection.close()

    def numbers(self, *, agent: str = "web-1") -> list[int]:
        """The numbers of the events in the store, in order; each as often as it is there."""
        union = " UNION ALL ".join(
            f"SELECT observed_at_unix_ms FROM {table} WHERE agent_id = '{agent}'"  # noqa: S608
            for table in TABLES
        )
        return sorted(int(row[0]) - FIRST_UNIX_MS for row in self.rows(union))

    def count(self, table: str, *, agent: str = "web-1") -> int:
        """Rows of a table."""
        query = f"SELECT count(*) FROM {table} WHERE agent_id = '{agent}'"  # noqa: S608 - our own
        found = self.rows(query)
        return int(found[0][0]) if found else 0

    def ledger(self) -> dict[str, Any]:
        """What `services.ledger` says."""
        done = subprocess.run(
            [sys.executable, "-m", "services.ledger", "--json", "--count-rows"],
            cwd=ROOT,
            env={**os.environ, **self.environment},
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert done.returncode in (0, 1, 3), done.stderr.decode()
        return dict(json.loads(done.stdout))

    def account(self, agent: str = "web-1") -> dict[str, Any]:
        """One agent's part of it."""
        return next(each for each in self.ledger()["agents"] if each["agent_id"] == agent)

    def wait_for(self, found: Callable[[], T | None], *, within_secs: float = DEADLINE_SECS) -> T:
        """Poll until it is true."""
        deadline = time.monotonic() + within_secs
        while time.monotonic() < deadline:
            result = found()
            if result:
                return result
            time.sleep(0.2)
        logs = "\n".join(f"== {each.name}\n{each.log()[-3000:]}" for each in self.all())
        raise AssertionError(f"not within {within_secs} s\n{logs}")

    def settle(self, total: int, *, agent: str = "web-1", alerts: bool = True) -> dict[str, Any]:
        """Wait until exactly the events 0 to ``total - 1`` are stored; then the ledger balances."""
        self.wait_for(lambda: sum(self.count(table, agent=agent) for table in TABLES) >= total)
        assert self.numbers(agent=agent) == list(range(total))
        expected = -(-total // ALERT_EVERY)
        if alerts:
            self.wait_for(lambda: self.count("alerts", agent=agent) >= expected)
            assert self.count("alerts", agent=agent) == expected
        self.wait_for(lambda: not self.account(agent)["problems"], within_secs=30)
        account = self.account(agent)
        assert (account["spooled"], account["stored"], account["rows"]) == (total,) * 3
        return account

    def all(self) -> list[Process]:
        """Everything that may run."""
        known = [self.broker, *self.services.values(), *self.emitters]
        return [each for each in known if each.process is not None]

    def close(self) -> None:
        """Stop whatever runs."""
        for each in reversed(self.all()):
            if each.running.poll() is None:
                each.kill()


def tool(*words: object) -> None:
    """Run a system program that must succeed."""
    path = shutil.which(str(words[0]))
    assert path is not None, f"{words[0]} is not installed"
    subprocess.run([path, *map(str, words[1:])], check=True, capture_output=True)


@contextmanager
def backend(folder: Path, **options: Any) -> Iterator[Backend]:
    """A backend that is gone afterwards."""
    made = Backend(folder, **options)
    try:
        yield made
    finally:
        made.close()
