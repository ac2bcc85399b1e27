"""The folder that root makes for the agent's account: nothing else is given away or changed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from transport.spool_errors import SpoolError
from transport.spool_folder import prepare_folder

UID = os.getuid() or 4242
GID = os.getgid()
NAMES = ("acme", "web-1")


def prepare(top: Path, names: tuple[str, ...] = NAMES) -> Path:
    return prepare_folder(top, names, uid=UID, gid=GID)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_made_can_be_got_through_and_the_last_is_the_account_s_alone(
    tmp_path: Path,
) -> None:
    folder = prepare(tmp_path / "lib" / "spool")
    assert folder == tmp_path / "lib" / "spool" / "acme" / "web-1"
    assert [mode(each) for each in (folder, folder.parent, folder.parent.parent)] == [
        0o700,
        0o711,
        0o711,
    ]
    assert folder.stat().st_uid == UID
    assert folder.parent.stat().st_uid == os.getuid()


def test_nothing_in_it_is_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.touch(0o644)
    folder = tmp_path / "spool" / "acme" / "web-1"
    folder.mkdir(parents=True)
    (folder / "spool.db").symlink_to(outside)
    (folder / "spool.lock").hardlink_to(outside)
    (folder / "spool.db-wal").touch()
    os.mkfifo(folder / "spool.db-shm")
    before = outside.stat()
    assert prepare(tmp_path / "spool") == folder
    assert outside.stat() == before
    assert (folder / "spool.db-wal").stat().st_uid == UID
    assert (folder / "spool.db-shm").stat().st_uid == os.getuid()
    assert folder.stat().st_uid == UID


@pytest.mark.parametrize("at", [(), ("acme",)])
def test_what_was_there_before_keeps_its_mode(tmp_path: Path, at: tuple[str, ...]) -> None:
    there = tmp_path.joinpath("spool", *at)
    there.mkdir(parents=True)
    there.chmod(0o1777)
    prepare(tmp_path / "spool")
    assert mode(there) == 0o1777


def test_a_folder_of_something_else_is_not_given_away(tmp_path: Path) -> None:
    victim = tmp_path / "spool" / "acme" / "web-1"
    victim.mkdir(parents=True)
    victim.chmod(0o755)
    (victim / "treasure").touch()
    before = victim.stat()
    with pytest.raises(SpoolError, match="is no spool's folder: it holds 'treasure'"):
        prepare(tmp_path / "spool")
    assert victim.stat() == before


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("..", "web-1"),
        ("acme", ".."),
        ("acme", "."),
        ("acme", ""),
        ("acme", "/etc"),
        ("acme", "../../victim"),
        ("acme", "a/b"),
        ("acme", "a\0b"),
    ],
)
def test_no_name_leads_out_of_it(tmp_path: Path, names: tuple[str, ...]) -> None:
    (tmp_path / "victim").mkdir()
    before = (tmp_path / "victim").stat()
    with pytest.raises(SpoolError, match="are no names of folders in"):
        prepare(tmp_path / "spool", names)
    assert (tmp_path / "victim").stat() == before


@pytest.mark.parametrize("at", [("acme",), ("acme", "web-1")])
def test_a_link_in_the_place_of_a_folder_is_not_followed(
    tmp_path: Path, at: tuple[str, ...]
) -> None:
    (tmp_path / "victim").mkdir()
    before = (tmp_path / "victim").stat()
    link = tmp_path.joinpath("spool", *at)
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "victim")
    with pytest.raises(NotADirectoryError):
        prepare(tmp_path / "spool")
    assert (tmp_path / "victim").stat() == before


def test_the_account_has_the_folder_only_when_it_has_all_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it could exchange a file for a link to one of root's before that is given away."""
    folder = tmp_path / "spool" / "acme" / "web-1"
    folder.mkdir(parents=True)
    (folder / "spool.db").touch()
    given: list[tuple[int, int]] = []
    change = os.fchown

    def fchown(descriptor: int, uid: int, gid: int) -> None:
        given.append((os.fstat(descriptor).st_ino, uid))
        change(descriptor, uid, gid)

    monkeypatch.setattr(os, "fchown", fchown)
    prepare(tmp_path / "spool")
    file, top = (folder / "spool.db").stat().st_ino, folder.stat().st_ino
    assert given == [(top, os.geteuid()), (file, UID), (top, UID)]
