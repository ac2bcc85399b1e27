import json
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpf import cache, syscalls
from bpf.cache import CacheError, _by_place, _references, _relocated
from bpf.syscalls import MapInfo

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="what is believed must be root's")


def load_map(descriptor: int) -> bytes:
    """The two instructions that load a reference to a map."""
    return struct.pack("<BBhi", 0x18, 0x11, 0, descriptor) + struct.pack("<BBhi", 0, 0, 0, 0)


def load_number(value: int) -> bytes:
    """The two that load a number of 64 bits, whose second half may look like anything."""
    low, high = value & 0xFFFFFFFF, value >> 32
    return struct.pack("<BBhI", 0x18, 1, 0, low) + struct.pack("<BBhI", 0x18, 0x11, 0, high)


other = st.binary(min_size=8, max_size=8).filter(lambda code: code[0] != 0x18)
numbers = st.integers(0, 2**64 - 1).map(load_number)


@given(st.lists(st.one_of(other, numbers, st.integers(3, 9).map(load_map))))
def test_references_are_found_and_changed_and_nothing_else(parts: list[bytes]) -> None:
    code = b"".join(parts)
    places = {descriptor: place for place, descriptor in enumerate(range(3, 10))}
    found = [descriptor for _, descriptor in _references(code)]
    assert found == [
        struct.unpack_from("<i", part, 4)[0]
        for part in parts
        if part[0] == 0x18 and part[1] >> 4 == 1
    ]
    kept = _by_place(code, places)
    assert _relocated(kept, list(range(3, 10))) == code
    moved = _relocated(kept, list(range(100, 107)))
    assert [descriptor for _, descriptor in _references(moved)] == [each + 97 for each in found]


def test_a_reference_to_something_else_is_refused() -> None:
    with pytest.raises(CacheError, match="no map of theirs"):
        _by_place(load_map(7), {3: 0})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file of one map and no functions."""
    monkeypatch.setattr(syscalls, "map_info", lambda _: MapInfo(2, 9, 4, 8, 1))
    cache.save("a key", {"CONTROL": 3}, {"f": load_map(3)}, folder=tmp_path / "cache")
    return tmp_path / "cache"


@needs_root
def test_what_was_saved_is_read_under_its_key_only(folder: Path) -> None:
    saved = cache._read(folder, "a key")
    assert [each["name"] for each in saved["maps"]] == ["CONTROL"]
    with pytest.raises(CacheError, match="another kernel"):
        cache._read(folder, "another key")


@needs_root
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_could_have_written_is_not_believed(folder: Path, mode: int) -> None:
    (folder / "probes.json").chmod(mode)
    with pytest.raises(CacheError, match="not root's alone"):
        cache.load("a key", folder=folder)


@needs_root
def test_a_folder_of_somebody_else_is_not_believed(folder: Path) -> None:
    os.chown(folder, 65534, 65534)
    with pytest.raises(CacheError, match="not root's alone"):
        cache.load("a key", folder=folder)


@needs_root
def test_a_link_is_not_followed(folder: Path) -> None:
    (folder / "probes.json").rename(folder / "real")
    (folder / "probes.json").symlink_to(folder / "real")
    with pytest.raises(CacheError, match="is not there"):
        cache.load("a key", folder=folder)


@needs_root
@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"key": "a key"}',
        '{"key": "a key", "maps": 5, "functions": []}',
        '{"key": "a key", "maps": [{"name": "m", "info": {"what": 1}}], "functions": []}',
        json.dumps({"key": "a key", "maps": [], "functions": [{"name": "f", "code": "!"}]}),
    ],
)
def test_a_damaged_file_is_no_file(folder: Path, text: str) -> None:
    (folder / "probes.json").write_text(text)
    with pytest.raises(CacheError):
        cache.load("a key", folder=folder)


def test_there_may_be_none(tmp_path: Path) -> None:
    with pytest.raises(CacheError):
        cache.load("a key", folder=tmp_path / "nowhere")
