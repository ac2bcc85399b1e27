"""A real sshd: logins, commands, git and rsync over it are daily work."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.endpoint import Endpoint, endpoint

SSHD = Path("/usr/sbin/sshd")
pytestmark = pytest.mark.skipif(not SSHD.exists(), reason="openssh-server is not installed")

CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/keys
PidFile none
StrictModes no
PermitRootLogin yes
UsePAM yes
"""
WORK = {
    "a command": "{ssh} 'sh -c true; env bash -c :; id | cat' > /dev/null",
    "a login": "echo 'sh -c true; exit' | {ssh} -tt > /dev/null 2>&1",
    "a script": "echo 'sh -c true' | {ssh} bash -s",
    "git": "git init -q {folder}/a && git -C {folder}/a -c user.name=a -c user.email=a@b commit -q"
    " --allow-empty -m x && GIT_SSH_COMMAND='{options}' git clone -q"
    " ssh://root@127.0.0.1:{port}{folder}/a {folder}/b",
    "rsync": "rsync -a -e '{options}' {folder}/host.pub root@127.0.0.1:{folder}/copy",
}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A server that runs before the agent does, and the words that reach it."""
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "key"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(words, check=True)
    (folder / "keys").write_bytes((folder / "key.pub").read_bytes())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "config").write_text(CONFIG.format(port=port, folder=folder))
    Path("/run/sshd").mkdir(exist_ok=True)
    process = subprocess.Popen([SSHD, "-D", "-f", folder / "config"])
    options = f"ssh -p {port} -i {folder}/key -oStrictHostKeyChecking=no -oLogLevel=ERROR"
    options += " -oUserKnownHostsFile=/dev/null -oBatchMode=yes"
    ssh = f"{options} root@127.0.0.1"
    try:
        _wait_for(port)
        yield {"ssh": ssh, "options": options, "port": str(port), "folder": str(folder)}
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("sshd does not listen")


@pytest.fixture(scope="module")
def shipped(words: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with endpoint(record=tmp_path_factory.mktemp("sshd") / "events") as running:
        yield running
        assert running.stop() == 0


@pytest.mark.parametrize("name", WORK)
def test_work_over_ssh_is_nothing(shipped: Endpoint, words: dict[str, str], name: str) -> None:
    if name == "rsync" and shutil.which("rsync") is None:
        pytest.skip("rsync is not installed")
    command = ["/bin/bash", "-c", WORK[name].format(**words)]
    subprocess.run(command, check=True, timeout=60)
    shipped.settle()
    assert not [alert for alert in shipped.alerts if "=>sshd=>" in alert["ancestry"]]


def test_a_command_over_ssh_has_unix_sockets_or_pipes(
    shipped: Endpoint, words: dict[str, str], tmp_path: Path
) -> None:
    """So a network socket is no sign of sshd's."""
    mark = f": {tmp_path}"
    subprocess.run(["/bin/bash", "-c", f"{words['ssh']} '{mark}'"], check=True, timeout=60)
    event = shipped.event(type="exec", exe="/usr/bin/bash", argv=["bash", "-c", mark])
    assert all(each.startswith(("unix:", "pipe:")) for each in event["stdio"])
