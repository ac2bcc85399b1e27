"""Opened files: named by the file the kernel opened, whatever the caller wrote."""

from __future__ import annotations

import os
import pwd
import sys
import uuid
from errno import EACCES
from pathlib import Path

import pytest

from tests.kernel.endpoint import Endpoint
from tests.kernel.workload import NOBODY, python, run

READ = "T1003 [Sensitive file read]"


@pytest.mark.parametrize("call", ["open", "openat", "openat2", "many"])
def test_every_call_that_opens_is_seen(
    watched: Endpoint, calls: Path, secret: Path, call: str
) -> None:
    pid, code = run(calls, call, secret)
    assert code == 0
    event = watched.event(type="open", pid=pid, filename=str(secret))
    assert event["resolved"] is True
    assert event["flags"] & 3 == os.O_RDONLY
    assert event["error"] == 0
    alert = watched.alert(READ, pid)
    assert str(secret) in alert["detail"]


def test_creat_is_an_open_for_writing(watched: Endpoint, calls: Path, secret: Path) -> None:
    pid, code = run(calls, "creat", secret)
    assert code == 0
    event = watched.event(type="open", pid=pid, filename=str(secret))
    assert event["flags"] == os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    assert READ not in watched.rules_of(pid)


@pytest.mark.parametrize(
    "path",
    [".ssh/id_rsa", "./.ssh//id_rsa", "../home/.ssh/../.ssh/id_rsa", "/proc/self/cwd/.ssh/id_rsa"],
)
def test_a_roundabout_path_hides_nothing(
    watched: Endpoint, calls: Path, secret: Path, path: str
) -> None:
    pid, code = run(calls, "openat", path, cwd=secret.parent.parent)
    assert code == 0
    assert str(secret) in watched.alert(READ, pid)["detail"]


def test_a_directory_descriptor_hides_nothing(watched: Endpoint, calls: Path, secret: Path) -> None:
    pid, code = run(calls, "dirfd", secret.parent, secret.name)
    assert code == 0
    assert str(secret) in watched.alert(READ, pid)["detail"]


def test_links_hide_nothing(watched: Endpoint, calls: Path, secret: Path, tmp_path: Path) -> None:
    (tmp_path / "innocent").symlink_to(secret)
    (tmp_path / "folder").symlink_to(secret.parent)
    for path in (tmp_path / "innocent", tmp_path / "folder" / "id_rsa"):
        pid, code = run(calls, "openat", path)
        assert code == 0
        assert str(secret) in watched.alert(READ, pid)["detail"]


def test_a_bind_mount_of_the_folder_hides_nothing(
    watched: Endpoint, calls: Path, secret: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    script = 'mount --bind "$1" "$2" && exec "$3" openat "$2/id_rsa"'
    pid, code = run(
        *("unshare", "--mount", "/bin/sh", "-c", script, "sh"),
        *(secret.parent, tmp_path / "elsewhere", calls),
    )
    assert code == 0
    assert str(secret) in watched.alert(READ, pid)["detail"]
    event = watched.event(type="open", pid=pid, origin=str(secret))
    assert event["filename"] == str(tmp_path / "elsewhere" / "id_rsa")


def test_a_bind_mount_of_the_file_hides_nothing(
    watched: Endpoint, calls: Path, secret: Path, tmp_path: Path
) -> None:
    target = tmp_path / "innocent"
    target.touch()
    script = 'mount --bind "$1" "$2" && exec "$3" openat "$2"'
    pid, code = run("unshare", "--mount", "/bin/sh", "-c", script, "sh", secret, target, calls)
    assert code == 0
    assert watched.alert(READ, pid)


def test_a_bind_mount_as_root_hides_nothing(
    watched: Endpoint, calls: Path, secret: Path, tmp_path: Path
) -> None:
    target = tmp_path / "root"
    target.mkdir()
    code = (
        "import os,sys,subprocess as s; folder,root=sys.argv[1:]; "
        "s.run(['/bin/mount','--bind',folder,root],check=True); os.chdir(root); os.chroot('.'); "
        "os.open('/id_rsa', os.O_RDONLY)"
    )
    words = ("/usr/bin/unshare", "--mount", sys.executable, "-S", "-E", "-c", code)
    pid, exited = run(*words, secret.parent, target)
    assert exited == 0
    assert str(secret) in watched.alert(READ, pid)["detail"]


def test_a_long_bind_mount_hides_nothing(
    watched: Endpoint, calls: Path, secret: Path, tmp_path: Path
) -> None:
    target = tmp_path.joinpath(*("d" * 200 for _ in range(18)))
    target.mkdir(parents=True)
    script = 'mount --bind "$1" "$2" && exec "$3" openat "$2/id_rsa"'
    words = ("/usr/bin/unshare", "--mount", "/bin/sh", "-c", script, "sh")
    pid, code = run(*words, secret.parent, target, calls)
    assert code == 0
    assert str(secret) in watched.alert(READ, pid)["detail"]


def test_a_chroot_hides_nothing(watched: Endpoint, secret: Path) -> None:
    code = "import os,sys; os.chroot(sys.argv[1]); os.open('/.ssh/id_rsa', os.O_RDONLY)"
    pid, exited = python(code, str(secret.parent.parent))
    assert exited == 0
    assert watched.alert(READ, pid)


def test_a_chroot_into_the_folder_hides_nothing(watched: Endpoint, secret: Path) -> None:
    code = "import os,sys; os.chroot(sys.argv[1]); os.open('/id_rsa', os.O_RDONLY)"
    pid, exited = python(code, str(secret.parent))
    assert exited == 0
    assert str(secret) in watched.alert(READ, pid)["detail"]


def test_a_refused_open_has_its_errno_and_is_no_read(watched: Endpoint, calls: Path) -> None:
    pid, code = run(calls, "openat", "/etc/shadow", user=NOBODY, group=NOBODY, extra_groups=[])
    assert code == 1
    event = watched.event(type="open", pid=pid, filename="/etc/shadow")
    assert event["error"] == EACCES
    assert event["resolved"] is False
    assert event["uid"] == NOBODY
    assert READ not in watched.rules_of(pid)


def test_a_file_that_is_not_there_has_its_errno(watched: Endpoint, calls: Path) -> None:
    name = f"/nowhere/{uuid.uuid4().hex}"
    pid, _ = run(calls, "openat", name)
    assert watched.event(type="open", pid=pid, filename=name)["error"] == 2


@pytest.mark.parametrize("length", [3, 31, 32, 63, 64, 65, 120, 192, 255, 1000, 3000])
def test_paths_of_any_length_are_exact(
    watched: Endpoint, calls: Path, tmp_path: Path, length: int
) -> None:
    folder, left = tmp_path, length
    while left > 255:
        part = min(left - 1, 200)
        folder, left = folder / ("d" * part), left - part - 1
    folder.mkdir(parents=True, exist_ok=True)
    name = "f" * (left - 1) + "é"[:1] if left < 255 else "f" * left
    path = folder / name
    path.touch()
    pid, code = run(calls, "openat", path)
    assert code == 0
    assert watched.event(type="open", pid=pid, filename=str(path))["resolved"] is True


def test_a_path_of_forty_folders_is_exact(watched: Endpoint, calls: Path, tmp_path: Path) -> None:
    depth = 36 - len(tmp_path.parts)
    path = tmp_path.joinpath(*("d" for _ in range(depth)), "leaf")
    path.parent.mkdir(parents=True)
    path.touch()
    pid, _ = run(calls, "openat", path)
    assert watched.event(type="open", pid=pid, filename=str(path))


def test_a_sensitive_file_too_deep_to_name_in_full_is_still_seen(
    watched: Endpoint, calls: Path, tmp_path: Path
) -> None:
    path = tmp_path.joinpath(*("d" for _ in range(60)), ".ssh", "id_rsa")
    path.parent.mkdir(parents=True)
    path.touch()
    pid, code = run(calls, "openat", path)
    assert code == 0
    assert watched.alert(READ, pid)


def test_hostile_names_are_text(watched: Endpoint, calls: Path, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/new\nline\xff\x1b[2J\"'\\"
    with open(path, "wb"):  # noqa: PTH123 - a Path cannot hold these bytes as readably
        pass
    pid, code = run(calls, "openat", path)
    assert code == 0
    expected = f"{tmp_path}/new\nline\\xff\x1b[2J\"'\\"
    assert watched.event(type="open", pid=pid, filename=expected)["resolved"] is True


def test_writing_a_sensitive_file_is_no_read(watched: Endpoint, doer: Path, secret: Path) -> None:
    pid, _ = run(doer, "write", secret)
    assert watched.event(type="open", pid=pid, filename=str(secret))
    assert READ not in watched.rules_of(pid)


def test_what_is_public_in_a_folder_of_keys_is_not_sensitive(
    watched: Endpoint, doer: Path, secret: Path
) -> None:
    for name in ("id_rsa.pub", "known_hosts", "config"):
        (secret.parent / name).touch()
        pid, _ = run(doer, "open", secret.parent / name)
        assert watched.event(type="open", pid=pid, filename=str(secret.parent / name))
        assert READ not in watched.rules_of(pid)


def test_an_open_by_a_thread_is_the_processes(watched: Endpoint, secret: Path) -> None:
    code = (
        "import threading,sys; t=threading.Thread(target=lambda: open(sys.argv[1]).close()); "
        "t.start(); t.join()"
    )
    pid, _ = python(code, str(secret))
    assert watched.alert(READ, pid)


def test_the_user_of_the_event_is_who_opened(
    watched: Endpoint, calls: Path, programs: Path
) -> None:
    path = programs / uuid.uuid4().hex
    path.touch()
    path.chmod(0o644)
    pid, code = run(calls, "openat", path, user=NOBODY, group=NOBODY, extra_groups=[])
    assert code == 0
    event = watched.event(type="open", pid=pid, filename=str(path))
    assert event["uid"] == pwd.getpwuid(NOBODY).pw_uid


def test_the_mode_is_the_open_files_and_not_the_callers_afterthought(
    watched: Endpoint, calls: Path, tmp_path: Path
) -> None:
    for number in range(300):
        (tmp_path / f"file{number}").touch()
    with (tmp_path / "modes").open("w") as output:
        pid, _ = run(calls, "liar", tmp_path / "file", stdout=output)
    true = [int(line) for line in (tmp_path / "modes").read_text().splitlines()]
    watched.settle()
    told = {event["filename"]: event["flags"] & 3 for event in watched.seen(type="open", pid=pid)}
    assert [told[str(tmp_path / f"file{number}")] for number in range(300)] == true
