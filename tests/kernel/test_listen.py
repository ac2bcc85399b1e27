"""Sockets that begin to listen: where, and by which process."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernel.endpoint import Endpoint
from tests.kernel.test_unseen import ROUNDABOUT
from tests.kernel.workload import python, run

SERVER = (
    "import os, socket, sys; s = socket.socket(getattr(socket, sys.argv[1]), socket.SOCK_STREAM,"
    " int(sys.argv[3])); s.bind((sys.argv[2], 0)); s.listen(); s.listen();"
    " open(sys.argv[4], 'w').write(f'{s.getsockname()[1]} {os.fstat(s.fileno()).st_ino}')"
)
MPTCP = 262


@pytest.mark.parametrize("protocol", [0, MPTCP], ids=["tcp", "mptcp"])
@pytest.mark.parametrize(
    ("family", "address"),
    [("AF_INET", "127.0.0.1"), ("AF_INET", "0.0.0.0"), ("AF_INET6", "::")],  # noqa: S104 - any
)
def test_a_listening_socket_is_an_event(
    watched: Endpoint, tmp_path: Path, family: str, address: str, protocol: int
) -> None:
    told = tmp_path / "told"
    pid, code = python(SERVER, family, address, str(protocol), str(told))
    if code and protocol == MPTCP:
        pytest.skip("this kernel has no MPTCP")
    assert code == 0
    port, number = map(int, told.read_text().split())
    event = watched.event(type="listen", pid=pid)
    assert (event["ip"], event["port"], event["socket"]) == (address, port, number)
    assert event["af"] == getattr(socket, family)
    assert event["user"] == "root"
    assert event["comm"].startswith("python")
    watched.settle()
    assert len(watched.seen(type="listen", pid=pid)) == 1


def test_a_connection_names_its_socket(watched: Endpoint, tmp_path: Path) -> None:
    told = tmp_path / "told"
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = (
            "import os, socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1])));"
            " open(sys.argv[2], 'w').write(str(os.fstat(s.fileno()).st_ino))"
        )
        pid, _ = python(code, str(server.getsockname()[1]), str(told))
    assert watched.event(type="connect", pid=pid)["socket"] == int(told.read_text())


def test_a_socket_that_listens_by_a_32_bit_call_is_seen(
    watched: Endpoint, build: Callable[[str], Path]
) -> None:
    pid, code = run(build(ROUNDABOUT), "listen", "0")
    assert code == 0
    event = watched.event(type="listen", pid=pid)
    assert event["port"] == 0, "it was not bound: the kernel chooses a port afterwards"
