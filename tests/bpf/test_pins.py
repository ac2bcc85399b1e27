import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpf import pins

tokens = st.text(min_size=1, max_size=64)


@given(token=tokens)
def test_a_folder_has_a_name_that_bpffs_takes(token: str) -> None:
    name = pins.folder_name(token.encode("utf-8", "replace").decode())
    assert re.fullmatch(r"[\w~%-]+", name, re.ASCII)
    assert len(name) <= 255


@given(one=tokens, other=tokens)
def test_two_agents_never_share_a_folder(one: str, other: str) -> None:
    one, other = (text.encode("utf-8", "replace").decode() for text in (one, other))
    assert (pins.folder_name(one) == pins.folder_name(other)) == (one == other)


@pytest.mark.parametrize(
    ("agent_id", "name"),
    [
        ("dev-agent-1", "dev-agent-1"),
        ("a/b", "a%2Fb"),
        ("..", "%2E%2E"),
        ("%2E%2E", "%252E%252E"),
        ("é" * 3, "%C3%A9" * 3),
    ],
)
def test_what_would_be_another_path_is_encoded(agent_id: str, name: str) -> None:
    assert pins.folder_name(agent_id) == name


def test_a_long_name_is_cut_to_a_digest() -> None:
    assert len(pins.folder_name("é" * 64)) == 65


def test_where_bpffs_is_not_mounted_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pins, "BPFFS", tmp_path)
    with pytest.raises(OSError, match=f"bpffs is not mounted on {tmp_path}"):
        pins.open_bpffs(mount=False)
    assert not pins.any_left()
    assert pins.detach("x") == []


def test_a_folder_goes_with_what_is_in_it_and_its_parent_if_empty(tmp_path: Path) -> None:
    parent = tmp_path / pins.PARENT
    for name in ("a", "b"):
        (parent / name / "dir").mkdir(parents=True)
        (parent / name / "pin").touch()
    for name, left in (("a", True), ("b", False)):
        folder = os.open(parent / name, os.O_RDONLY)
        assert pins.remove(folder) == ["dir", "pin"]
        os.close(folder)
        assert not (parent / name).exists()
        assert parent.exists() == left
