"""``python -m services.stack``: ingest, writers, broker and store in one process."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog

import actors.entry
from actors import config, logs, stdio
from services import program
from services.parts import PARTS
from services.settings import Settings
from services.stack.keys import ACCOUNTS, AGENT, SERVICES, Keys, make_keys
from transport import local_key
from transport.errors import CredentialsError
from transport.server import EmbeddedServer

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

NAME = "stack"
BUSY = 73
"""EX_CANTCREAT: the folder cannot be used, or another stack has it."""


def _with_folder(settings: Settings, data: Path, *, url: str) -> Settings:
    """The settings with the store and the broker of this folder, and the key that it has there."""
    store = settings.store.model_copy(update={"url": f"sqlite:{data / 'lavender.db'}"})
    seed = data / "nats" / "keys" / SERVICES
    own = {"url": url, "credentials_file": None, "nkey_seed_file": seed if seed.exists() else None}
    broker = settings.broker.model_copy(update=own)
    return settings.model_copy(update={"store": store, "broker": broker})


class _FolderError(Exception):
    """The folder cannot be used; the text says what to do."""


def _take_folder(data: Path) -> Keys:
    """Make the folder and hold its lock until this process ends; the keys in it.

    Raises:
        _FolderError: it cannot be made, or another stack has it.
    """
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        lock = os.open(data / "stack.lock", flags, 0o600)
        os.fchmod(lock, 0o600)  # whoever may read it could hold it
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return make_keys(data / "nats")
    except BlockingIOError as error:
        raise _FolderError(
            f"{data}: another stack uses it; stop that one, or name another with --data"
        ) from error
    except OSError as error:
        raise _FolderError(f"{data}: {error.strerror}; name another folder with --data") from error
    except CredentialsError as error:
        raise _FolderError(f"{error}; remove the file, and restart the agents") from error


def _let_agents_in(port: int, seed: str, data: Path) -> None:
    """Lay their key where the agents of this machine look for it."""
    try:
        path = local_key.publish(port, seed)
    except OSError as error:
        stdio.say(
            f"warning: agents of this machine do not find their key ({error}); name"
            f" {data / 'nats' / 'keys' / AGENT} as their [broker] nkey_seed_file"
        )
    else:
        log.info("agents of this machine find their key", path=str(path))


def main(words: Sequence[str] | None = None) -> int:
    """Run the stack; the exit code."""
    parser = program.parser(NAME)
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="where everything is kept")
    options = parser.parse_args(sys.argv[1:] if words is None else words)
    stdio.open_missing()
    logs.configure(pretty=False)
    try:
        settings = program.load_settings(options.config)
        stack = settings.stack
        data = (options.data or stack.data).absolute()
        looks_only = options.check or options.show_topology
        agent_seed = "" if looks_only else _take_folder(data).agent
        server = EmbeddedServer(
            data / "nats",
            host=stack.broker_host,
            port=stack.broker_port,
            extra=f'include "{ACCOUNTS}"',
        )
        settings = _with_folder(settings, data, url=server.url)

        def announce() -> None:
            _let_agents_in(server.port, agent_seed, data)
            listen = f"\n  metrics  http://{stack.listen}/metrics" if stack.listen else ""
            stdio.write_all(
                2,
                f"Lavender's backend is running. Ctrl+C to stop\n  broker   {server.url}\n"
                f"  store    {settings.store.sqlite_path}{listen}\n",
            )

        return program.run(
            NAME,
            PARTS,
            settings,
            listen=stack.listen,
            options=options,
            server=None if looks_only else server,
            announce=announce,
        )
    except config.ConfigError as error:
        stdio.say(str(error))
        return program.CONFIG_ERROR
    except _FolderError as error:
        stdio.say(str(error))
        return BUSY


if __name__ == "__main__":
    actors.entry.run(main)
