import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from actors.agent.enrich import (
    Enricher,
    Users,
    host_devices,
    is_system_file,
    is_system_process,
)
from bpf import records

DEVICE = 8 << 20 | 1
REGULAR = stat.S_IFREG | 0o755


def users(tmp_path: Path, text: str) -> Users:
    (tmp_path / "passwd").write_text(text)
    return Users(tmp_path / "passwd")


def test_a_user_has_the_first_name_listed(tmp_path: Path) -> None:
    known = users(tmp_path, "root:x:0:0::/:/bin/sh\ntoor:x:0:0::/:/bin/sh\nann:x:1000:1000::/:\n")
    assert known.name(0) == "root"
    assert known.name(1000) == "ann"


def test_an_unknown_user_has_digits(tmp_path: Path) -> None:
    assert users(tmp_path, "").name(4294967295) == "4294967295"
    assert Users(tmp_path / "none").name(7) == "7"


def test_lines_that_are_none_are_passed_over(tmp_path: Path) -> None:
    known = users(tmp_path, "\n#\n:::\nx:y\nbad:x:-1:\nnis:x:+::\nann:x:1000:\n")
    assert known.name(1000) == "ann"
    assert known.name(1) == "1"


def test_a_user_added_later_is_noticed(tmp_path: Path) -> None:
    known = users(tmp_path, "")
    assert known.name(1000) == "1000"
    (tmp_path / "passwd").write_text("ann:x:1000:1000::/:\n")
    os.utime(tmp_path / "passwd", ns=(1, 1))
    assert known.name(1000) == "ann"


def test_a_file_that_did_not_change_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = users(tmp_path, "ann:x:1000:1000::/:\n")
    known.name(1)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: pytest.fail("read again"))
    assert known.name(2) == "2"


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
    found = host_devices(tmp_path / "mountinfo")
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


def fixed(**fields: Any) -> tuple[Any, ...]:
    """The fixed part of an exec record, in the order of its layout."""
    words: dict[str, Any] = {name: number for number, (name, _) in enumerate(records.EXEC.fields)}
    words |= {
        "exe_device": DEVICE,
        "exe_uid": 0,
        "exe_mode": REGULAR,
        "marks": records.MARK_HOST_NAMESPACE,
        "comm": b"ls\0\0garbage",
    }
    return tuple({**words, **fields}.values())


def test_an_exec_event_takes_each_field_of_the_record(tmp_path: Path) -> None:
    enricher = Enricher(users(tmp_path, "ann:x:3:3::/:\n"), [DEVICE])
    arguments = (("ls", "-l"), True)
    event = enricher.exec_event(fixed(), "ls", "/usr/bin/ls", "/", *arguments)
    names = [name for name, _ in records.EXEC.fields]
    for field, name in {
        "time_ns": "time_ns",
        "pid": "pid",
        "start_ns": "start_ns",
        "ppid": "ppid",
        "parent_start_ns": "parent_start_ns",
        "uid": "uid",
        "login_uid": "login_uid",
        "cgroup_id": "cgroup_id",
        "error": "error",
    }.items():
        assert getattr(event, field) == names.index(name), field
    assert (event.comm, event.filename, event.exe) == ("ls", "ls", "/usr/bin/ls")
    assert (event.argv, event.argv_cut, event.user) == (("ls", "-l"), True, "ann")
    assert event.system_exe


@pytest.mark.parametrize(("error", "cwd"), [(0, "/root"), (2, "")])
def test_only_an_exec_that_happened_has_a_working_directory(
    tmp_path: Path, error: int, cwd: str
) -> None:
    enricher = Enricher(users(tmp_path, ""), [DEVICE])
    event = enricher.exec_event(fixed(error=error), "ls", "/usr/bin/ls", "/root", *((), False))
    assert event.cwd == cwd


@pytest.mark.parametrize(
    "other",
    [{"marks": 0}, {"exe_device": 5}, {"exe_uid": 1000}, {"exe_mode": stat.S_IFREG | 0o777}],
)
def test_an_executable_of_a_container_a_mount_or_a_user_is_not_the_systems(
    tmp_path: Path, other: dict[str, int]
) -> None:
    enricher = Enricher(users(tmp_path, ""), [DEVICE])
    event = enricher.exec_event(fixed(**other), "ls", "/usr/bin/ls", "/", *((), True))
    assert not event.system_exe


def test_a_connect_event_has_its_users_name(tmp_path: Path) -> None:
    enricher = Enricher(users(tmp_path, "ann:x:1000:\n"), [])
    event = enricher.connect_event(
        1, 2, 3, 1000, "nc", 2, "203.0.113.7", 80, "", 115, "1.2.3.4:5", 77
    )
    assert (event.user, event.uid, event.pid, event.start_ns) == ("ann", 1000, 2, 3)
    assert (event.dest_ip, event.dest_port, event.path, event.error) == ("203.0.113.7", 80, "", 115)
    assert (event.claimed, event.socket) == ("1.2.3.4:5", 77)


def test_a_running_process_is_the_systems_by_its_file_not_by_its_word() -> None:
    assert not is_system_process(os.getpid(), "/tmp/python")
    assert not is_system_process(4_194_305, "/usr/bin/ls")
    program = Path(sys.executable).resolve()
    trusted = is_system_file(str(program), uid=program.stat().st_uid, mode=program.stat().st_mode)
    assert is_system_process(os.getpid(), str(program)) is trusted
