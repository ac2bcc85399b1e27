"""The stack's key for agents of its machine: only what root trusts is believed."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import nkeys
import pytest
from structlog.testing import capture_logs

from transport import local_key
from transport.local_key import find, publish

URL = "nats://127.0.0.1:4321"
OTHER = os.getuid() + 4242


def new_seed() -> str:
    return bytes(nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER)).decode()


SEED = new_seed()


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ``/run`` of one's own."""
    folder = tmp_path / "run" / "lavender-stack"
    folder.parent.mkdir(mode=0o755)
    monkeypatch.setattr(local_key, "RUN", folder)
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.delenv("SUDO_UID", raising=False)
    return folder


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="root's folder")


def refused(url: str = URL) -> str:
    """Why the key that lies there is not used."""
    with capture_logs() as logs:
        assert find(url) is None
    return " ".join(str(each["why"]) for each in logs)


@needs_root
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.8.0.1"])
def test_an_agent_finds_the_key_of_the_stack_on_its_port(run: Path, host: str) -> None:
    path = publish(4321, SEED)
    assert path == run / "4321.seed"
    assert (path.stat().st_mode & 0o777, run.stat().st_mode & 0o777) == (0o600, 0o700)
    found = find(f"nats://{host}:4321")
    assert found is not None
    assert found.seed == SEED
    assert find(f"nats://{host}:4322") is None
    publish(4222, SEED)
    assert find(f"nats://{host}") is not None
    again = new_seed()
    publish(4321, again)
    found = find(URL)
    assert found is not None
    assert found.seed == again
    assert sorted(each.name for each in run.iterdir()) == ["4222.seed", "4321.seed"]


@needs_root
@pytest.mark.parametrize("host", ["broker.example.org", "198.51.100.7", "10.0.0.1"])
def test_a_broker_on_another_machine_is_not_given_it(host: str) -> None:
    publish(4321, SEED)
    assert find(f"nats://{host}:4321") is None


@needs_root
def test_what_root_gave_to_the_stack_s_account_is_believed(run: Path) -> None:
    path = publish(4321, SEED)
    for each in (path, run):
        os.chown(each, OTHER, OTHER)
    assert find(URL) is not None


@needs_root
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o707])
def test_a_folder_that_others_can_write_is_not_believed(run: Path, mode: int) -> None:
    publish(4321, SEED)
    run.chmod(mode)
    assert "others than user 0 may write there" in refused()
    run.chmod(0o700)
    run.parent.chmod(mode)
    assert "others than root may write there" in refused()


@needs_root
def test_a_folder_that_lies_in_another_s_is_not_believed(run: Path) -> None:
    publish(4321, SEED)
    os.chown(run.parent, OTHER, OTHER)
    assert "others than root may write there" in refused()


@needs_root
def test_a_file_that_is_not_the_owner_s_alone_is_not_believed(run: Path) -> None:
    path = publish(4321, SEED)
    path.chmod(0o640)
    assert "is not a file of user 0 alone" in refused()
    path.chmod(0o600)
    os.chown(path, OTHER, OTHER)
    assert "is not a file of user 0 alone" in refused()
    os.chown(path, 0, 0)
    (run / "other").hardlink_to(path)
    assert "is not a file of user 0 alone" in refused()
    path.unlink()
    path.symlink_to(run / "other")
    assert "symbolic" in refused()
    path.unlink()
    os.mkfifo(path, 0o600)
    assert "is not a file of user 0 alone" in refused()
    path.unlink()
    path.write_text("SUNONSENSE")
    path.chmod(0o600)
    assert "holds no user's nkey seed" in refused()
    assert "NONSENSE" not in refused()


@needs_root
def test_the_key_of_an_ordinary_user_s_stack_is_found_by_that_user_s_sudo_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    homes = {OTHER: home, OTHER + 1: tmp_path / "else"}
    monkeypatch.setattr(local_key, "_home", lambda uid: homes[uid])
    home.mkdir()
    os.chown(home, OTHER, OTHER)
    monkeypatch.setattr(os, "geteuid", lambda: OTHER)
    folder = home / ".local" / "state" / "lavender-stack"
    folder.mkdir(parents=True, mode=0o700)
    os.chown(folder, OTHER, OTHER)
    path = publish(4321, SEED)
    assert path.parent == folder
    os.chown(path, OTHER, OTHER)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert find(URL) is None
    monkeypatch.setenv("SUDO_UID", str(OTHER + 1))
    assert find(URL) is None
    monkeypatch.setenv("SUDO_UID", str(OTHER))
    found = find(URL)
    assert found is not None
    assert found.seed == SEED
    os.chown(folder, OTHER + 1, OTHER + 1)
    assert f"others than user {OTHER} may write there" in refused()


def test_where_nothing_was_published_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", "none")
    assert find(URL) is None
    assert refused() == ""
