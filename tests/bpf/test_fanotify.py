"""Notices as the kernel writes them (fanotify(7)), and real ones."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpf import fanotify
from bpf.fanotify import Group, key_of, parse

FILESYSTEM, HANDLE = b"12345678", b"inode 1!"
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes such a group")


def info(kind: int, handle: bytes, name: bytes = b"") -> bytes:
    tail = handle + (name + b"\0" * (4 - len(name) % 4) if name else b"")
    return struct.pack("<BBH8sIi", kind, 0, 20 + len(tail), FILESYSTEM, len(handle), 1) + tail


def event(mask: int, pid: int, *infos: bytes, version: int = 3) -> bytes:
    raw = b"".join(infos)
    return struct.pack("<IBBHQii", 24 + len(raw), version, 0, 24, mask, -1, pid) + raw


def test_a_notice_names_file_folder_and_name() -> None:
    first = event(fanotify.OPEN, 7, info(2, b"folder", b"shadow"), info(1, HANDLE))
    second = event(fanotify.OVERFLOW, 0)
    opened, overflow = parse(first + second)
    assert (opened.mask, opened.pid, opened.name) == (fanotify.OPEN, 7, b"shadow")
    assert opened.file == FILESYSTEM + struct.pack("<i", 1) + HANDLE
    assert opened.folder.endswith(b"folder")
    assert overflow == (fanotify.OVERFLOW, 0, b"", b"", b"")


def test_another_version_of_the_form_is_refused() -> None:
    with pytest.raises(OSError, match="version 4"):
        list(parse(event(fanotify.OPEN, 7, version=4)))


@given(st.binary(max_size=200))
def test_whatever_the_bytes_parsing_ends(raw: bytes) -> None:
    try:
        found = list(parse(raw))
    except OSError:
        return
    assert len(found) <= len(raw) // 24


@pytest.fixture
def group() -> Group:
    return Group()


@root_only
def test_a_file_is_known_by_its_key_whatever_its_name(tmp_path: Path, group: Group) -> None:
    path, link = tmp_path / "secret", tmp_path / "link"
    path.write_text("x")
    link.hardlink_to(path)
    descriptor = os.open(path, os.O_PATH)
    group.watch_file(descriptor)
    for name in (path, link):
        with subprocess.Popen(["/bin/cat", name], stdout=subprocess.DEVNULL) as reader:
            reader.wait()
        (notice,) = group.read(4096)
        assert (notice.pid, notice.name) == (reader.pid, os.fsencode(name.name))
        assert notice.file == key_of(descriptor)
    assert not list(group.read(4096))
    os.close(descriptor)
    group.close()


@root_only
def test_a_folder_tells_of_its_files_but_those_passed_over(tmp_path: Path, group: Group) -> None:
    folder = os.open(tmp_path, os.O_PATH)
    group.watch_folder(folder)
    (tmp_path / "new").write_text("x")
    made, *opened = group.read(4096)
    assert made.mask & fanotify.CREATE
    assert {each.mask for each in (made, *opened)} <= {
        fanotify.CREATE,
        fanotify.OPEN,
        fanotify.CREATE | fanotify.OPEN,
    }
    assert made.folder == key_of(folder)
    group.ignore(folder, b"new")
    (tmp_path / "new").read_text()
    assert not list(group.read(4096))
    os.close(folder)
    group.close()
