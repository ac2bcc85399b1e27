import pytest

from actors.detection.events import OpenEvent
from actors.detection.names import NameList, split_purpose
from actors.detection.programs import Program, Programs
from actors.detection.purposes import Purposes

LIST = (
    *("sudo", "passwd,chage:/etc/shadow,/etc/gshadow", "ssh*:/.ssh", "bash:/.bash_history"),
    *("/usr/sbin/adduser:/etc/shadow", "systemctl:/etc/systemd/*"),
)
SHADOW, KEY = "/etc/shadow", "/home/a/.ssh/id_ed25519"


def program(exe: str, *, filename: str = "", system: bool = True) -> Program:
    return Programs().get("x", exe, filename or exe, system=system)


def opening(path: str, *, origin: str = "", resolved: bool = True) -> OpenEvent:
    return OpenEvent(1, 2, 3, 0, "x", path, resolved, 0, 0, origin)


@pytest.mark.parametrize(
    ("exe", "path", "may"),
    [
        ("/usr/bin/sudo", SHADOW, True),
        ("/usr/bin/sudo", KEY, True),
        ("/usr/bin/passwd", SHADOW, True),
        ("/usr/bin/chage", "/etc/gshadow", True),
        ("/usr/bin/passwd", KEY, False),
        ("/usr/bin/passwd", "/etc/shadow2", False),
        ("/usr/bin/ssh-keygen", KEY, True),
        ("/usr/bin/ssh", "/root/.ssh/config", True),
        ("/usr/bin/ssh", SHADOW, False),
        ("/usr/bin/bash", "/home/a/.bash_history", True),
        ("/usr/bin/bash", SHADOW, False),
        ("/usr/bin/systemctl", "/etc/systemd/system.conf", True),
        ("/usr/bin/cat", SHADOW, False),
    ],
)
def test_a_program_is_trusted_with_its_own_files(exe: str, path: str, *, may: bool) -> None:
    assert Purposes(LIST).trusts(program(exe), opening(path)) is may


def test_a_program_from_elsewhere_is_trusted_with_nothing() -> None:
    assert not Purposes(LIST).trusts(program("/tmp/passwd", system=False), opening(SHADOW))


def test_a_file_that_a_mount_shows_elsewhere_must_be_allowed_under_both_names() -> None:
    purposes, bash = Purposes(LIST), program("/usr/bin/bash")
    history = "/home/a/.bash_history"
    assert not purposes.trusts(bash, opening(history, origin=SHADOW))
    assert purposes.trusts(bash, opening(history, origin="/a/.bash_history"))


def test_a_failed_open_is_judged_by_the_caller_s_text() -> None:
    passwd = program("/usr/bin/passwd")
    assert Purposes(LIST).trusts(passwd, opening("/etc/../etc/shadow", resolved=False))


@pytest.mark.parametrize(
    ("filename", "may"),
    [
        ("/usr/sbin/adduser", True),
        ("/sbin/adduser", True),
        ("/tmp/adduser", False),
        ("adduser", False),
        ("/usr/bin/perl", False),
    ],
)
def test_a_script_is_trusted_where_the_kernel_was_given_it(filename: str, *, may: bool) -> None:
    perl = program("/usr/bin/perl", filename=filename)
    assert Purposes(LIST).trusts(perl, opening(SHADOW)) is may
    assert not Purposes(LIST).trusts(perl, opening(KEY))


def test_without_a_file_an_entry_with_files_says_nothing() -> None:
    assert not NameList(LIST).trusts(program("/usr/bin/passwd"))
    assert NameList(LIST).trusts(program("/usr/bin/sudo"))


def test_an_entry_is_programs_and_files() -> None:
    assert split_purpose("a,b*:/x,/y/z") == (("a", "b*"), ("/x", "/y/z"))
    assert split_purpose("/usr/sbin/adduser:/etc/shadow") == (
        ("/usr/sbin/adduser",),
        ("/etc/shadow",),
    )
    assert split_purpose("/usr/bin/x") == (("/usr/bin/x",), ())
