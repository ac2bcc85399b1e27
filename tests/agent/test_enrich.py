import os
import stat
from pathlib import Path
from typing import Any

import pytest

from actors.agent.enrich import Enricher, Users
from bpf import records
from tests.agent.host_tree import HostTree

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


def fixed(**fields: Any) -> tuple[Any, ...]:
    """The fixed part of an exec record, in the order of its layout."""
    words: dict[str, Any] = {name: number for number, (name, _) in enumerate(records.EXEC.fields)}
    words |= {
        "exe_uid": 0,
        "exe_mode": REGULAR,
        "marks": records.MARK_HOST_NAMESPACE,
        "comm": b"ls\0\0garbage",
    }
    return tuple({**words, **fields}.values())


def its(host: HostTree, **fields: Any) -> tuple[Any, ...]:
    """The same of the host's own program."""
    return fixed(**{"exe_inode": host.inode, "exe_device": host.device, **fields})


@pytest.fixture
def host(tmp_path: Path) -> HostTree:
    (tmp_path / "host").mkdir()
    return HostTree(tmp_path / "host")


def test_an_exec_event_takes_each_field_of_the_record(tmp_path: Path, host: HostTree) -> None:
    enricher = Enricher(users(tmp_path, "ann:x:3:3::/:\n"), host.files())
    arguments = (("ls", "-l"), True)
    event = enricher.exec_event(its(host), "ls", "/usr/bin/ls", "/", *arguments)
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
    tmp_path: Path, host: HostTree, error: int, cwd: str
) -> None:
    enricher = Enricher(users(tmp_path, ""), host.files())
    event = enricher.exec_event(fixed(error=error), "ls", "/usr/bin/ls", "/root", *((), False))
    assert event.cwd == cwd


def test_an_exec_that_happened_has_what_its_standard_descriptors_are(
    tmp_path: Path, host: HostTree
) -> None:
    enricher = Enricher(users(tmp_path, ""), host.files())
    words = {"standard_input": 12 << 60 | 77, "standard_output": 3 << 60 | 78, "standard_error": 0}
    made = [
        enricher.exec_event(fixed(error=error, **words), "ls", "/usr/bin/ls", "/", *((), False))
        for error in (0, 2)
    ]
    assert [event.stdio for event in made] == [("socket:[77]", "pipe:[78]", ""), ()]


@pytest.mark.parametrize(
    "other",
    [
        {"marks": 0},
        {"exe_device": 5},
        {"exe_inode": 5},
        {"exe_uid": 1000},
        {"exe_mode": stat.S_IFREG | 0o777},
    ],
)
def test_an_executable_of_a_container_a_mount_or_a_user_is_not_the_systems(
    tmp_path: Path, host: HostTree, other: dict[str, int]
) -> None:
    enricher = Enricher(users(tmp_path, ""), host.files())
    event = enricher.exec_event(its(host, **other), "ls", "/usr/bin/ls", "/", *((), True))
    assert not event.system_exe


def test_a_connect_event_has_its_users_name(tmp_path: Path, host: HostTree) -> None:
    enricher = Enricher(users(tmp_path, "ann:x:1000:\n"), host.files())
    event = enricher.connect_event(
        1, 2, 3, 1000, "nc", 2, "203.0.113.7", 80, "", 115, "1.2.3.4:5", 77
    )
    assert (event.user, event.uid, event.pid, event.start_ns) == ("ann", 1000, 2, 3)
    assert (event.dest_ip, event.dest_port, event.path, event.error) == ("203.0.113.7", 80, "", 115)
    assert (event.claimed, event.socket) == ("1.2.3.4:5", 77)
