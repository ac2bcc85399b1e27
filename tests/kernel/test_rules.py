"""Every rule and every chain, from real processes; and what comes close and is nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.endpoint import Endpoint, Line, endpoint
from tests.kernel.workload import ADDRESS, Island, copy_as

SHELL = "T1059 [Unexpected shell spawn]"
READ = "T1003 [Sensitive file read]"
PORT = "T1071 [Connection to suspicious port]"
SHELL_CONNECTS = "T1059 [Shell making outbound connection]"
FIRST_CALL = "T1071 [First time Network Caller]"
OBFUSCATED = "T1027 [Obfuscated command execution]"
REVERSE_SHELL = "CHAIN Reverse shell behaviour"
CREDENTIALS = "CHAIN Credential access then execution"
RAPID = "CHAIN Rapid process spawning"
POINTS = {
    SHELL: 40,
    READ: 35,
    PORT: 45,
    SHELL_CONNECTS: 60,
    FIRST_CALL: 15,
    OBFUSCATED: 55,
    REVERSE_SHELL: 90,
    CREDENTIALS: 75,
    RAPID: 60,
}
DIALS = f"exec 3<>/dev/tcp/{ADDRESS}/8080"


@pytest.fixture(scope="module")
def watched() -> Iterator[Endpoint]:
    """An agent exactly as shipped."""
    with endpoint() as running:
        yield running
        assert running.stop() == 0
        assert not running.malformed


class Stage:
    """Where scenarios run, each in a lineage of its own.

    What one process starts belongs together (``actors/detection/correlator.py``), and pytest
    starts everything here. runuser(1) begins a session, a boundary: scenarios do not mix.
    """

    def __init__(self, watched: Endpoint) -> None:
        self._watched = watched

    def play(self, *words: str | Path, **options: Any) -> int:
        """Run a program to its end; its pid."""
        boundary = subprocess.Popen(["/usr/sbin/runuser", "-u", "root", "--", *words], **options)
        boundary.wait()
        return int(self._watched.printed(type="exec", ppid=boundary.pid)["pid"])


@pytest.fixture
def stage(watched: Endpoint) -> Stage:
    return Stage(watched)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "etc" / "shadow"
    path.parent.mkdir()
    path.write_text("nothing")
    return path


def check_alert(alert: Line, *, technique: str, ends: str) -> None:
    """What every alert has, besides its rule."""
    assert technique in alert["techniques"]
    assert alert["ancestry"].endswith(ends)
    assert alert["base_score"] >= POINTS[alert["rule"]]
    ancestors = alert["ancestry"].count("=>")
    assert alert["lineage_bonus"] == min(20, 5 * (ancestors - 1))
    assert alert["rarity_bonus"] in (0, 8, 15, 25)
    assert alert["sequence_bonus"] == (20 if alert["rule"].startswith("CHAIN") else 0)
    parts = ("base_score", "lineage_bonus", "rarity_bonus", "sequence_bonus")
    assert alert["score"] == sum(alert[part] for part in parts)
    bounds = {"INFO": (0, 49), "WARNING": (50, 99), "HIGH": (100, 149), "CRITICAL": (150, 9999)}
    least, most = bounds[alert["severity"]]
    assert least <= alert["score"] <= most
    assert alert["timestamp"].endswith("Z")
    assert alert["type"] == "alert"


# T1059: unexpected shell spawn


def test_a_shell_from_an_unknown_program(
    watched: Endpoint, stage: Stage, tmp_path: Path, doer: Path
) -> None:
    server = copy_as(doer, tmp_path, "webserver")
    pid = stage.play(server, "exec", "/bin/sh", "-c", "true")
    alert = watched.alert(SHELL, pid)
    check_alert(alert, technique="T1059", ends="=>dash")
    assert alert["base_score"] == 40
    assert alert["rarity_bonus"] == 25
    assert str(server) in alert["detail"]


def test_a_shell_beneath_a_program_is_told_with_it(
    watched: Endpoint, stage: Stage, tmp_path: Path, doer: Path
) -> None:
    stage.play(copy_as(doer, tmp_path, "webserver"), "run", "/bin/bash", "-c", f": {tmp_path}", "+")
    line = watched.printed(type="exec", cmdline=f"/bin/bash -c : {tmp_path}")
    alert = watched.alert(SHELL, line["pid"])
    check_alert(alert, technique="T1059", ends="=>webserver=>bash")


def test_a_shell_under_another_name_is_a_shell(
    watched: Endpoint, stage: Stage, tmp_path: Path, doer: Path
) -> None:
    innocent = tmp_path / "dash"
    innocent.symlink_to("/usr/bin/dash")
    dropper = copy_as(Path("/usr/bin/dash"), tmp_path / "x", "sh")
    launcher = copy_as(doer, tmp_path, "webserver")
    for program in (innocent, dropper):
        pid = stage.play(launcher, "exec", program, "-c", "true")
        assert watched.alert(SHELL, pid)


@pytest.mark.parametrize(
    "launcher", [["env"], ["timeout", "5"], ["bash", "-c", 'exec "$@"', "-"], ["setsid", "-w"]]
)
def test_a_shell_from_a_safe_launcher_or_a_shell_is_nothing(
    watched: Endpoint, stage: Stage, launcher: list[str], tmp_path: Path
) -> None:
    stage.play("bash", "-c", '"$@"; exit', "-", *launcher, "sh", "-c", "true", str(tmp_path))
    line = watched.printed(type="exec", cmdline=f"sh -c true {tmp_path}")
    assert SHELL not in watched.rules_of(line["pid"])


def test_a_copy_that_is_called_like_a_safe_launcher_is_not_one(
    watched: Endpoint, stage: Stage, tmp_path: Path, doer: Path
) -> None:
    for name in ("sshd", "systemd", "make", "env", "bash"):
        pid = stage.play(copy_as(doer, tmp_path, name), "exec", "/bin/sh", "-c", "true")
        assert str(tmp_path / name) in watched.alert(SHELL, pid)["detail"]


# T1003: sensitive file read


def test_reading_a_sensitive_file_whatever_the_reader_calls_itself(
    watched: Endpoint, stage: Stage, tmp_path: Path, doer: Path, secret: Path
) -> None:
    for name in ("thief", "systemd", "sshd", "passwd", "sh-helper", "vim"):
        pid = stage.play(copy_as(doer, tmp_path, name), "open", str(secret))
        alert = watched.alert(READ, pid)
        check_alert(alert, technique="T1003", ends=f"=>{name}")
        assert alert["base_score"] == 35
        assert str(secret) in alert["detail"]
        assert alert["event"] == "open"


def test_reading_the_real_shadow_file(watched: Endpoint, stage: Stage, doer: Path) -> None:
    pid = stage.play(doer, "open", "/etc/shadow")
    assert "/etc/shadow" in watched.alert(READ, pid)["detail"]


def test_a_copy_of_python_called_systemd_is_no_safe_reader(
    watched: Endpoint, stage: Stage, tmp_path: Path, secret: Path
) -> None:
    copy = copy_as(Path(sys.executable).resolve(), tmp_path, "systemd")
    home = {"PYTHONHOME": str(Path(sys.executable).resolve().parent.parent)}
    library = str(Path(sys.executable).resolve().parent.parent / "lib")
    pid = stage.play(
        copy, "-S", "-c", f"open({str(secret)!r})", env={**home, "LD_LIBRARY_PATH": library}
    )
    assert watched.alert(READ, pid)["ancestry"].endswith("=>systemd")


def test_a_reader_of_its_own_file_is_nothing(
    watched: Endpoint, stage: Stage, tmp_path: Path
) -> None:
    history = tmp_path / ".bash_history"
    history.touch()
    pid = stage.play("/bin/bash", "-c", f": < {history}")
    assert READ not in watched.rules_of(pid)


@pytest.mark.parametrize(
    "code", ["cat < {}", "mapfile -t x < {}", "x=$(<{})", "while read x; do :; done < {}", ". {}"]
)
def test_a_shell_that_reads_secrets_itself(
    watched: Endpoint, stage: Stage, secret: Path, code: str
) -> None:
    stage.play("/bin/bash", "-c", f"{code.format(secret)}; exit")
    alert = watched.wait_for(
        lambda: next(
            (a for a in watched.alerts_about(rule=READ) if str(secret) in a["detail"]), None
        )
    )
    assert "/bash opened" in alert["detail"]


def test_what_a_script_of_a_safe_name_reads_is_told(
    watched: Endpoint, stage: Stage, tmp_path: Path, secret: Path
) -> None:
    script = tmp_path / "sshd"
    script.write_text(f"#!/usr/bin/env -S cat {secret}\n")
    script.chmod(0o755)
    pid = stage.play(script, stdout=subprocess.DEVNULL)
    assert watched.alert(READ, pid)


# T1071 and T1059: connections


@pytest.mark.parametrize("port", [4444, 31337])
def test_a_suspicious_port_even_on_loopback(
    watched: Endpoint, stage: Stage, doer: Path, port: int
) -> None:
    pid = stage.play(doer, "connect", "127.0.0.1", str(port))
    alert = watched.alert(PORT, pid)
    check_alert(alert, technique="T1071", ends="=>doer")
    assert alert["base_score"] == 45
    assert f"127.0.0.1:{port}" in alert["detail"]
    assert "ECONNREFUSED" in alert["detail"]


def test_an_ordinary_port_on_loopback_is_nothing(
    watched: Endpoint, stage: Stage, doer: Path
) -> None:
    for port in (4445, 80):
        pid = stage.play(doer, "connect", "127.0.0.1", str(port))
        assert not watched.rules_of(pid) & {PORT, FIRST_CALL}


def test_a_shell_that_connects_outward(watched: Endpoint, stage: Stage, net: Island) -> None:
    pid = stage.play(*net.enter, "/bin/bash", "-c", DIALS, stderr=subprocess.DEVNULL)
    alert = watched.alert(SHELL_CONNECTS, pid)
    check_alert(alert, technique="T1059", ends="=>bash")
    assert f"{ADDRESS}:8080" in alert["detail"]


def test_a_shell_that_connects_to_itself_is_nothing(watched: Endpoint, stage: Stage) -> None:
    pid = stage.play("/bin/bash", "-c", ": < /dev/tcp/127.0.0.1/8080", stderr=subprocess.DEVNULL)
    watched.printed(type="conn", pid=pid)
    assert not watched.rules_of(pid) & {SHELL_CONNECTS, FIRST_CALL}


def test_the_first_connection_of_a_program_and_not_its_second(
    watched: Endpoint, stage: Stage, net: Island, tmp_path: Path, doer: Path
) -> None:
    program = copy_as(doer, tmp_path, "newcomer")
    words = (*net.enter, program, "connect", ADDRESS, "8080")
    first = stage.play(*words)
    alert = watched.alert(FIRST_CALL, first)
    check_alert(alert, technique="T1071", ends="=>newcomer")
    assert alert["base_score"] == 15
    second = stage.play(*words)
    watched.printed(type="conn", pid=second)
    assert FIRST_CALL not in watched.rules_of(second)


# T1027: obfuscated commands


@pytest.mark.parametrize(
    "words",
    [
        ["/bin/sh", "-c", ": echo aGk= '|' base64 -d"],
        ["/bin/bash", "-c", ": '$(curl evil)'"],
        ["/bin/sh", "-c", ": x '|sh'"],
        ["/bin/sh", "-c", ": eval x"],
        ["/usr/bin/perl", "-e", "1"],
        ["/bin/sh", "-c", ": /dev/tcp/1.2.3.4/5"],
    ],
)
def test_an_obfuscated_command(watched: Endpoint, stage: Stage, words: list[str]) -> None:
    pid = stage.play(*words)
    alert = watched.alert(OBFUSCATED, pid)
    check_alert(alert, technique="T1027", ends=f"=>{Path(words[0]).resolve().name}")
    # Where no login shell has started pytest, the shell is an unexpected one too.
    assert alert["base_score"] in {55, 55 + POINTS[SHELL]}


def test_an_obfuscated_python(watched: Endpoint, stage: Stage, tmp_path: Path, doer: Path) -> None:
    pid = stage.play(copy_as(doer, tmp_path, "dropper"), "exec", sys.executable, "-S", "-c", "0")
    assert "dropper" in watched.alert(OBFUSCATED, pid)["detail"]


def test_a_plain_command_is_nothing(watched: Endpoint, stage: Stage) -> None:
    for words in (["/bin/sh", "-c", "true"], ["/usr/bin/printf", "base64", "eval"]):
        pid = stage.play(*words, stdout=subprocess.DEVNULL)
        assert OBFUSCATED not in watched.rules_of(pid)


# Chains


def test_a_reverse_shell(watched: Endpoint, stage: Stage, net: Island) -> None:
    pid = stage.play(
        *net.enter, "/bin/bash", "-c", f"{DIALS}; exec sh -c true", stderr=subprocess.DEVNULL
    )
    alert = watched.alert(REVERSE_SHELL, pid)
    check_alert(alert, technique="T1059", ends="=>dash")
    assert alert["base_score"] >= 90 + 60
    assert alert["severity"] == "CRITICAL"


def test_a_reverse_shell_in_another_order_is_none(
    watched: Endpoint, stage: Stage, net: Island, tmp_path: Path, doer: Path
) -> None:
    # In a lineage of its own: connect, then bash, then sh.
    first = copy_as(doer, tmp_path, "stage")
    script = f"sh -c true; {DIALS}"
    command = ("run", "/bin/bash", "-c", script, "+")
    stage.play(*net.enter, first, *command, stderr=subprocess.DEVNULL)
    watched.settle()
    alerts = [a for a in watched.alerts_about(rule=REVERSE_SHELL) if "=>stage=>" in a["ancestry"]]
    assert not alerts


def test_credentials_read_and_then_a_program(
    watched: Endpoint, stage: Stage, tmp_path: Path, doer: Path, secret: Path
) -> None:
    thief = copy_as(doer, tmp_path, "collector")
    pid = stage.play(thief, "open", str(secret), "exec", "/usr/bin/true", "after")
    alert = watched.alert(CREDENTIALS, pid)
    check_alert(alert, technique="T1003", ends="=>true")
    assert alert["base_score"] == 35 + 75
    assert str(secret) in alert["detail"]


def test_credentials_read_in_one_child_and_a_program_in_the_next(
    watched: Endpoint, stage: Stage, tmp_path: Path, doer: Path, secret: Path
) -> None:
    first = copy_as(doer, tmp_path, "orchestrator")
    reading = ("run", doer, "open", str(secret), "+")
    stage.play(first, *reading, "run", "/usr/bin/true", str(tmp_path), "+")
    line = watched.printed(type="exec", cmdline=f"/usr/bin/true {tmp_path}")
    check_alert(
        watched.alert(CREDENTIALS, line["pid"]), technique="T1003", ends="=>orchestrator=>true"
    )


def test_a_program_and_then_credentials_is_no_chain(
    watched: Endpoint, stage: Stage, tmp_path: Path, doer: Path, secret: Path
) -> None:
    first = copy_as(doer, tmp_path, "earlier")
    stage.play(first, "run", "/usr/bin/true", "+", "run", doer, "open", str(secret), "+")
    watched.settle()
    alerts = watched.alerts_about(rule=CREDENTIALS)
    assert not [alert for alert in alerts if "=>earlier" in alert["ancestry"]]


def times(count: int, program: Path | str) -> list[str]:
    """Words for the doer to run a program some times, one after the other."""
    return ["run", str(program), "exit", "0", "+"] * count


def test_rapid_spawning(watched: Endpoint, stage: Stage, tmp_path: Path, doer: Path) -> None:
    tool = copy_as(doer, tmp_path / "tools", "tool")
    stage.play(copy_as(doer, tmp_path, "burst"), *times(5, tool))
    alert = watched.wait_for(
        lambda: [a for a in watched.alerts_about(rule=RAPID) if "=>burst=>tool" in a["ancestry"]]
    )[-1]
    check_alert(alert, technique="T1059", ends="=>burst=>tool")
    assert alert["exe"] == str(tool)


def test_the_systems_own_programs_are_no_rapid_spawning(
    watched: Endpoint, stage: Stage, tmp_path: Path, doer: Path
) -> None:
    stage.play(copy_as(doer, tmp_path, "builder"), *times(12, "/usr/bin/true"))
    watched.settle()
    alerts = watched.alerts_about(rule=RAPID)
    assert not [alert for alert in alerts if alert["ancestry"].endswith("=>builder=>true")]


# Scores


def test_points_of_one_process_add_up_and_a_rule_counts_once(
    watched: Endpoint, stage: Stage, net: Island, doer: Path, secret: Path
) -> None:
    program = copy_as(doer, secret.parent, "busy")
    again = ("open", str(secret), "connect", ADDRESS, "4444") * 2
    pid = stage.play(*net.enter, program, *again)
    watched.settle()
    rules = [alert["rule"] for alert in watched.alerts_about(pid=pid)]
    assert rules == [READ, PORT, FIRST_CALL]
    last = watched.alerts_about(pid=pid, rule=FIRST_CALL)[0]
    assert last["base_score"] == 35 + 45 + 15


def test_a_pair_of_programs_is_less_rare_each_time(
    watched: Endpoint, stage: Stage, tmp_path: Path, doer: Path, secret: Path
) -> None:
    parent = copy_as(doer, tmp_path, "starter")
    child = copy_as(doer, tmp_path / "c", "child")
    words = [w for _ in range(8) for w in ("run", child, "open", str(secret), "+")]
    stage.play(parent, *words)
    alerts = watched.wait_for(
        lambda: (
            (found := [a for a in watched.alerts_about(rule=READ) if a["exe"] == str(child)])[3:]
            and found
        )
    )
    # The first, second, fourth and eighth are told.
    assert [alert["rarity_bonus"] for alert in alerts] == [25, 15, 8, 0]
