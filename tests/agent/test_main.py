import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any, ClassVar

import pytest

from actors.agent import __main__, endpoint
from actors.agent.__main__ import main
from actors.agent.exits import ExitCode
from actors.version import VERSION
from bpf.errors import MissingBcc
from tests.agent.cast import ROOT, agent, recording, reverse_shell
from tests.shipped import shipped_for_all

SHIPPED = str(shipped_for_all())


class Loading:
    """A loader that is set to work and never told to attach."""

    abandoned: ClassVar[list[Any]] = []

    def finish(self, _order: Any) -> None:
        raise AssertionError("began to attach")

    def abandon(self) -> None:
        self.abandoned.append(self)


@pytest.fixture(autouse=True)
def _nothing_is_attached(monkeypatch: pytest.MonkeyPatch) -> None:
    def lock() -> None:
        raise AssertionError("went on to the lock")

    monkeypatch.setattr(__main__, "Loading", Loading)
    monkeypatch.setattr(endpoint, "_lock", lock)
    Loading.abandoned.clear()
    for name in [name for name in os.environ if name.startswith("LAVENDER_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def recorded() -> Any:
    """A recording of a reverse shell where anybody may read it."""
    path = Path("/tmp") / f"lavender-test-{os.getpid()}.recording"
    path.write_bytes(recording(reverse_shell()))
    path.chmod(0o644)
    yield path
    path.unlink()


def shipped_with(tmp_path: Path, old: str, new: str) -> str:
    """The shipped configuration with one thing changed."""
    text = (ROOT / "lavender.toml").read_text()
    assert old in text
    file = tmp_path / "lavender.toml"
    file.write_text(text.replace(old, new, 1))
    return str(file)


# A configuration that cannot be used


@pytest.mark.parametrize(
    ("old", "new", "key", "remedy"),
    [
        ('kind = "correlator"', 'kind = "corelator"', "correlator.kind", "'correlator'"),
        ('kind = "responder"\nto = ["alert_console"]', 'kind = "responder"\nto = ["correlator"]',
         "topology.agent.actors", "remove"),
        ("OPEN_EVENTS", "OPENS", "open_reader.options.ring = 'OPENS'", "one of FORK_EVENTS"),
        ("OPEN_EVENTS", "EXEC_EVENTS", "0 readers of OPEN_EVENTS", "exactly one"),
        ("drain_secs = 5", "drain_secs = -5", "topology.agent.drain_secs", "greater than 0"),
        ("kill_threshold = 200", "kill_treshold = 200", "response.kill_treshold", "kill_threshold"),
        ('tenant_id = "dev"', 'tenant_id = "a.b"', "agent.tenant_id = 'a.b'", "match"),
        ("[response]", "[response", "not valid TOML", ""),
        ("capacity = 64", "capacity = 0", "mailbox.capacity = 0", "greater than or equal to 1"),
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_be_used_ends_with_2_and_nothing_attached(  # noqa: PLR0917 - one column each
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    old: str,
    new: str,
    key: str,
    remedy: str,
) -> None:
    file = shipped_with(tmp_path, old, new)
    assert main(["--config", file]) == int(ExitCode.CONFIG) == 2
    message = capfd.readouterr().err
    assert message.startswith(f"lavender: {file}: ")
    assert key in message
    assert remedy in message
    assert "Traceback" not in message


def test_a_loader_that_was_set_to_work_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    file = shipped_with(tmp_path, "[response]", "[response")
    assert main(["--config", file]) == 2
    assert len(Loading.abandoned) == 1
    for words in (["--check"], ["--show-topology"], ["--detach"], ["--replay", "/none"]):
        assert main(["--config", file, *words]) == 2
    assert len(Loading.abandoned) == 1, "who only looks needs no loader"


def test_without_bcc_other_reasons_not_to_start_go_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise MissingBcc("there is none")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(__main__, "Loading", missing)
    assert main(["--config", shipped_with(tmp_path, "[response]", "[response")]) == 2


def test_actors_in_a_ring_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = shipped_with(
        tmp_path, 'kind = "alert_console"', 'kind = "correlator"\nto = ["responder"]'
    )
    assert main(["--config", file]) == 2
    assert "a drain needs an order" in capfd.readouterr().err


def test_a_missing_file_that_was_named_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAVENDER_CONFIG", "/no/such.toml")
    assert main([]) == 2
    assert capfd.readouterr().err == (
        "lavender: LAVENDER_CONFIG names /no/such.toml, and there is no such file\n"
    )


def test_a_wrong_variable_ends_with_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAVENDER_RESPONSE__DRY_RUN", "perhaps")
    assert main(["--config", SHIPPED]) == 2


@pytest.mark.parametrize(
    "words", [["--output", "xml"], ["--replay"], ["--check", "--replay", "x"], ["extra"]]
)
def test_wrong_options_end_with_2(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "usage" in capfd.readouterr().err


# What is only looked at


def test_the_topology_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", SHIPPED, "--show-topology"]) == 0
    shown = capfd.readouterr()
    assert shown.err == ""
    lines = shown.out.splitlines()
    assert lines[0] == "topology agent"
    assert "supervisor one_for_one, at most 5 restarts in 30 s, drains within 5 s" in lines[1]
    assert "   exec_reader -> correlator: EventBatch" in lines
    assert "   correlator -> responder: AlertBatch" in lines
    order = [line.split()[1] for line in lines[2:14]]
    assert order.index("alert_console") < order.index("responder") < order.index("correlator")
    assert order.index("correlator") < order.index("ring_clock")


def test_without_a_file_the_defaults_are_used_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("actors.config.FILE_NAME", "there-is-no-such.toml")
    assert main(["--show-topology"]) == 0
    assert capfd.readouterr().err == (
        "lavender: warning: no lavender.toml found; using the built-in defaults\n"
    )


def test_a_working_directory_that_was_removed_is_no_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main(["--config", SHIPPED, "--show-topology"]) == 0


def test_the_version_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capfd.readouterr().out == f"Lavender {VERSION}\n"


def test_a_check_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["--config", SHIPPED, "--check"]) == 1
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == f"ok    configuration  {SHIPPED}"
    assert "FAIL  root           the agent must start as root: use sudo" in lines


def test_without_root_the_agent_does_not_start(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["--config", SHIPPED]) == int(ExitCode.NOT_ROOT) == 77
    assert capfd.readouterr().err == "lavender: the agent must start as root: use sudo\n"


def test_a_closed_output_is_no_error() -> None:
    done = agent("--config", SHIPPED, "--show-topology", preexec_fn=lambda: os.close(1))
    assert (done.returncode, done.stderr) == (0, b"")


# Replays, in a process of their own


def alerts_of(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in done.stderr.splitlines()]
    return [record for record in records if record.get("type") == "alert"]


def test_a_replay_detects_the_same_twice_byte_for_byte(recorded: Path) -> None:
    first, second = (agent("--config", SHIPPED, "--replay", str(recorded)) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    alerts = alerts_of(first)
    assert any(alert["severity"] == "CRITICAL" for alert in alerts)
    assert first.stdout == second.stdout
    only = [
        b"".join(line for line in done.stderr.splitlines(keepends=True) if b'"alert"' in line)
        for done in (first, second)
    ]
    assert only[0] == only[1] != b""


def test_a_replay_prints_executions_and_connections_on_standard_output(recorded: Path) -> None:
    done = agent("--config", SHIPPED, "--replay", str(recorded))
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["type"] for record in records] == ["exec", "conn", "exec", "conn"]


@pytest.mark.parametrize("output", ["pretty", "none"])
def test_a_replay_in_other_outputs_ends_well(recorded: Path, output: str) -> None:
    done = agent("--config", SHIPPED, "--output", output, "--replay", str(recorded))
    assert done.returncode == 0
    assert (done.stdout == b"") is (output == "none")


def test_a_replay_kills_nobody(recorded: Path) -> None:
    environment = {**os.environ, "LAVENDER_RESPONSE__DRY_RUN": "false"}
    environment["LAVENDER_RESPONSE__KILL_THRESHOLD"] = "1"
    done = agent("--config", SHIPPED, "--replay", str(recorded), env=environment)
    assert done.returncode == 0
    assert b'"response"' not in done.stderr


def test_a_replay_of_a_damaged_recording_ends_with_8_and_one_message(recorded: Path) -> None:
    lines = recorded.read_bytes().splitlines(keepends=True)
    lines[-1] = b"[{}]\n"
    recorded.write_bytes(b"".join(lines))
    done = agent("--config", SHIPPED, "--replay", str(recorded))
    assert done.returncode == int(ExitCode.RECORDING) == 8
    assert alerts_of_readable(done), "what came before the damage counts"
    said = [line for line in done.stderr.decode().splitlines() if line.startswith("lavender: ")]
    assert len(said) == 1
    assert said[0].startswith(f"lavender: {recorded}: line {len(lines)}: ")
    assert b"Traceback" not in done.stderr
    assert b"restart" not in done.stderr
    assert b"crash" not in done.stderr


def alerts_of_readable(done: subprocess.CompletedProcess[bytes]) -> list[bytes]:
    return [line for line in done.stderr.splitlines() if b'"type":"alert"' in line]


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"no recording\n", "line 1: not a recording"),
        (
            b'{"lavender_recording":9,"boot_id":"","boot_unix_ns":0,"seeds":[]}\n',
            "recording format 9",
        ),
    ],
)
def test_what_is_no_recording_ends_with_8_and_one_message(
    recorded: Path, raw: bytes, why: str
) -> None:
    recorded.write_bytes(raw)
    done = agent("--config", SHIPPED, "--replay", str(recorded))
    assert done.returncode == 8
    (message,) = done.stderr.decode().splitlines()
    assert re.match(rf"lavender: {re.escape(str(recorded))}: {why}", message)


def test_a_recording_that_is_not_there_ends_with_8() -> None:
    done = agent("--config", SHIPPED, "--replay", "/no/such/recording")
    assert done.returncode == 8
    assert done.stderr == b"lavender: /no/such/recording: No such file or directory\n"


@pytest.mark.parametrize("descriptors", [(1,), (2,), (1, 2), (0, 1, 2)])
def test_closed_descriptors_do_not_stop_a_replay(
    recorded: Path, descriptors: tuple[int, ...]
) -> None:
    def close() -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    done = agent("--config", SHIPPED, "--replay", str(recorded), preexec_fn=close)
    assert done.returncode == 0


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_left_does_not_stop_a_replay(recorded: Path, stream: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = agent("--config", SHIPPED, "--replay", str(recorded), **{stream: writer})
    os.close(writer)
    assert done.returncode == 0
    if stream == "stdout":
        assert b'"lines_not_printed": 4' in done.stderr


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_full_disk_does_not_stop_a_replay(recorded: Path, stream: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = agent("--config", SHIPPED, "--replay", str(recorded), **{stream: full})
    assert done.returncode == 0
