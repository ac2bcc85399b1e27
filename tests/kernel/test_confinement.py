"""The agent's process taken over after its start: what code in it can still do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from actors.agent import landlock
from tests.kernel.endpoint import ROOT, Endpoint, endpoint
from tests.kernel.taken_over import SAID
from tests.kernel.workload import NOBODY
from transport.server import EmbeddedServer

TAKEN_OVER = ("-m", "tests.kernel.taken_over")
REFUSED = {"EPERM", "EACCES"}
FOREVER = """
import ctypes, sys
text = ctypes.create_string_buffer(b"whole")
print(ctypes.addressof(text), flush=True)
sys.stdin.read()
print(text.value.decode(), flush=True)
"""


class Victim:
    """A process of a user, which says in the end whether its memory is as it was."""

    def __init__(self, user: int) -> None:
        self.process = subprocess.Popen(
            ["/usr/bin/python3", "-c", FOREVER],
            user=user,
            group=user,
            extra_groups=(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.address = int(self.process.stdout.readline())

    @property
    def pid(self) -> int:
        return self.process.pid

    def end(self) -> str:
        said, _ = self.process.communicate("")
        return said.strip()


@pytest.fixture
def victims() -> Iterator[list[Victim]]:
    made = [Victim(NOBODY), Victim(0), Victim(NOBODY - 1)]
    yield made
    for each in made:
        if each.process.poll() is None:
            each.end()


@pytest.fixture
def listening() -> Iterator[list[socket.socket]]:
    """Two servers: the broker's place, and another."""
    with ExitStack() as opened:
        yield [
            opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
            for _ in range(2)
        ]


def tried(orders: list[list[Any]], spool: Path, port: int, **more: Any) -> dict[str, list[str]]:
    settings: dict[str, Any] = {
        "LAVENDER_PUBLISH__ENABLED": "true",
        "LAVENDER_PUBLISH__SPOOL": str(spool),
        "LAVENDER_AGENT__NATS_URL": f"nats://127.0.0.1:{port}",
        "LAVENDER_AGENT__HEARTBEAT_INTERVAL_SECS": "0.5",
        "TAKEN_OVER": json.dumps(orders),
        **more,
    }
    with endpoint(program=TAKEN_OVER, **settings) as agent:
        results = said_by(agent)
        assert agent.stop() == 0
    return results


def said_by(agent: Endpoint) -> dict[str, list[str]]:
    found: dict[str, list[str]] = agent.wait_for(
        lambda: next((each["results"] for each in agent.logs if each["event"] == SAID), None)
    )
    return found


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to("/tmp/") and folder.stat().st_uid == os.getuid():
            folder.chmod(folder.stat().st_mode | 0o011)
    return tmp_path / "spool"


def test_code_in_it_runs_nothing_and_makes_nothing_that_it_does_not_need(
    spool: Path, listening: list[socket.socket]
) -> None:
    names = (
        *("bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "keyctl", "add_key"),
        *("mount", "unshare", "setns", "memfd_create", "process_madvise", "pidfd_getfd"),
        *("clone_of_a_process", "prctl_dumpable", "personality", "setuid", "chroot"),
        *("kexec_load", "another_filter", "map_to_write_and_run", "make_runnable"),
    )
    orders: list[list[Any]] = [[name] for name in names]
    orders += [["run", "/bin/true"], ["run_in_a_child", "x"], ["run_from_memory", "x"]]
    results = tried(orders, spool, listening[0].getsockname()[1])
    assert {key: value for key, value in results.items() if value != ["EPERM", "EPERM"]} == {}
    assert len(results) == len(orders)


def test_code_in_it_leaves_other_processes_alone(
    spool: Path, listening: list[socket.socket], victims: list[Victim]
) -> None:
    orders: list[list[Any]] = []
    for victim in victims:
        acts = ("write_into", "read_from", "write_memory_file", "read_memory_file")
        orders += [[act, victim.pid, victim.address] for act in acts]
        orders += [[act, victim.pid] for act in ("attach_to", "signal_to", "pidfd_signal_to")]
        orders.append(["limit", victim.pid])
    results = tried(orders, spool, listening[0].getsockname()[1])
    assert [each.end() for each in victims] == ["whole"] * len(victims)
    expected = {} if landlock.version() else {"memory_file"}
    done = {
        key: value
        for key, value in results.items()
        if not set(value) <= REFUSED and not any(each in key for each in expected)
    }
    assert done == {}


def test_code_in_it_reads_no_other_user_s_file_and_writes_none(
    spool: Path, listening: list[socket.socket], tmp_path: Path
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    own.chmod(0o755)
    places = {}
    for name, user, mode in (
        ("root", 0, 0o600),
        ("user", NOBODY - 1, 0o600),
        ("readable", NOBODY - 1, 0o644),
        ("same", NOBODY, 0o600),
    ):
        path = places[name] = own / name
        path.write_text("secret")
        path.chmod(mode)
        os.chown(path, user, user)
    writable = tmp_path / "writable"
    writable.mkdir()
    writable.chmod(0o1777)
    orders: list[list[Any]] = [
        *(["read", path] for path in ("/etc/shadow", "/root/.ssh/id_rsa", "/root/.bashrc")),
        *(["read", str(path)] for path in places.values()),
        *(["write", str(path)] for path in places.values()),
        ["write", str(writable / "new")],
        ["write", "/tmp/lavender-taken-over"],
        ["write", "/dev/shm/lavender-taken-over"],
        ["read", "/proc/1/environ"],
        ["read", "/proc/1/mem"],
        ["read", "/etc/passwd"],
    ]
    results = tried(orders, spool, listening[0].getsockname()[1])
    assert results.pop("read /etc/passwd") == ["done", "done"]
    if not landlock.version():  # then what the agent's user may do, its code may do
        for key in (f"read {places['readable']}", f"read {places['same']}"):
            results.pop(key)
        for key in [key for key in results if key.startswith("write")]:
            results.pop(key)
    done = {key: value for key, value in results.items() if not set(value) <= REFUSED}
    assert done == {}


def test_code_in_it_reaches_its_broker_s_port_and_nothing_else(
    spool: Path, listening: list[socket.socket], tmp_path: Path
) -> None:
    broker, other = (each.getsockname()[1] for each in listening)
    with socket.socket(socket.AF_UNIX) as unix:
        path = str(tmp_path / "unix")
        unix.bind(path)
        os.chmod(path, 0o777)  # noqa: PTH101, S103 - open to all
        unix.listen()
        orders: list[list[Any]] = [
            ["connect", "127.0.0.1", broker],
            ["connect", "127.0.0.1", other],
            ["connect_fast", "127.0.0.1", other],
            ["connect_by_mptcp", "127.0.0.1", other],
            ["send_datagram", "127.0.0.1", other],
            ["connect_unix", path],
            ["listen", "127.0.0.1"],
            *(
                ["make_socket", family, kind]
                for family, kind in ((2, 3), (16, 3), (17, 3), (40, 1), (38, 5), (1, 2))
            ),
        ]
        results = tried(orders, spool, broker)
    assert results.pop(f"connect 127.0.0.1 {broker}") == ["done", "done"]
    if landlock.version() < 4:
        results.pop(f"connect 127.0.0.1 {other}")
        results.pop("listen 127.0.0.1")
    done = {key: value for key, value in results.items() if not set(value) <= REFUSED}
    assert done == {}


def test_code_in_it_sends_udp_only_where_the_broker_has_a_name(
    spool: Path, listening: list[socket.socket]
) -> None:
    port = listening[0].getsockname()[1]
    results = tried(
        [["send_datagram", "127.0.0.1", port], ["connect", "127.0.0.1", port + 1]],
        spool,
        port,
        LAVENDER_AGENT__NATS_URL=f"nats://broker.example.invalid:{port}",
    )
    assert results[f"send_datagram 127.0.0.1 {port}"] == ["done", "done"]
    if landlock.version() >= 4:
        assert set(results[f"connect 127.0.0.1 {port + 1}"]) <= REFUSED


def test_where_it_may_kill_it_can_send_no_other_signal(
    spool: Path, listening: list[socket.socket], victims: list[Victim]
) -> None:
    orders = [[act, victim.pid] for act in ("signal_to", "pidfd_signal_to") for victim in victims]
    results = tried(
        orders,
        spool,
        listening[0].getsockname()[1],
        LAVENDER_RESPONSE__DRY_RUN="false",
        LAVENDER_RESPONSE__KILL_THRESHOLD="10000",
    )
    assert {each for value in results.values() for each in value} == {"EPERM"}


def test_what_holds_it_is_said(spool: Path, listening: list[socket.socket]) -> None:
    with endpoint(LAVENDER_AGENT__HEARTBEAT_INTERVAL_SECS="0.5") as agent:
        status = agent.wait_for(lambda: next(iter(agent.statuses), None))
        assert status["confinement"] == {"landlock": landlock.version(), "seccomp": True}
        assert agent.stop() == 0


CRASHING = """
import sys
from actors.detection.engine import Engine
from actors.agent.__main__ import main
true, crashed = Engine.process_batch, []
def process_batch(self, events, **more):
    events = list(events)
    if not crashed and any("crash-the-correlator" in getattr(each, "argv", ()) for each in events):
        crashed.append(True)
        raise RuntimeError("a bug")
    return true(self, events, **more)
Engine.process_batch = process_batch
sys.exit(main(sys.argv[1:]))
"""
RULE = """
id = "{0}"
title = "{0}"
event = "exec"
level = "high"
selections.a = {{ command_line = "{1}" }}
"""
MAKE_CONFIG = ROOT / "docker" / "nats" / "make-config"
AGENT = "acme.web-1"


@pytest.fixture
def guarded(spool: Path) -> Iterator[EmbeddedServer]:
    """A broker with TLS, keys and permissions, to be started."""
    secrets = spool.parent / "secrets"
    subprocess.run([sys.executable, MAKE_CONFIG, secrets, "--agent", AGENT], check=True)
    extra = (secrets / "security.conf").read_text()
    server = EmbeddedServer(spool.parent / "broker", extra=extra)
    yield server
    trio.run(server.stop)


def test_the_work_goes_on(spool: Path, guarded: EmbeddedServer) -> None:
    """Broker lost and back, with TLS; rules changed; the correlator crashed; stopped in order."""
    rules, secrets = spool.parent / "rules", spool.parent / "secrets"
    rules.mkdir()
    rules.chmod(0o755)
    trio.run(guarded.start)
    settings: dict[str, Any] = {
        "LAVENDER_PUBLISH__ENABLED": "true",
        "LAVENDER_PUBLISH__SPOOL": str(spool),
        "LAVENDER_AGENT__NATS_URL": guarded.url.replace("nats://127.0.0.1", "tls://localhost"),
        "LAVENDER_AGENT__TENANT_ID": AGENT.partition(".")[0],
        "LAVENDER_AGENT__AGENT_ID": AGENT.partition(".")[2],
        "LAVENDER_BROKER__TLS_CA_FILE": str(secrets / "ca.crt"),
        "LAVENDER_BROKER__NKEY_SEED_FILE": str(secrets / "agents" / f"{AGENT}.seed"),
        "LAVENDER_RULES__FOLDER": str(rules),
        "LAVENDER_RULES__RELOAD_SECS": "1",
    }
    with endpoint(program=("-c", CRASHING), **settings) as agent:
        said(agent, "broker connected")
        trio.run(guarded.stop)
        said(agent, "broker lost")
        trio.run(guarded.start)
        said(agent, "broker connected", times=2)

        (rules / "own.toml").write_text(RULE.format("own-rule", "/bin/true of-the-test"))
        said(agent, "rules have changed")
        subprocess.run(["/bin/true", "of-the-test"], check=True)
        agent.wait_for(lambda: [each for each in agent.alerts if each["rule_id"] == "own-rule"])

        before = ancestry(agent, "before")
        subprocess.run(["/bin/true", "crash-the-correlator"], check=True)
        agent.wait_for(lambda: "a bug" in str(agent.logs))
        assert ancestry(agent, "after") == before
        assert agent.stop() == 0


def said(agent: Endpoint, event: str, *, times: int = 1) -> None:
    agent.wait_for(
        lambda: len([each for each in agent.logs if each["event"] == event]) >= times,
        within_secs=30,
    )


def ancestry(agent: Endpoint, word: str) -> str:
    """Of a command of ours: how the programs that ran before the agent are called."""
    subprocess.run(["/bin/sh", "-c", f": base64 {word}-of-the-test"], check=True)
    alert = agent.wait_for(
        lambda: next(
            (each for each in list(agent.alerts) if f"{word}-of-the-test" in each["detail"]), None
        )
    )
    return str(alert["ancestry"])
