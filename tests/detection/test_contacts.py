"""What is silent by sum: every event of a reverse or bind shell is seen, and together they tell."""

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.detection import snapshots
from actors.detection.alerts import Alert
from actors.detection.events import Identity
from actors.detection.testing import Host

FILTERS = tomllib.loads((Path(__file__).parents[2] / "lavender.toml").read_text())["filters"]
DASH, BASH, ENV = "/usr/bin/dash", "/usr/bin/bash", "/usr/bin/env"
PYTHON, PERL, NODE = "/usr/bin/python3.11", "/usr/bin/perl", "/usr/bin/node"
SOCKET = ("socket:[7]", "socket:[7]", "socket:[7]")
UNIX = ("unix:[7]", "unix:[7]", "unix:[8]")
PTY = ("tty", "tty", "tty")
PIPES = ("pipe:[3]", "pipe:[4]", "pipe:[4]")

Scene = Callable[[Host], list[Alert]]


def shipped() -> Host:
    return Host(**FILTERS)


def high(alerts: list[Alert]) -> set[str]:
    return {alert.rule_id for alert in alerts if alert.level in {"high", "critical"}}


def by_a_file(exe: str, stdio: tuple[str, ...], *words: str) -> Scene:
    """A script in a home, run from a login shell, that starts a shell once it has connected."""

    def scene(host: Host) -> list[Alert]:
        script, _ = host.run(host.bash, exe, "/home/a/x")
        host.connect(script)
        return host.run(script, DASH, *(words or ("-i",)), filename="/bin/sh", stdio=stdio)[1]

    return scene


def by_a_c_program_and_a_renamed_shell(host: Host) -> list[Alert]:
    program, _ = host.run(host.bash, "/home/a/x", system=False)
    host.connect(program)
    return host.run(program, "/home/a/y", "-i", system=False, stdio=SOCKET)[1]


def by_a_c_program_and_a_renamed_shell_on_a_terminal(host: Host) -> list[Alert]:
    program, _ = host.run(host.bash, "/home/a/x", system=False)
    host.connect(program)
    return host.run(program, "/tmp/y", "-i", system=False, stdio=PTY)[1]


def by_exec_in_the_same_process(host: Host) -> list[Alert]:
    program, _ = host.run(host.bash, "/usr/bin/nc.traditional", "-e", "/bin/sh")
    host.connect(program)
    return host.exec(program, DASH, filename="/bin/sh", stdio=SOCKET)


def by_socat(host: Host) -> list[Alert]:
    program, _ = host.run(host.bash, "/usr/bin/socat")
    host.connect(program)
    return host.run(program, DASH, filename="/bin/sh", stdio=UNIX)[1]


def bind_shell_through_env(host: Host) -> list[Alert]:
    server, _ = host.run(host.bash, PYTHON, "/home/a/x.py")
    host.listen(server, "0.0.0.0", 4321)  # noqa: S104
    child, alerts = host.run(server, ENV, "sh", stdio=PTY)
    return [*alerts, *host.exec(child, DASH, filename="/bin/sh", stdio=PTY)]


def by_fifo_and_relay(*, cat: bool, listens: bool) -> Scene:
    def scene(host: Host) -> list[Alert]:
        alerts = []
        stdin = "fifo:[3]"
        if cat:
            stdin = "pipe:[3]"
            host.run(host.bash, "/usr/bin/cat", "f", stdio=("tty", stdin, "tty"))
        shell = (stdin, "pipe:[4]", "pipe:[4]")
        alerts += host.run(host.bash, DASH, "-i", filename="/bin/sh", stdio=shell)[1]
        relay, more = host.run(
            host.bash, PYTHON, "/home/a/relay.py", stdio=("pipe:[4]", "fifo:[5]", "tty")
        )
        host.wait(120)
        touch = host.listen if listens else host.connect
        return [*alerts, *more, *touch(relay)]

    return scene


def by_coprocess(host: Host) -> list[Alert]:
    host.run(host.bash, ENV, "sh", stdio=PIPES)
    alerts = host.run(host.bash, DASH, filename="/bin/sh", stdio=PIPES)[1]
    relay, _ = host.run(host.bash, "/usr/bin/openssl", stdio=("pipe:[4]", "pipe:[3]", "tty"))
    return [*alerts, *host.connect(relay)]


def implant(exe: str, *words: str, system: bool) -> Scene:
    def scene(host: Host) -> list[Alert]:
        program, _ = host.run(host.bash, exe, *words, system=system)
        host.connect(program)
        return host.run(program, DASH, "-c", "id", filename="/bin/sh", stdio=PIPES)[1]

    return scene


@pytest.mark.parametrize(
    "scene",
    [
        *[
            by_a_file(exe, stdio)
            for exe in (PYTHON, PERL, NODE)
            for stdio in (SOCKET, PTY, PIPES, UNIX)
        ],
        by_a_file(PYTHON, SOCKET, "-c", "id"),
        by_a_c_program_and_a_renamed_shell,
        by_a_c_program_and_a_renamed_shell_on_a_terminal,
        by_exec_in_the_same_process,
        by_socat,
        bind_shell_through_env,
        *[
            by_fifo_and_relay(cat=cat, listens=some)
            for cat in (False, True)
            for some in (False, True)
        ],
        by_coprocess,
        implant("/dev/shm/x", system=False),
        implant("/home/a/x", system=False),
        implant(PYTHON, "-u", "/tmp/x.py", system=True),
        implant(PERL, "/var/tmp/x", system=True),
    ],
)
def test_a_shell_for_another_machine_is_an_alert_of_level_high(scene: Scene) -> None:
    assert high(scene(shipped()))


def test_a_word_in_front_of_the_shell_does_not_help() -> None:
    host = shipped()
    script, _ = host.run(host.bash, PYTHON, "/home/a/x.py")
    host.connect(script)
    between, _ = host.run(script, "/usr/bin/setsid", "sh", stdio=PTY)
    assert "shell-behind-connection" in high(host.run(between, DASH, "-i", stdio=PTY)[1])


def test_a_snapshot_keeps_connections_and_pipes() -> None:
    host = shipped()
    script, _ = host.run(host.bash, PYTHON, "/home/a/x.py")
    host.connect(script)
    host.engine = snapshots.restore(host.engine.rules, snapshots.take(host.engine))
    assert "shell-behind-connection" in high(host.run(script, DASH, stdio=PTY)[1])


# The quiet half


def command_over_ssh(host: Host) -> list[Alert]:
    session, _ = host.run(host.sshd, "/usr/lib/openssh/sshd-session", stdio=SOCKET)
    bash, alerts = host.run(session, BASH, "-c", "git-upload-pack x", stdio=UNIX)
    return [*alerts, *host.exec(bash, "/usr/bin/git", "upload-pack", "x", stdio=UNIX)]


def login_over_ssh(host: Host) -> list[Alert]:
    host.listen(host.sshd, "::", 22)
    session, alerts = host.run(host.sshd, "/usr/sbin/sshd", stdio=SOCKET)
    host.connect(session, "198.51.100.5", 389)
    return [*alerts, *host.run(session, BASH, filename="-bash", stdio=PTY)[1]]


def service_that_writes_into_the_journal(host: Host) -> list[Alert]:
    script, alerts = host.run(host.init, DASH, "/usr/lib/x", stdio=("null", *UNIX[1:]))
    return [*alerts, *host.run(script, DASH, "-c", "x", stdio=("null", *UNIX[1:]))[1]]


def installs_a_package(host: Host) -> list[Alert]:
    pip, alerts = host.run(host.bash, PYTHON, "/usr/bin/pip", "install", "x")
    host.connect(pip, "198.51.100.6")
    alerts += host.run(pip, DASH, "-c", "cc --version", stdio=PIPES)[1]
    return [*alerts, *host.run(pip, "/usr/bin/gcc", stdio=PIPES)[1]]


def runs_a_download(host: Host) -> list[Alert]:
    curl, alerts = host.run(host.bash, "/usr/bin/curl", stdio=("tty", "pipe:[3]", "tty"))
    shell = ("pipe:[3]", "pipe:[4]", "tty")
    alerts += host.run(host.bash, DASH, "-s", stdio=shell)[1]
    alerts += host.run(host.bash, "/usr/bin/tee", "x", stdio=("pipe:[4]", "tty", "tty"))[1]
    return [*alerts, *host.connect(curl)]


def sends_what_a_script_prints(host: Host) -> list[Alert]:
    alerts = host.run(host.bash, DASH, "list.sh", stdio=("pipe:[2]", "pipe:[3]", "tty"))[1]
    ssh, more = host.run(host.bash, "/usr/bin/ssh", "h", "cat", stdio=("pipe:[3]", "tty", "tty"))
    return [*alerts, *more, *host.connect(ssh, dest_port=22)]


def serves_on_loopback(host: Host) -> list[Alert]:
    suite, alerts = host.run(host.bash, PYTHON, "-m", "unittest")
    host.listen(suite, "127.0.0.1")
    host.connect(suite, "127.0.0.1")
    return [*alerts, *host.run(suite, DASH, "-c", "ls | sort", stdio=PIPES)[1]]


def socket_unit(host: Host) -> list[Alert]:
    return host.run(host.init, "/usr/sbin/sshd", "-i", stdio=SOCKET)[1]


def git_daemon(host: Host) -> list[Alert]:
    daemon, _ = host.run(host.init, "/usr/lib/git-core/git-daemon")
    host.listen(daemon, "::", 9418)
    worker, alerts = host.run(daemon, "/usr/lib/git-core/git-daemon", "--serve", stdio=SOCKET)
    return [*alerts, *host.run(worker, "/usr/bin/git", "upload-pack", stdio=SOCKET)[1]]


def editor_with_a_shell(host: Host) -> list[Alert]:
    emacs, _ = host.run(host.bash, "/usr/bin/emacs-gtk")
    host.connect(emacs)
    return host.run(emacs, BASH, "-i", stdio=PTY)[1]


@pytest.mark.parametrize(
    "scene",
    [
        command_over_ssh,
        login_over_ssh,
        service_that_writes_into_the_journal,
        installs_a_package,
        runs_a_download,
        sends_what_a_script_prints,
        serves_on_loopback,
        socket_unit,
        git_daemon,
        editor_with_a_shell,
    ],
)
def test_daily_work_raises_nothing_high(scene: Scene) -> None:
    assert not high(scene(shipped()))


def contact_of(host: Host, identity: Identity) -> str:
    process = host.engine.table.get(identity)
    assert process is not None
    return process.contact.peer if process.contact else ""


def test_a_program_of_the_system_begins_anew_and_one_from_elsewhere_does_not() -> None:
    host = shipped()
    script, _ = host.run(host.bash, PYTHON, "/home/a/x.py")
    host.connect(script)
    assert contact_of(host, script) == "203.0.113.7:443"
    assert contact_of(host, host.run(script, "/usr/bin/ls")[0]) == ""
    assert contact_of(host, host.run(script, "/tmp/x", system=False)[0]) == "203.0.113.7:443"
    assert contact_of(host, host.run(script, ENV)[0]) == "203.0.113.7:443"


@pytest.mark.parametrize("error", [111, 13])
def test_a_failed_connection_connects_nobody(error: int) -> None:
    host = shipped()
    script, _ = host.run(host.bash, PYTHON, "/home/a/x.py")
    host.connect(script, error=error)
    assert contact_of(host, script) == ""


@pytest.mark.parametrize(
    ("words", "cwd", "script"),
    [
        (("/tmp/x.py",), "/", "/tmp/x.py"),
        (("-u", "-E", "x.py"), "/dev/shm", "/dev/shm/x.py"),
        (("x.py",), "/root", ""),
        (("-c", "code"), "/tmp", ""),
        (("-m", "timeit"), "/tmp", ""),
        (("-",), "/tmp", ""),
        ((), "/tmp", ""),
    ],
)
def test_a_script_where_every_user_may_write_is_remembered(
    words: tuple[str, ...], cwd: str, script: str
) -> None:
    host = shipped()
    identity, _ = host.run(host.bash, PYTHON, *words, cwd=cwd)
    process = host.engine.table.get(identity)
    assert process is not None
    assert (process.contact.script if process.contact else "") == script
