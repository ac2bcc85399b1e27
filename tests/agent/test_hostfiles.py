"""Which files are the host's own."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from actors.agent.hostfiles import HostFiles, is_system_file
from tests.agent.host_tree import LS, HostTree

REGULAR = stat.S_IFREG | 0o755


@pytest.fixture
def host(tmp_path: Path) -> HostTree:
    (tmp_path / "host").mkdir()
    return HostTree(tmp_path / "host")


MOUNTS = r"""22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
23 22 8:2 / /usr rw - ext4 /dev/sda2 rw
24 22 8:3 / /home rw - ext4 /dev/sda3 rw
25 22 0:5 / /proc rw - proc proc rw
26 22 8:4 / /opt/vendor\040tools rw - ext4 /dev/sda4 rw
27 22 8:5 / /usrlocal rw - ext4 /dev/sda5 rw
28 22 259:1048575 / /lib64 rw - ext4 /dev/nvme rw
"""


def test_devices_are_those_of_the_root_and_the_system_folders(tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTS)
    (tmp_path / "root").mkdir()
    found = HostFiles(tmp_path).devices
    assert found == {8 << 20 | 1, 8 << 20 | 2, 8 << 20 | 4, 259 << 20 | 1048575}


@pytest.mark.parametrize(
    ("path", "uid", "mode", "trusted"),
    [
        ("/usr/bin/ls", 0, REGULAR, True),
        ("/opt/x/y", 0, REGULAR, True),
        ("/lib64/ld.so", 0, REGULAR, True),
        ("/usr/bin/sudo", 0, stat.S_IFREG | 0o4755, True),
        ("/usr/bin/ls", 1000, REGULAR, False),
        ("/usr/bin/ls", 0, stat.S_IFREG | 0o775, False),
        ("/usr/bin/ls", 0, stat.S_IFREG | 0o757, False),
        ("/usr/bin/ls", 0, stat.S_IFIFO | 0o755, False),
        ("/tmp/ls", 0, REGULAR, False),
        ("/usrlocal/ls", 0, REGULAR, False),
        ("usr/bin/ls", 0, REGULAR, False),
        ("", 0, REGULAR, False),
        ("/usr/bin/ls (deleted)", 0, REGULAR, False),
    ],
)
def test_a_systems_own_file_is_roots_and_only_root_can_write_it(
    path: str, uid: int, mode: int, *, trusted: bool
) -> None:
    assert is_system_file(path, uid=uid, mode=mode) is trusted


def test_the_hosts_file_of_a_path_is_known_by_its_inode(host: HostTree) -> None:
    files = host.files()
    assert files.has(LS, inode=host.inode, device=host.device)
    assert files.has(LS, inode=host.inode, device=host.device), "and is still"
    assert not files.has(LS, inode=host.inode + 1, device=host.device)
    assert not files.has("/usr/bin/id", inode=host.inode, device=host.device)


@pytest.mark.parametrize(
    "path", ["", "usr/bin/ls", ".../usr/bin/ls", "/usr/bin/ls\0", "/usr/bin/" + "x" * 2000]
)
def test_what_is_no_path_from_the_root_is_no_file_of_the_host(host: HostTree, path: str) -> None:
    assert not host.files().has(path, inode=host.inode, device=host.device)


def test_a_link_is_not_followed(host: HostTree) -> None:
    host.ls.with_name("dir").symlink_to(host.ls)
    assert not host.files().has("/usr/bin/dir", inode=host.inode, device=host.device)


def test_a_device_that_no_system_folder_is_on_holds_no_file_of_the_system(host: HostTree) -> None:
    assert not host.files().has(LS, inode=host.inode, device=host.device + 1)
    host.mount("250:1")
    assert not host.files().has(LS, inode=host.inode, device=host.device)


def test_a_filesystem_of_several_parts_shows_numbers_that_no_mount_has(host: HostTree) -> None:
    host.mount("250:1")
    assert host.files().has(LS, inode=host.inode, device=250 << 20 | 1)
    device = host.ls.stat().st_dev
    host.mount("250:1", f"{os.major(device)}:{os.minor(device)}")
    assert not host.files().has(LS, inode=host.inode, device=250 << 20 | 1)


def test_what_was_the_hosts_file_is_asked_for_again_after_a_second(
    host: HostTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns = 10**12
    monkeypatch.setattr("time.monotonic_ns", lambda: now_ns)
    files = host.files()
    assert files.has(LS, inode=host.inode, device=host.device)
    host.ls.unlink()
    assert files.has(LS, inode=host.inode, device=host.device)
    now_ns += 10**9 + 1
    assert not files.has(LS, inode=host.inode, device=host.device)


def test_without_the_first_processs_root_our_own_stands_for_it(host: HostTree) -> None:
    host.first.joinpath("root").rename(host.first / "moved")
    found = Path("/usr/bin/env").resolve().stat()
    host.mount(f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}")
    device = os.major(found.st_dev) << 20 | os.minor(found.st_dev)
    assert host.files().has("/usr/bin/env", inode=found.st_ino, device=device)


def test_this_process_runs_what_its_link_says() -> None:
    exe, system = HostFiles(Path("/proc/self")).of_process(Path("/proc/self"))
    assert exe == str(Path("/proc/self/exe").readlink())
    found = Path(exe).stat()
    assert not system or is_system_file(exe, uid=found.st_uid, mode=found.st_mode)


def test_a_process_that_is_gone_runs_nothing(host: HostTree) -> None:
    assert host.files().of_process(Path("/proc/4194305")) == ("", False)
