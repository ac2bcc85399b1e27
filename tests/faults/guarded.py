"""The backend as it is shipped: TLS, a key for each agent and service, their permissions."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.faults.backend import ROOT, Backend, Process
from transport.session import Session
from transport.settings import BrokerSettings

MAKE_CONFIG = ROOT / "docker" / "nats" / "make-config"


class Guarded(Backend):
    """A backend whose broker has the users that `docker/nats/make-config` makes.

    Args:
        folder: for everything.
        agents: ``tenant.agent`` of each.
        ingest: lines for ``[ingest]``.
    """

    def __init__(self, folder: Path, agents: Sequence[str], *, ingest: str = "") -> None:
        self.secrets = folder / "secrets"
        words = [word for name in agents for word in ("--agent", name)]
        made = [sys.executable, str(MAKE_CONFIG), str(self.secrets), *words]
        subprocess.run(made, check=True, capture_output=True)
        super().__init__(folder, ingest=ingest)
        with (folder / "nats.conf").open("a") as conf:
            conf.write(f'include "{self.secrets.relative_to(folder)}/security.conf"\n')
        self.add_detection()

    def _service(self, name: str) -> Process:
        self.environment["LAVENDER_BROKER__TLS_CA_FILE"] = str(self.secrets / "ca.crt")
        seed = self.secrets / "services" / f"{name.replace('_', '-')}.seed"
        own = super()._service(name)
        own._environment["LAVENDER_BROKER__NKEY_SEED_FILE"] = str(seed)
        return own

    def agent(self, name: str) -> Session:
        """A session with an agent's key."""
        settings = BrokerSettings(
            nkey_seed_file=self.secrets / "agents" / f"{name}.seed",
            tls_ca_file=self.secrets / "ca.crt",
        )
        return Session(settings, name=name, url=self.url, inbox_prefix=f"_INBOX.{name}")


@contextmanager
def guarded(folder: Path, agents: Sequence[str], *, ingest: str = "") -> Iterator[Guarded]:
    """A backend that is gone afterwards."""
    made = Guarded(folder, agents, ingest=ingest)
    try:
        yield made
    finally:
        made.close()


def healthy(service: Process) -> bool:
    """Whether it says that all is well with it."""
    return health(service)[0] == 200


def health(service: Process) -> tuple[int, str]:
    """What it says of its health; 0 if it says nothing."""
    try:
        with urllib.request.urlopen(f"http://{service.listen}/healthz", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)
