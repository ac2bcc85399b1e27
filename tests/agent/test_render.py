import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.agent import render
from actors.agent.messages import Response
from actors.detection.alerts import Alert
from actors.detection.events import ConnectEvent, ExecEvent
from tests.agent.cast import alert, an_exec

BOOT = 1_700_000_000_000_000_000
SGR = re.compile(r"\x1b\[[0-9;]*m")

hostile = st.text(
    alphabet=st.characters(exclude_categories=["Cs"]), max_size=200
) | st.sampled_from(
    [
        "\x1b[2J\x1b]0;owned\x07",
        "a\r\nroot logged in",
        '{"type": "alert"}',
        "\u202egpj.exe",
        "\u2028\u2029\x85\x0b\x0c\x1c",
        "\x9b31m\x00\x7f",
        "\U000e0041",
        "=>" * 50,
    ]
)
numbers = st.integers(0, 2**32 - 1)
times = st.integers(0, 2**63 - 1)
errors = st.sampled_from([0, 2, 13, 115, 9999])

execs = st.builds(
    ExecEvent,
    time_ns=times,
    pid=numbers,
    start_ns=times,
    ppid=numbers,
    parent_start_ns=times,
    uid=numbers,
    login_uid=numbers,
    cgroup_id=times,
    comm=hostile,
    filename=hostile,
    exe=hostile,
    system_exe=st.booleans(),
    argv=st.lists(hostile, max_size=4).map(tuple),
    argv_cut=st.booleans(),
    cwd=hostile,
    user=hostile,
    error=errors,
)
connects = st.builds(
    ConnectEvent,
    time_ns=times,
    pid=numbers,
    start_ns=times,
    uid=numbers,
    user=hostile,
    comm=hostile,
    af=st.sampled_from([1, 2, 10]),
    dest_ip=st.sampled_from(["", "203.0.113.7", "2001:db8::1"]),
    dest_port=st.integers(0, 65535),
    path=hostile,
    error=errors,
)
alerts = st.builds(
    Alert,
    time_ns=times,
    pid=numbers,
    start_ns=times,
    uid=numbers,
    comm=hostile,
    exe=hostile,
    system_exe=st.booleans(),
    rule=st.just("Reverse shell"),
    rule_id=st.just("r1"),
    techniques=st.just(("T1059",)),
    detail=hostile,
    ancestry=hostile,
    score=st.integers(0, 10_000),
    severity=st.sampled_from(["INFO", "WARNING", "HIGH", "CRITICAL"]),
    base_score=st.integers(0, 1000),
    lineage_bonus=st.integers(0, 1000),
    rarity_bonus=st.integers(0, 1000),
    sequence_bonus=st.integers(0, 1000),
    event=st.sampled_from(["exec", "open", "connect"]),
)
responses = st.builds(
    Response,
    pid=numbers,
    start_ns=times,
    comm=hostile,
    action=st.sampled_from(["killed", "would_kill", "protected", "gone", "failed"]),
    reason=hostile,
    dry_run=st.booleans(),
    score=st.integers(0, 10_000),
    rule=st.just("Reverse shell"),
    time_ns=times,
)


def is_one_object(line: bytes) -> dict[str, Any]:
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    record = json.loads(line)
    assert isinstance(record, dict)
    return record


def is_printable(raw: bytes, *, lines: int) -> None:
    text = raw.decode("utf-8")
    assert text.endswith("\n")
    assert text.count("\n") == lines
    for line in text.split("\n"):
        bare = SGR.sub("", line)
        assert bare.isprintable(), ascii(bare)
    # Whatever is switched on is switched off by the end of the line.
    assert not text.rstrip("\n").endswith("\x1b")


@given(event=execs | connects, ancestry=hostile)
def test_an_event_is_one_line_of_json_whatever_it_holds(
    event: ExecEvent | ConnectEvent, ancestry: str
) -> None:
    record = is_one_object(render.event_json(event, ancestry, BOOT))
    assert record["comm"] == event.comm
    assert record["ancestry"] == ancestry
    if isinstance(event, ExecEvent):
        assert record["cmdline"] == " ".join(event.argv)


@given(raised=alerts)
def test_an_alert_is_one_line_of_json_whatever_it_holds(raised: Alert) -> None:
    record = is_one_object(render.alert_json(raised, BOOT))
    assert (record["comm"], record["exe"]) == (raised.comm, raised.exe)


@given(response=responses)
def test_a_response_is_one_line_of_json_whatever_it_holds(response: Response) -> None:
    assert is_one_object(render.response_json(response, BOOT))["comm"] == response.comm


@given(event=execs | connects, ancestry=hostile)
def test_an_event_for_people_moves_no_cursor(
    event: ExecEvent | ConnectEvent, ancestry: str
) -> None:
    is_printable(render.event_pretty(event, ancestry, BOOT), lines=1)


@given(raised=alerts)
def test_an_alert_for_people_moves_no_cursor(raised: Alert) -> None:
    is_printable(render.alert_pretty(raised, BOOT), lines=3)


@given(response=responses)
def test_a_response_for_people_moves_no_cursor(response: Response) -> None:
    is_printable(render.response_pretty(response, BOOT), lines=1)


def test_a_status_is_one_line_either_way() -> None:
    probes = {
        "exec": {"seen": 3, "delivered": 2, "lost": 1},
        "exit": {"seen": 1, "delivered": 1, "lost": 0},
    }
    record = {"uptime_secs": 61.4, "probes": probes}
    assert is_one_object(render.status_json(record)) == {"kind": "status", **record}
    pretty = render.status_pretty(record)
    is_printable(pretty, lines=1)
    assert "up 61 s · exec 2/3 lost 1 · exit 1/1" in pretty.decode()


def test_an_execution_has_every_field_people_look_for() -> None:
    record = is_one_object(render.event_json(an_exec(time_ns=1_500_000), "a=>ls", BOOT))
    assert record == {
        "type": "exec",
        "pid": 7,
        "ppid": 1,
        "user": "root",
        "comm": "ls",
        "filename": "/usr/bin/ls",
        "cmdline": "ls -l",
        "ancestry": "a=>ls",
        "timestamp": "2023-11-14T22:13:20.001Z",
        "uid": 0,
        "login_uid": 4294967295,
        "exe": "/usr/bin/ls",
        "cwd": "/",
        "argv_cut": False,
        "cgroup_id": 1,
        "start_ns": 10_000_000,
    }


@pytest.mark.parametrize(("error", "name"), [(2, "ENOENT"), (13, "EACCES"), (9999, "9999")])
def test_a_failure_is_named(error: int, name: str) -> None:
    assert json.loads(render.event_json(an_exec(error=error), "", BOOT))["error"] == name
    assert f"({name})" in render.event_pretty(an_exec(error=error), "", BOOT).decode()


def test_where_a_connection_goes_is_shown() -> None:
    def to(**where: Any) -> str:
        words = {"dest_ip": "", "dest_port": 0, "path": "", "af": 2, **where}
        event = ConnectEvent(
            time_ns=1, pid=7, start_ns=1, uid=0, user="root", comm="nc", error=0, **words
        )
        return render.event_pretty(event, "", BOOT).decode()

    assert "nc → 203.0.113.7:80" in to(dest_ip="203.0.113.7", dest_port=80)
    assert "nc → [2001:db8::1]:80" in to(dest_ip="2001:db8::1", dest_port=80, af=10)
    assert "nc → /run/bus" in to(path="/run/bus", af=1)


def test_the_path_of_a_unix_socket_is_given_only_where_there_is_one() -> None:
    event = ConnectEvent(1, 7, 1, 0, "root", "nc", 1, "", 0, "@abstract", 0)
    assert json.loads(render.event_json(event, "", BOOT))["path"] == "@abstract"
    event = ConnectEvent(1, 7, 1, 0, "root", "nc", 2, "203.0.113.7", 80, "", 0)
    assert "path" not in json.loads(render.event_json(event, "", BOOT))


@pytest.mark.parametrize("line", [render.alert_pretty, render.alert_json])
def test_an_alert_names_its_rule_and_score(line: Callable[[Alert, int], bytes]) -> None:
    text = line(alert(), BOOT).decode()
    assert "Reverse shell" in text
    assert "250" in text
    assert "what it did" in text


def test_a_very_long_command_is_shown_in_part_to_people_and_whole_to_programs() -> None:
    event = an_exec(argv=("x" * 5000,))
    assert len(render.event_pretty(event, "", BOOT)) < 400
    assert len(json.loads(render.event_json(event, "", BOOT))["cmdline"]) == 5000
