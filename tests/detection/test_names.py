import time

import pytest

from actors.detection.names import NameList
from actors.detection.programs import Program, Programs

PROGRAMS = Programs()


def program(exe: str, *, comm: str = "", filename: str = "", system: bool = True) -> Program:
    return PROGRAMS.get(comm, exe, filename, system=system)


@pytest.mark.parametrize(
    ("entry", "exe", "expected"),
    [
        ("sh", "/usr/bin/sh", True),
        ("sh", "/usr/bin/bash", False),
        ("sh", "/usr/sbin/sshd", False),
        ("python3*", "/usr/bin/python3.11", True),
        ("python3*", "/usr/bin/python2", False),
        ("python?", "/usr/bin/python3", True),
        ("python?", "/usr/bin/python3.11", False),
        ("/usr/bin/python3", "/usr/bin/python3", True),
        ("/usr/bin/python3", "/usr/local/bin/python3", False),
        ("/usr/lib/*", "/usr/lib/git-core/git", True),
        ("*/git", "/usr/lib/git-core/git", True),
        ("[", "/usr/bin/[", True),
        ("[a-z]sh", "/usr/bin/zsh", False),
        ("a*b*c", "/bin/aXbXbc", True),
        ("a*b*c", "/bin/acb", False),
        ("**", "/bin/x", True),
        ("Hyprland", "/usr/bin/hyprland", False),
    ],
)
def test_an_entry_is_a_whole_name_a_glob_or_a_path(entry: str, exe: str, *, expected: bool) -> None:
    names = NameList([entry])
    assert names.detects(program(exe)) is expected
    assert names.trusts(program(exe)) is expected


def test_detecting_believes_any_name() -> None:
    shells = NameList(["bash", "/opt/shell"])
    assert shells.detects(program("/tmp/x", comm="bash", system=False))
    assert shells.detects(program("/usr/bin/dash", filename="/bin/bash"))
    assert shells.detects(program("/tmp/x", filename="/opt/shell", system=False))
    assert shells.detects(program("/tmp/bash", comm="kworker", system=False))
    assert not shells.detects(program("/tmp/x", comm="rebash", system=False))


def test_trusting_believes_only_a_system_executable() -> None:
    readers = NameList(["sh", "/usr/bin/vim"])
    assert readers.trusts(program("/usr/bin/sh"))
    assert not readers.trusts(program("/usr/bin/sh", system=False))
    assert not readers.trusts(program("/usr/bin/evil", comm="sh", filename="/bin/sh"))
    assert readers.trusts(program("/usr/bin/vim"))
    assert not readers.trusts(program("/usr/bin/vim", system=False))


def test_a_python_named_systemd_in_tmp_is_not_trusted() -> None:
    assert not NameList(["systemd"]).trusts(program("/tmp/systemd", comm="systemd", system=False))


def test_a_kernel_thread_is_never_trusted() -> None:
    thread = PROGRAMS.get("kernel", "", system=True)
    assert not NameList(["kernel", "*", "/*"]).trusts(thread)


def test_an_empty_list_matches_nothing() -> None:
    assert not NameList([]).detects(program("/bin/sh", comm="sh"))


def test_a_hostile_name_cannot_make_a_glob_slow() -> None:
    names = NameList(["*a" * 60 + "b", "*/" + "a*" * 60 + "/x"])
    started = time.perf_counter()
    assert not names.detects(program("/" + "a" * 4000, comm="a" * 15))
    assert time.perf_counter() - started < 1


def test_caches_are_bounded_and_change_nothing() -> None:
    names = NameList(["p1*"])
    programs = Programs()
    for number in range(20_000):
        candidate = programs.get("", f"/bin/p{number}", system=True)
        assert names.trusts(candidate) is str(number).startswith("1")
        assert names.detects(candidate) is str(number).startswith("1")
