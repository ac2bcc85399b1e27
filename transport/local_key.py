"""The key by which an agent finds the stack of its own machine without configuration.

The stack publishes the agent's seed, under the broker's port, in a folder that the agent's root
trusts and that nobody else can read or write:

- ``/run/lavender-stack``, where root or systemd started the stack: only root makes folders there.
- ``~/.local/state/lavender-stack`` of an ordinary user who started it. The agent looks there if it
  was started with sudo by that very user, who can become root anyway, and if it belongs to him.

Nothing else about a key is configured by it: an agent for whom ``[broker]`` names credentials, or
whose broker is on another machine, does not look.
"""

from __future__ import annotations

import os
import pwd
import stat
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from transport.credentials import Identity, identity_of
from transport.errors import CredentialsError

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

RUN = Path("/run/lavender-stack")
_IN_HOME = Path(".local/state/lavender-stack")
_SEED_MAX_BYTES = 256
_DEFAULT_PORT = 4222


def publish(port: int, seed: str) -> Path:
    """Lay the agent's seed where an agent of this machine looks for it; the file.

    Raises:
        OSError: it cannot be laid there.
    """
    by_systemd = os.environ.get("RUNTIME_DIRECTORY", "") == str(RUN)
    root = by_systemd or os.geteuid() == 0
    folder = RUN if root else _home(os.geteuid()) / _IN_HOME
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if os.fstat(top).st_uid != os.geteuid():
            raise PermissionError(f"{folder} belongs to another user")
        os.fchmod(top, 0o700)
        name, new = f"{port}.seed", f".{port}.seed.{os.getpid()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(new, flags, 0o600, dir_fd=top), "w") as file:
            file.write(f"{seed}\n")
        os.rename(new, name, src_dir_fd=top, dst_dir_fd=top)
    finally:
        os.close(top)
    return folder / name


def find(url: str) -> Identity | None:
    """The identity that the stack of this machine has laid out for an agent, if there is one.

    Args:
        url: of the agent's broker.
    """
    parts = urlsplit(url)
    if not _is_loopback(parts.hostname or ""):
        return None
    for folder, owner in _places():
        path = folder / f"{parts.port or _DEFAULT_PORT}.seed"
        try:
            seed = _read(path, owner)
            if seed is not None:
                return identity_of(seed, str(path))
        except (OSError, CredentialsError) as error:
            log.warning("the stack's key is not used", path=str(path), why=str(error))
    return None


def _places() -> list[tuple[Path, int | None]]:
    """Where to look, and who must own what is there; None: whom root has given the folder to."""
    places: list[tuple[Path, int | None]] = [(RUN, None)]
    user = os.geteuid()
    invoking = os.environ.get("SUDO_UID", "")
    if user == 0 and invoking.isascii() and invoking.isdecimal():
        user = int(invoking)
    if user != 0:
        try:
            places.append((_home(user) / _IN_HOME, user))
        except OSError:
            return places
    return places


def _read(path: Path, owner: int | None) -> str | None:
    """The content of a seed's file; None if there is none.

    Raises:
        OSError: it cannot be read.
        CredentialsError: somebody else may have written it.
    """
    if owner is None:
        above = path.parent.parent.stat()
        if above.st_uid != 0 or above.st_mode & 0o022:
            raise CredentialsError(f"{path.parent.parent}: others than root may write there")
    try:
        top = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        folder = os.fstat(top)
        owner = folder.st_uid if owner is None else owner
        if folder.st_uid != owner or folder.st_mode & 0o022:
            raise CredentialsError(f"{path.parent}: others than user {owner} may write there")
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            file = os.fdopen(os.open(path.name, flags, dir_fd=top), "rb")
        except FileNotFoundError:
            return None
    finally:
        os.close(top)
    with file:
        found = os.fstat(file.fileno())
        if (
            not stat.S_ISREG(found.st_mode)
            or found.st_uid != owner
            or found.st_mode & 0o077
            or found.st_nlink != 1
        ):
            raise CredentialsError(f"{path}: is not a file of user {owner} alone")
        return file.read(_SEED_MAX_BYTES).decode("ascii", "replace").strip()


def _home(uid: int) -> Path:
    try:
        return Path(pwd.getpwuid(uid).pw_dir)
    except KeyError as error:
        raise FileNotFoundError(f"user {uid} has no home folder") from error


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
