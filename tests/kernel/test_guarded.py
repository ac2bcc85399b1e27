"""Writes to guarded files are delivered and told as shipped; reads of the same files are not."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.endpoint import Endpoint, endpoint

SESSION = ("/usr/sbin/runuser", "-u", "root", "--", "/usr/bin/unshare", "--mount")
SCRIPT = 'mount --bind "$2" /etc && {} "$1"; exit'
WRITES = {"append": "echo x >>", "tee": "tee -a < /dev/null", "touch": "touch"}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with endpoint(record=tmp_path_factory.mktemp("guarded") / "events") as running:
        yield running
        assert running.stop() == 0


@pytest.fixture(scope="module")
def etc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of /etc, which the scripts see in its place: nothing is changed."""
    copy = tmp_path_factory.mktemp("guarded") / "etc"
    subprocess.run(["/usr/bin/cp", "-a", "/etc", copy], check=True)
    (copy / "sudoers.d").mkdir(exist_ok=True)
    (copy / "cron.d").mkdir(exist_ok=True)
    return copy


def play(write: str, file: str, etc: Path) -> None:
    """Write a file in a session and a mount namespace of its own."""
    command = [*SESSION, "/bin/bash", "-c", SCRIPT.format(write), "-", file, str(etc)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize(
    ("folder", "rule"),
    [
        ("/etc/cron.d", "cron-written"),
        ("/etc/sudoers.d", "sudoers-written"),
        ("/etc/pam.d", "pam-written"),
        ("/etc/profile.d", "login-script-written"),
    ],
)
def test_a_write_into_a_guarded_folder_is_told(
    shipped: Endpoint, etc: Path, folder: str, rule: str, write: str
) -> None:
    before = len(shipped.alerts_about(rule_id=rule))
    play(write, f"{folder}/x", etc)
    shipped.settle()
    alerts = shipped.alerts_about(rule_id=rule)
    assert len(alerts) > before
    assert f"{folder}/x" in alerts[-1]["detail"]


@pytest.mark.parametrize("file", ["/etc/passwd", "/etc/group"])
def test_a_write_to_an_account_file_is_told_and_a_read_is_not_even_delivered(
    shipped: Endpoint, etc: Path, file: str
) -> None:
    subprocess.run(["/usr/bin/cat", file], check=True, stdout=subprocess.DEVNULL)
    play("echo x >>", file, etc)
    shipped.settle()
    alerts = shipped.alerts_about(rule_id="account-file-written")
    (alert,) = [alert for alert in alerts if file in alert["detail"]]
    assert alert["level"] == "high"
    opened = [event for event in shipped.seen(type="open") if event["filename"] == file]
    assert opened
    assert all(event["flags"] & 3 for event in opened)
