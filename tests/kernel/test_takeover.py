"""A crash of the agent: its probes go on filling the rings, and the next agent reads on."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.agent.enrich import Enricher, Users
from actors.agent.hostfiles import HostFiles
from actors.agent.sensor import KernelSensor
from actors.detection.events import AnyEvent, ExecEvent
from bpf import pins, syscalls
from bpf.attach import Loading, Order
from bpf.source import HELD
from tests.kernel.endpoint import Endpoint, Line, assert_balanced, endpoint, run_agent
from tests.kernel.test_counters import EXEC_FLOOD, OPEN_FLOOD
from tests.kernel.workload import NOBODY, run

AGENT = "takeover-tests"
PLACE = pins.BPFFS / pins.PARENT / AGENT
NAMED: dict[str, Any] = {
    "LAVENDER_AGENT__AGENT_ID": AGENT,
    "LAVENDER_PUBLISH__ENABLED": "false",  # the rings are let go of as they are read
}
EVERY_OPEN: dict[str, Any] = {
    "LAVENDER_FILTERS__OPEN_EVENTS": "all",
    "LAVENDER_AGENT__OPEN_REPEAT_SECS": "0",
}
EXECS = 150
OPENS = 4_000
TOOK_OVER = "took over the probes of an agent that crashed"
NOT_TAKEN_OVER = "what an earlier agent left pinned was not taken over"
UNPINNED = "nothing is pinned: a crash would lose events"

PATCHED = """
import errno, os, sys
from actors.agent import command, endpoint
from actors.agent.exits import ExitCode, StartError
from actors.agent.__main__ import main
from bpf import pins
def fail(*_, **__): raise {error}
{place} = {value}
sys.exit(main(sys.argv[1:]))
"""


def patched(place: str, value: str = "fail", error: str = "OSError()") -> tuple[str, str]:
    """An agent's program with one thing of it replaced."""
    return ("-c", PATCHED.format(place=place, value=value, error=error))


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    left = list(PLACE.parent.glob(AGENT))
    pins.detach(AGENT)
    assert not left, "a clean stop leaves no pins"


def crash(running: Endpoint) -> None:
    """Kill it where it stands; its pins are there still."""
    running.process.kill()
    running.process.wait()
    assert (PLACE / pins.IDENTITY).exists()


def said(running: Endpoint, event: str) -> list[Line]:
    return [line for line in running.logs if line["event"] == event]


def test_what_happens_while_no_agent_runs_is_delivered_exactly_once(
    build: Callable[[str], Path], tmp_path: Path
) -> None:
    starter = build(EXEC_FLOOD)
    file = tmp_path / "file"
    file.touch()
    pids = []
    with endpoint(record=tmp_path / "1", keep_pins=True, **NAMED, **EVERY_OPEN) as first:
        pids.append(run(starter, str(EXECS))[0])
        first.settle()
        crash(first)
    pids.append(run(starter, str(EXECS))[0])
    opener, _ = run(build(OPEN_FLOOD), file, str(OPENS // 2))
    with endpoint(record=tmp_path / "2", **NAMED, **EVERY_OPEN) as second:
        assert said(second, TOOK_OVER)
        pids.append(run(starter, str(EXECS))[0])
        second.settle()
        assert second.stop() == 0
    assert second.stopped()["lost_in_kernel"] == 0
    assert_balanced(second.stopped()["probes"])
    assert first.recording is not None
    assert second.recording is not None
    events = [*first.recording.refresh(), *second.recording.refresh()]
    children = Counter(
        event["pid"] for event in events if event["type"] == "exec" and event["ppid"] in pids
    )
    assert len(children) == 3 * EXECS
    assert set(children.values()) == {1}
    later = second.recording.events
    parents = {event["pid"]: event["ppid"] for event in later if event["type"] == "exec"}
    assert set(pids[1:]) <= set(parents.values())
    opens = [event.get("filename") for event in later if event["pid"] == opener]
    assert opens.count(str(file)) == OPENS // 2
    assert opens.count("/nowhere/at/all") == OPENS // 2


def test_what_a_ring_had_no_room_for_meanwhile_is_counted(
    build: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with endpoint(keep_pins=True, **NAMED, **EVERY_OPEN) as first:
        crash(first)
    run(build(OPEN_FLOOD), tmp_path / "file", "50000")
    with endpoint(**NAMED, **EVERY_OPEN) as second:
        second.settle()
        assert second.stop() == 0
    stopped = second.stopped()
    assert stopped["level"] == "warning"
    missing = stopped["lost_in_kernel"] + stopped["throttled_in_kernel"]
    assert 0 < missing < 100_000
    assert stopped["probes"]["exec"]["lost"] == stopped["probes"]["exec"]["throttled"] == 0
    assert_balanced(stopped["probes"])


def test_a_crash_after_a_crash_costs_nothing_either() -> None:
    load_ids = []
    for _ in range(3):
        with endpoint(keep_pins=True, **NAMED) as running:
            load_ids += [line["load_id"] for line in said(running, TOOK_OVER)]
            crash(running)
    with endpoint(**NAMED) as running:
        load_ids += [line["load_id"] for line in said(running, TOOK_OVER)]
        assert running.stop() == 0
    assert len(load_ids) == 3
    assert len(set(load_ids)) == 1


# What is not taken over


@pytest.fixture
def crashed() -> None:
    """An agent of the name has crashed."""
    with endpoint(keep_pins=True, **NAMED) as running:
        crash(running)


def starts_afresh(reason: str, program: tuple[str, ...] = ("-m", "actors.agent")) -> None:
    with endpoint(program=program, **NAMED) as running:
        (line,) = said(running, NOT_TAKEN_OVER)
        assert (line["level"], line["reason"]) == ("warning", reason)
        pid, _ = run("/usr/bin/true")
        assert running.printed(type="exec", pid=pid)
        assert running.stop() == 0
        assert not said(running, UNPINNED)
    assert [event["pid"] for event in running.events if event["type"] == "exec"].count(pid) == 1


@pytest.mark.usefixtures("crashed")
def test_another_version_loads_its_own_probes() -> None:
    starts_afresh("another version", patched("endpoint.VERSION", "'another'"))


@pytest.mark.usefixtures("crashed")
def test_an_incomplete_set_is_loaded_afresh() -> None:
    (PLACE / "link_syscalls_sys_exit_connect").unlink()
    starts_afresh("incomplete")


@pytest.mark.usefixtures("crashed")
def test_what_somebody_else_owns_is_loaded_afresh() -> None:
    os.chown(PLACE / "CONTROL", NOBODY, NOBODY)
    starts_afresh("not ours")


@pytest.mark.usefixtures("crashed")
def test_an_object_of_anothers_making_is_loaded_afresh() -> None:
    (PLACE / "COUNTERS").unlink()
    other = syscalls.sealed_map("COUNTERS", bytes(64))
    syscalls.pin(other, str(PLACE / "COUNTERS"))
    os.close(other)
    starts_afresh("not ours")


# Ends


def test_a_clean_stop_and_a_hasty_one_leave_nothing(build: Callable[[str], Path]) -> None:
    with endpoint(reads_stdout=False, **NAMED) as running:
        assert len(list(PLACE.iterdir())) == len(HELD) + 1  # and what says whose they are
        run(build(EXEC_FLOOD), "1500")
        running.process.send_signal(2)
        running.wait_for(lambda: said(running, "draining"))
        running.process.send_signal(2)
        assert running.process.wait(5) == 130
    assert not PLACE.exists()


def test_a_start_that_fails_leaves_nothing() -> None:
    error = "StartError(ExitCode.LOAD, 'no start today')"
    code, _, stderr = run_agent(program=patched("endpoint._sense", error=error), **NAMED)
    assert (code, stderr) == (6, "lavender: no start today\n")
    assert not PLACE.exists()


@pytest.mark.usefixtures("crashed")
def test_detaching_removes_what_a_crash_has_left_and_says_so() -> None:
    code, stdout, _ = run_agent("--detach", **NAMED)
    assert code == 0
    assert f"removed what agent {AGENT} had left" in stdout
    assert "link_syscalls_sys_exit_openat" in stdout
    assert not PLACE.exists()
    assert run_agent("--detach", **NAMED)[:2] == (0, f"agent {AGENT} has left nothing\n")


def test_detaching_is_refused_while_an_agent_runs() -> None:
    with endpoint(**NAMED) as running:
        code, _, stderr = run_agent("--detach", retry=False, **NAMED)
        assert code == 7
        assert "another Lavender agent" in stderr
        assert (PLACE / pins.IDENTITY).exists()
        assert running.stop() == 0


@pytest.mark.usefixtures("crashed")
def test_an_agent_of_another_name_says_what_is_left() -> None:
    with endpoint() as running:
        (line,) = said(running, "pins of other agents are left; --detach removes them")
        assert AGENT in line["agents"]
        assert running.stop() == 0
    pins.detach(AGENT)


def test_without_bpffs_it_runs_and_says_what_a_crash_would_cost() -> None:
    error = "OSError(errno.EPERM, 'not here')"
    with endpoint(program=patched("pins.open_bpffs", error=error), **NAMED) as running:
        (line,) = said(running, UNPINNED)
        assert (line["level"], line["why"]) == ("warning", "not here")
        assert not said(running, NOT_TAKEN_OVER)
        pid, _ = run("/usr/bin/true")
        assert running.printed(type="exec", pid=pid)
        assert running.stop() == 0


# What is held until it is safe


class Reader:
    """A sensor whose rings are held, and what it has read of one process's children."""

    def __init__(self) -> None:
        self.attached = Loading().finish(Order(AGENT, "of the tests", (NOBODY, NOBODY)))
        self.sensor = KernelSensor(self.attached, Enricher(Users(), HostFiles()), hold=True)

    def read(self) -> list[AnyEvent]:
        """All there is now, committed."""
        events: list[AnyEvent] = []
        for ring, limit in (self.sensor.snapshot() or {}).items():
            events += self.sensor.read(ring, limit)
            self.sensor.commit(ring)
        return events

    def crash(self) -> None:
        """Let go of everything but the pins."""
        self.sensor.close()
        assert self.attached.folder is not None
        pins.close_all((self.attached.folder, *self.attached.descriptors.values()))


def children(events: list[AnyEvent], parent: int) -> list[int]:
    return [event.pid for event in events if isinstance(event, ExecEvent) and event.ppid == parent]


def test_what_was_read_and_not_released_comes_again_after_a_crash(
    build: Callable[[str], Path],
) -> None:
    starter = build(EXEC_FLOOD)
    first = Reader()
    assert first.sensor.start_gap == "no pins"
    safe, _ = run(starter, "5")
    events = first.read()
    assert len(children(events, safe)) == 5
    assert first.sensor.read_count == len(events)
    spooled = first.sensor.positions()
    first.sensor.release(spooled)
    unsafe, _ = run(starter, "5")
    assert len(children(first.read(), unsafe)) == 5
    marks = first.sensor.positions()
    assert marks["EXEC_EVENTS"] > spooled["EXEC_EVENTS"]
    assert not children(first.read(), unsafe), "read once"
    first.crash()

    second = Reader()
    assert second.sensor.taken_over
    assert second.sensor.start_gap is None
    assert second.sensor.load_id == first.sensor.load_id
    assert second.sensor.positions() == spooled
    # What was spooled without a release reaching the ring is known by the spool's marks.
    assert second.sensor.resume({"EXEC_EVENTS": 1 << 50, "NO_RING": 0}) == [
        "EXEC_EVENTS",
        "NO_RING",
    ]
    events = second.read()
    assert not children(events, safe)
    assert len(children(events, unsafe)) == 5
    assert second.sensor.read_count == len(events)
    second.crash()

    third = Reader()
    assert third.sensor.resume(marks) == []
    assert third.sensor.positions() == marks
    events = third.read()
    assert not children(events, unsafe)
    assert_balanced(third.sensor.counters())
    third.sensor.close()
    assert third.attached.detach() == []


def test_the_probes_run_on_every_processor() -> None:
    reader = Reader()
    pids = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        words = ["/usr/bin/taskset", "-c", str(cpu), "/usr/bin/true"]
        process = subprocess.Popen(words)
        assert process.wait() == 0
        pids[process.pid] = cpu
    seen = {event.pid for event in reader.read() if isinstance(event, ExecEvent)}
    assert pids.keys() <= seen
    reader.sensor.close()
    assert reader.attached.detach() == []
