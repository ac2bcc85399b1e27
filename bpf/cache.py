"""Compiled probes, kept for the next start: clang takes two thirds of the time of a first one.

A file holds the maps that the probes need and their instructions, in which every reference to a
map is the map's place in the list. It is used only under the key it was written for: the same
source, number of CPUs, kernel release and kernel types. The kernel's verifier sees what comes out
of it like anything else; whatever is wrong with it, the probes are compiled as if there were none.

Believed only if it is root's own and nobody else can write it or its folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import stat
import struct
import tempfile
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpf import programs, source, syscalls
from bpf.btf import BTF_PATH

FOLDER = Path("/var/cache/lavender")
_FORMAT = 2
_SIZE_MAX_BYTES = 16 << 20


class CacheError(Exception):
    """There is nothing that can be used; the text says why."""


@dataclass(frozen=True)
class Probes:
    """Loaded probes: descriptors by name. Nothing is attached."""

    maps: Mapping[str, int]
    functions: Mapping[str, int]
    keep: object = None
    """What must live as long as the descriptors."""


def key(*, cpu_count: int) -> str:
    """What a file is good for.

    Raises:
        OSError: the kernel's types cannot be read.
    """
    types = hashlib.sha256(BTF_PATH.read_bytes()).hexdigest()
    parts = (str(_FORMAT), source.digest("", cpu_count=cpu_count), platform.release(), types)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def load(key: str, *, folder: Path = FOLDER) -> Probes:
    """Create the maps and load the functions of a file.

    Raises:
        CacheError: there is none of this key, it is not to be believed, or the kernel refuses it.
    """
    saved = _read(folder, key)
    maps: dict[str, int] = {}
    try:
        for each in saved["maps"]:
            info = syscalls.MapInfo(**each["info"])
            maps[each["name"]] = syscalls.create_map(info, each["name"])
        places = list(maps.values())
        codes = {
            each["name"]: _relocated(b64decode(each["code"]), places) for each in saved["functions"]
        }
        if codes.keys() != set(source.ATTACHMENTS.values()) or not maps.keys() >= set(source.MAPS):
            raise ValueError("is not whole")  # noqa: TRY301 - like whatever else is wrong with it
        return Probes(maps, programs.load_all(codes))
    except (OSError, KeyError, TypeError, ValueError, IndexError) as error:
        for descriptor in maps.values():
            os.close(descriptor)
        raise CacheError(f"cannot be used: {error!r}") from error


def save(
    key: str, maps: Mapping[str, int], functions: Mapping[str, bytes], *, folder: Path = FOLDER
) -> None:
    """Write a file for the next start, whole or not at all, in place of the one before.

    Args:
        key: of `key`.
        maps: descriptors of all maps, by name.
        functions: instructions by name, with descriptors where they refer to maps.
        folder: where; made if it is not there.

    Raises:
        OSError: it cannot be written.
        CacheError: the instructions refer to something else than these maps.
    """
    infos = {name: syscalls.map_info(descriptor) for name, descriptor in maps.items()}
    places = {descriptor: place for place, descriptor in enumerate(maps.values())}
    saved = {
        "key": key,
        "maps": [{"name": name, "info": info.__dict__} for name, info in infos.items()],
        "functions": [
            {"name": name, "code": b64encode(_by_place(code, places)).decode()}
            for name, code in functions.items()
        ],
    }
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=folder, prefix="probes-", delete=False) as file:
        json.dump(saved, file)
    try:
        Path(file.name).rename(folder / "probes.json")
    except OSError:
        with contextlib.suppress(OSError):
            Path(file.name).unlink()
        raise


def _read(folder: Path, key: str) -> dict[str, Any]:
    try:
        _believe(folder.lstat())
        descriptor = os.open(folder / "probes.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise CacheError(f"is not there: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        _believe(status)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _SIZE_MAX_BYTES:
            raise CacheError("is no file of ours")
        try:
            saved = json.loads(file.read(_SIZE_MAX_BYTES))
        except (OSError, ValueError) as error:
            raise CacheError(f"cannot be read: {error}") from error
    if not isinstance(saved, dict) or saved.get("key") != key:
        raise CacheError("is for other probes, or another kernel")
    return saved


def _believe(status: os.stat_result) -> None:
    if status.st_uid != 0 or status.st_mode & 0o022:
        raise CacheError("is not root's alone")


def _references(code: bytes | bytearray) -> Iterable[tuple[int, int]]:
    """Where instructions refer to maps, and to which."""
    for position, operation, registers, value in programs.instructions(code):
        if operation == programs.LOAD_IMMEDIATE and registers >> 4 == programs.MAP_REFERENCE:
            yield position + 4, value


def _by_place(code: bytes, places: Mapping[int, int]) -> bytes:
    changed = bytearray(code)
    for position, descriptor in list(_references(code)):
        if descriptor not in places:
            raise CacheError(
                f"the probes refer to descriptor {descriptor}, which is no map of theirs"
            )
        struct.pack_into("<i", changed, position, places[descriptor])
    return bytes(changed)


def _relocated(code: bytes, descriptors: list[int]) -> bytes:
    changed = bytearray(code)
    for position, place in list(_references(code)):
        struct.pack_into("<i", changed, position, descriptors[place])
    return bytes(changed)
