"""Passwords in files of their own, for an environment or a configuration would show them."""

from __future__ import annotations

from pathlib import Path

from actors.config import ConfigError

_SIZE_MAX_BYTES = 4096


def read_password(path: Path, key: str) -> str:
    """The first line of a file.

    Args:
        path: the file.
        key: what names it in the configuration.

    Raises:
        ConfigError: it cannot be read, or there is none in it.
    """
    try:
        with path.open("rb") as file:
            lines = file.read(_SIZE_MAX_BYTES).splitlines()
    except OSError as error:
        raise ConfigError(f"{key} {path}: {error.strerror}") from error
    try:
        found = lines[0].decode() if lines else ""
    except UnicodeDecodeError:
        raise ConfigError(f"{key} {path}: not a text file") from None
    if not found:
        raise ConfigError(f"{key} {path}: its first line is empty")
    return found
