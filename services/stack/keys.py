"""The keys of the stack's own broker: made at the first start, kept in its folder."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

import nkeys

from transport import accounts
from transport.credentials import identity_of

SERVICES, AGENT = "services.seed", "agent.seed"
ACCOUNTS = "accounts.conf"


@dataclass(frozen=True)
class Keys:
    """The two users of a stack's broker: its services together, and the agents of its machine."""

    services: Path
    """The services' seed, a file."""
    agent: str = field(repr=False)
    """The agents' seed itself, to be laid where they look for it."""


def make_keys(folder: Path) -> Keys:
    """Make the keys that are missing, and the configuration by which the broker knows them.

    Args:
        folder: the broker's; ``keys`` and ``accounts.conf`` are made in it, for its owner alone.

    Raises:
        OSError: they cannot be made.
        CredentialsError: a key is damaged.
    """
    kept = folder / "keys"
    kept.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept.chmod(0o700)
    seeds = {name: _seed(kept / name) for name in (SERVICES, AGENT)}
    public = {name: identity_of(seed, str(kept / name)).public_key for name, seed in seeds.items()}
    made = {
        accounts.SERVICES: accounts.services([{"nkey": public[SERVICES]}]),
        # Of any name: who may read the key is root of the machine that the stack is for.
        "AGENTS": accounts.agent(accounts.ANY_AGENT, public[AGENT]),
    }
    _write(folder / ACCOUNTS, f"accounts: {json.dumps(made, indent=2)}\n")
    return Keys(kept / SERVICES, seeds[AGENT])


def _seed(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        seed = bytes(nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER)).decode()
        _write(path, f"{seed}\n")
        return seed


def _write(path: Path, text: str) -> None:
    """Whole or not at all, for the owner alone."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(new, flags, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
