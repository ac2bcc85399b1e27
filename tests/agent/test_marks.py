"""Which files get marks: those of the list that are there, and in a home only its owner's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.agent import marks as module
from actors.agent.marks import Marks, find, homes, set_marks
from tests.agent.cast import ROOT

NOBODY = 65534
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root sets marks")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host's files: one home, of nobody."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(
        "nobody:x:65534:65534::/home/a:/bin/sh\nsys:x:3:3:sys:/:\nbad\ngone:x:9:9::/home/gone:\n"
    )
    (tmp_path / "etc/shadow").write_text("x")
    (tmp_path / "home/a/.ssh").mkdir(parents=True)
    for name in ("id_rsa", "id_work", "config"):
        (tmp_path / "home/a/.ssh" / name).write_text("x")
    for path in (tmp_path / "home/a", *(tmp_path / "home/a").rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    return tmp_path


def marked(root: Path, *entries: str) -> Iterator[str]:
    found = set_marks(entries, root=str(root))
    assert not found.why
    for path in (*found.files.values(), *found.folders.values()):
        yield path.removeprefix(str(root))
    found.close()


def test_a_file_and_its_folder_are_marked(root: Path) -> None:
    assert list(marked(root, "/etc/shadow")) == ["/etc/shadow", "/etc"]


def test_every_home_is_looked_through(root: Path) -> None:
    assert sorted(marked(root, "/.ssh/id_*")) == [
        *("/home/a/.ssh", "/home/a/.ssh/id_rsa", "/home/a/.ssh/id_work"),
    ]


def test_a_listed_folder_is_marked_with_what_is_in_it(root: Path) -> None:
    assert len(list(marked(root, "/.ssh"))) == 4


def test_a_folder_is_marked_for_the_file_that_may_come(root: Path) -> None:
    assert list(marked(root, "/.ssh/id_none")) == ["/home/a/.ssh"]


def test_a_home_itself_is_marked_only_for_a_file_that_is_there(root: Path) -> None:
    assert not list(marked(root, "/.netrc"))
    netrc = root / "home/a/.netrc"
    netrc.write_text("x")
    os.chown(netrc, NOBODY, NOBODY)
    assert list(marked(root, "/.netrc")) == ["/home/a/.netrc", "/home/a"]


def test_a_home_does_not_choose_what_is_marked(root: Path) -> None:
    ssh = root / "home/a/.ssh"
    (ssh / "id_link").symlink_to(root / "etc/shadow")
    (ssh / "id_hard").hardlink_to(root / "etc/shadow")
    os.mkfifo(ssh / "id_pipe")
    (root / "home/a/.aws").symlink_to(root / "etc")
    found = list(marked(root, "/.ssh/id_*", "/.aws/shadow"))
    assert sorted(found) == ["/home/a/.ssh", "/home/a/.ssh/id_rsa", "/home/a/.ssh/id_work"]


def test_a_link_within_a_home_is_followed(root: Path) -> None:
    (root / "home/a/.ssh").rename(root / "home/a/dotfiles")
    (root / "home/a/.ssh").symlink_to("dotfiles")
    assert "/home/a/dotfiles/id_rsa" in marked(root, "/.ssh/id_rsa")


def test_marks_are_bounded_and_counted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MARKS_MAX", 2)
    found = set_marks(["/.ssh"], root=str(root))
    assert (len(found), found.left_out) == (2, 2)
    found.close()


def test_homes_are_those_that_are_there(root: Path) -> None:
    assert homes(str(root)) == {f"{root}/home/a": NOBODY}
    assert not homes(f"{root}/nowhere")


def test_the_hosts_files_are_reached_from_another_mount_namespace(root: Path) -> None:
    code = (
        "import sys; from actors.agent.marks import set_marks;"
        "found = set_marks(['/etc/shadow'], root=sys.argv[1]);"
        "print(*found.files.values(), *found.folders.values())"
    )
    hide = 'mount -t tmpfs none "$1" && shift && exec "$@"'
    words = ["unshare", "-m", "sh", "-c", hide, "sh", str(root)]
    words += [sys.executable, "-c", code, f"/proc/{os.getpid()}/root{root}"]
    done = subprocess.run(words, check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == [f"{root}/etc/shadow", f"{root}/etc"]


def test_globs_are_of_one_component(root: Path) -> None:
    assert list(find(str(root), ("home", "*", ".ssh", "conf??"))) == [f"{root}/home/a/.ssh/config"]
    assert not list(find(str(root), ("*", "id_rsa")))
    assert isinstance(set_marks([], root=str(root)), Marks)
