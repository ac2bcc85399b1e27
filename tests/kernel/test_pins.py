"""Pins on a real bpffs: what is taken up, and what an unprivileged user cannot slip in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bpf import pins, syscalls
from bpf.errors import PinsError
from tests.kernel.endpoint import ROOT
from tests.kernel.workload import NOBODY

AGENT = "of the tests"
NAMES = frozenset(("ONE", "TWO"))
DIGEST = "d" * 64
REMOVE = """
import os, sys
from bpf import pins
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
print(pins.remove(int(sys.argv[1])))
"""


@pytest.fixture
def bpffs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A bpffs of our own."""
    folder = tmp_path / "bpf"
    folder.mkdir()
    subprocess.run(["/bin/mount", "-t", "bpf", "-o", "mode=1777", "bpf", folder], check=True)
    monkeypatch.setattr(pins, "BPFFS", folder)
    monkeypatch.setattr(pins, "HELD", NAMES)
    monkeypatch.setattr(pins, "RINGS", ())
    yield folder
    subprocess.run(["/bin/umount", folder], check=True)


@pytest.fixture
def place(bpffs: Path) -> Path:
    """Where the agent's pins are."""
    return bpffs / pins.PARENT / pins.folder_name(AGENT)


def opened() -> pins.Folder:
    root = pins.open_bpffs(mount=False)
    try:
        return pins.Folder(root, AGENT)
    finally:
        os.close(root)


@pytest.fixture
def made(bpffs: Path) -> Iterator[dict[str, int]]:
    """Two objects that are pinned as an agent's, whose folder is nobody's then."""
    assert bpffs
    objects = {name: syscalls.sealed_map(name, name.encode() * 3) for name in sorted(NAMES)}
    folder = opened()
    folder.fill(objects, digest=DIGEST, load_id="0123456789abcdef")
    folder.give_to(NOBODY, NOBODY)
    folder.close()
    yield objects
    pins.close_all(objects.values())


def taken_up(digest: str = DIGEST) -> tuple[dict[str, bytes], str]:
    folder = opened()
    try:
        held, load_id = folder.take_up(digest)
    finally:
        folder.close()
    values = {name: syscalls.first_value(held[name], 9) for name in held}
    pins.close_all(held.values())
    return values, load_id


def refused(reason: str, word: str, digest: str = DIGEST) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - only their number
    with pytest.raises(PinsError, match=word) as caught:
        taken_up(digest)
    assert caught.value.reason == reason
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - only their number


def test_what_was_pinned_is_taken_up(made: dict[str, int]) -> None:
    assert made.keys() == NAMES
    for _ in range(2):
        assert taken_up() == ({"ONE": b"ONE" * 3, "TWO": b"TWO" * 3}, "0123456789abcdef")


def test_where_nothing_was_left_there_is_nothing_to_take_up(bpffs: Path) -> None:
    assert not pins.any_left()
    refused("no pins", "no earlier agent")
    assert (bpffs / pins.PARENT).is_dir()


def test_pins_of_another_version_are_refused(made: dict[str, int]) -> None:
    assert made
    refused("another version", "other probes", digest="e" * 64)


@pytest.mark.parametrize("name", ["ONE", "TWO", pins.IDENTITY])
def test_an_incomplete_set_is_refused(made: dict[str, int], place: Path, name: str) -> None:
    assert made
    (place / name).unlink()
    refused("incomplete", name)


def test_a_pin_too_many_is_refused(made: dict[str, int], place: Path) -> None:
    syscalls.pin(made["ONE"], str(place / "MORE"))
    refused("incomplete", "MORE")


def someone_elses(place: Path) -> None:
    os.chown(place / "ONE", NOBODY, NOBODY)


def open_to_others(place: Path) -> None:
    (place / "ONE").chmod(0o666)


def a_folder(place: Path) -> None:
    (place / "ONE").unlink()
    (place / "ONE").mkdir()


def a_link_elsewhere(place: Path) -> None:
    (place / "TWO").unlink()
    (place / "TWO").symlink_to(place / "ONE")


def another_of_roots(place: Path) -> None:
    (place / "TWO").unlink()
    os.link(place / "ONE", place / "TWO")


def a_map_in_the_place_of_the_identity(place: Path) -> None:
    (place / pins.IDENTITY).unlink()
    os.link(place / "ONE", place / pins.IDENTITY)


def text_in_the_place_of_the_identity(place: Path) -> None:
    identity = place / pins.IDENTITY
    identity.unlink()
    other = syscalls.sealed_map("other", json.dumps([1]).encode().ljust(4096, b"\0"))
    syscalls.pin(other, str(identity))
    os.close(other)


@pytest.mark.parametrize(
    "attack",
    [
        *(someone_elses, open_to_others, a_folder, a_link_elsewhere, another_of_roots),
        *(a_map_in_the_place_of_the_identity, text_in_the_place_of_the_identity),
    ],
)
def test_what_is_not_roots_own_pin_is_refused(
    made: dict[str, int], place: Path, attack: Callable[[Path], None]
) -> None:
    assert made
    attack(place)
    refused("not ours", "pin|map|else")


def test_the_folder_is_taken_from_whoever_had_it(made: dict[str, int], place: Path) -> None:
    assert made
    assert place.stat().st_uid == place.parent.stat().st_uid == NOBODY
    folder = opened()
    for each in (place, place.parent):
        found = each.stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (0, 0, 0o700)
    folder.close()


def plant_a_link(place: Path) -> None:
    place.symlink_to("/etc")


def plant_levels(place: Path) -> None:
    for name in ("x", "removing", "y" * 64):
        (place / name / "x/y/z").mkdir(parents=True)
        (place / name / "x/y/link").symlink_to("/etc")
    (place / "x/x/y").chmod(0)


def plant_depth(place: Path) -> None:
    place.mkdir()
    here = os.open(place, os.O_RDONLY)
    for _ in range(3000):  # deeper than a path can name, and than there are descriptors
        os.mkdir("x", dir_fd=here)
        below = os.open("x", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


@pytest.mark.parametrize("level", ["parent", "folder"])
@pytest.mark.parametrize("plant", [plant_a_link, plant_levels, plant_depth])
def test_what_a_user_has_planted_keeps_no_agent_from_pinning(
    bpffs: Path, place: Path, plant: Callable[[Path], None], level: str
) -> None:
    target = bpffs / pins.PARENT if level == "parent" else place
    child = os.fork()
    if not child:
        os.chdir(bpffs)
        os.setresgid(NOBODY - 1, NOBODY - 1, NOBODY - 1)
        os.setresuid(NOBODY - 1, NOBODY - 1, NOBODY - 1)
        try:
            reached = target.relative_to(bpffs)
            reached.parent.mkdir(exist_ok=True)
            plant(reached)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    before = os.stat("/etc").st_mtime_ns  # noqa: PTH116 - not the link's
    folder = opened()
    assert folder.others(NOBODY) == []
    objects = {name: syscalls.sealed_map(name, b"123") for name in sorted(NAMES)}
    folder.fill(objects, digest=DIGEST, load_id="0123456789abcdef")
    folder.close()
    assert sorted(each.name for each in place.iterdir()) == sorted({*NAMES, pins.IDENTITY})
    assert [each.name for each in (bpffs / pins.PARENT).iterdir()] == [place.name]
    assert os.stat("/etc").st_mtime_ns == before  # noqa: PTH116 - same
    pins.close_all(objects.values())


def test_a_bpffs_that_any_user_may_write_is_closed_and_that_is_said(bpffs: Path) -> None:
    bpffs.chmod(0o1777)
    root = pins.open_bpffs(mount=False)
    assert "any user could make names" in pins.close_to_others(root)
    assert bpffs.stat().st_mode & 0o7777 == 0o1755
    assert pins.close_to_others(root) == ""
    os.close(root)


def test_a_new_set_replaces_what_was_there(made: dict[str, int], place: Path) -> None:
    folder = opened()
    (place / "junk").mkdir()
    folder.fill(dict(reversed(made.items())), digest="e" * 64, load_id="f" * 16)
    folder.close()
    assert taken_up("e" * 64)[1] == "f" * 16


def test_other_agents_folders_are_listed(made: dict[str, int], place: Path) -> None:
    assert made
    (place.parent / "another").mkdir()
    folder = opened()
    assert folder.others(NOBODY) == ["another"]
    folder.close()


def test_the_unprivileged_agent_can_remove_its_pins(made: dict[str, int], bpffs: Path) -> None:
    assert made
    folder = opened()
    folder.give_to(NOBODY, NOBODY)
    done = subprocess.run(
        [sys.executable, "-c", REMOVE, str(folder.descriptor)],
        cwd=ROOT,
        pass_fds=[folder.descriptor],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    folder.close()
    assert done.stdout == "['IDENTITY', 'ONE', 'TWO']\n"
    assert not (bpffs / pins.PARENT).exists()


def test_detaching_removes_all_and_says_what(made: dict[str, int], bpffs: Path) -> None:
    assert made
    assert pins.any_left()
    assert pins.detach("another") == []
    assert pins.detach(AGENT) == ["IDENTITY", "ONE", "TWO"]
    assert not (bpffs / pins.PARENT).exists()
    assert pins.detach(AGENT) == []


def test_an_identity_can_never_be_changed(made: dict[str, int], place: Path) -> None:
    assert made
    descriptor = syscalls.open_pin(str(place / pins.IDENTITY))
    with pytest.raises(PermissionError):
        syscalls.set_first_value(descriptor, b"x" * 4096)
    os.close(descriptor)
