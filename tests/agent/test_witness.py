"""What becomes of a notice: an event of its own unless a probe tells of the same open."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from actors.agent.marks import Marks
from actors.agent.witness import LOOK_NS, WAIT_NS, Witness
from actors.detection.events import ExecEvent, ExitEvent, ForkEvent, OpenEvent
from actors.detection.paths import SensitivePaths
from bpf.fanotify import CREATE, MOVED_TO, OPEN, OVERFLOW, Group, Notice
from tests.agent.cast import an_exec

PID, START = 70_000_000, 10_000_000
"""A pid that no process has."""
SHADOW = "/etc/shadow"
SECOND = 1_000_000_000
ROOT = os.open("/", os.O_PATH)


class Queue:
    """A group whose notices a test has written."""

    descriptor = -1
    drained = True

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self.passed_over: list[bytes] = []

    def read(self, size: int) -> Iterator[Notice]:
        taken, self.notices = self.notices, []
        return iter(taken)

    def ignore(self, root: int, path: bytes) -> None:
        self.passed_over.append(path)


class Scene:
    """A witness of /etc, a clock, and what happens."""

    def __init__(self) -> None:
        self.now_ns = 100 * SECOND
        self.queue = Queue()
        self.marks = marks = Marks(cast("Group", self.queue), SensitivePaths([SHADOW]), ROOT)
        marks.files[b"shadow"] = SHADOW
        marks.folders[b"etc"] = "/etc"
        self.witness = Witness(marks, clock_ns=lambda: self.now_ns)
        self.after(0.04)

    def after(self, secs: float) -> list[OpenEvent]:
        """Let time pass, and take the events that are ready then."""
        self.now_ns += int(secs * SECOND)
        found = list(self.witness.read(self.witness.look()))
        self.witness.commit(len(found))
        return found

    def notice(self, name: str = "shadow", file: bytes = b"shadow", **fields: Any) -> None:
        words = {"mask": OPEN, "pid": PID, "folder": b"etc", "name": name.encode(), "file": file}
        self.queue.notices.append(Notice(**{**words, **fields}))

    def run(self, *, comm: str = "cat", pid: int = PID, time_ns: int = 0) -> ExecEvent:
        event = an_exec(pid=pid, start_ns=START, comm=comm, uid=7, time_ns=time_ns or self.now_ns)
        self.witness.learn("EXEC_EVENTS", [event])
        return event

    def probe(self, path: str = SHADOW, *, time_ns: int = 0, **fields: Any) -> None:
        words = {"resolved": True, "flags": 0, "error": 0, **fields}
        event = OpenEvent(time_ns or self.now_ns, PID, START, 7, "cat", path, **words)
        self.witness.learn("OPEN_EVENTS", [event])

    def counts(self) -> dict[str, int]:
        found = self.witness.counters()
        assert found["seen"] == sum(found.values()) - found["seen"]
        return {name: count for name, count in found.items() if count and name != "seen"}


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_what_no_probe_tells_is_an_event_after_a_second(scene: Scene) -> None:
    scene.run()
    scene.after(0.1)
    scene.notice()
    assert not scene.after(0.04)
    read_ns = scene.now_ns
    (event,) = scene.after(1.1)
    assert event == OpenEvent(
        read_ns, PID, START, 7, "cat", SHADOW, resolved=True, flags=0, error=0, witness=True
    )
    assert scene.counts() == {"delivered": 1}
    assert scene.witness.position == 1


@pytest.mark.parametrize("early", [True, False])
def test_what_a_probe_tells_is_not_told_again(scene: Scene, *, early: bool) -> None:
    scene.run()
    scene.notice()
    if early:
        scene.probe(time_ns=scene.now_ns + 1)
    scene.after(0.04)
    if not early:
        scene.probe(time_ns=scene.now_ns - SECOND // 100)
    assert not scene.after(1.1)
    assert scene.counts() == {"suppressed": 1}


def test_a_file_that_a_mount_shows_elsewhere_is_joined_by_its_origin(scene: Scene) -> None:
    scene.notice()
    scene.probe("/mnt/x", origin=SHADOW, time_ns=scene.now_ns + 1)
    scene.after(0.04)
    assert not scene.after(1.1)


@pytest.mark.parametrize("path", ["/tmp/shadow", "/tmp/etc/shadow", "/etc/gshadow"])
def test_an_open_of_another_file_excuses_nothing(scene: Scene, path: str) -> None:
    scene.notice()
    scene.probe(path)
    scene.after(0.04)
    assert scene.after(1.1)


@pytest.mark.parametrize(
    "fields",
    [
        {"error": errno.EACCES, "resolved": False},
        {"resolved": False},
        {"flags": os.O_PATH},
        {"flags": os.O_DIRECTORY},
    ],
)
def test_what_the_caller_only_says_or_does_not_open_excuses_nothing(
    scene: Scene, fields: dict[str, Any]
) -> None:
    scene.notice()
    scene.probe(**fields)
    scene.after(0.04)
    assert scene.after(1.1)


@pytest.mark.parametrize("later", [False, True])
def test_an_open_to_write_excuses_no_later_one(scene: Scene, *, later: bool) -> None:
    scene.probe(flags=os.O_WRONLY, time_ns=scene.now_ns + 1)
    if later:
        scene.after(0.04)
    scene.notice()
    scene.after(0.04)
    assert bool(scene.after(1.1)) is later


def test_a_notice_that_waited_in_the_queue_is_joined_all_the_same(scene: Scene) -> None:
    scene.queue.drained = False
    scene.probe(time_ns=scene.now_ns + 1, flags=os.O_WRONLY)
    for _ in range(20):
        scene.after(0.04)
    scene.notice()
    scene.queue.drained = True
    scene.after(0.04)
    assert not scene.after(1.1)


def test_a_repeat_that_the_probe_suppresses_is_none_of_the_witness(scene: Scene) -> None:
    scene.run()
    scene.probe()
    scene.after(0.8)
    scene.notice()
    scene.after(0.04)
    assert not scene.after(1.1)


def test_an_open_before_another_program_excuses_nothing(scene: Scene) -> None:
    scene.run(comm="sudo")
    scene.after(0.1)
    scene.probe()
    scene.after(0.2)
    scene.run(comm="cat")
    scene.after(0.2)
    scene.notice()
    scene.after(0.04)
    (event,) = scene.after(1.1)
    assert event.comm == "cat"


def test_an_open_by_the_next_program_excuses_nothing(scene: Scene) -> None:
    scene.notice()
    scene.after(0.04)
    scene.run(comm="passwd", time_ns=scene.now_ns + 1_000_000)
    scene.probe(time_ns=scene.now_ns + 2_000_000)
    assert scene.after(1.1)


def test_no_program_is_believed_that_may_have_come_after(scene: Scene) -> None:
    scene.run(comm="sudo", time_ns=scene.now_ns + 5_000_000)
    scene.notice()
    scene.after(0.04)
    (event,) = scene.after(1.1)
    assert event.time_ns < scene.now_ns - WAIT_NS - 35_000_000


def test_one_process_is_told_once_a_second(scene: Scene) -> None:
    told = 0
    for _ in range(100):
        scene.notice()
        told += len(scene.after(0.05))
    assert 2 <= told <= 5
    assert scene.counts()["suppressed"] >= 90


def test_a_process_that_nobody_knows_is_told(scene: Scene) -> None:
    scene.notice()
    scene.after(0.04)
    (event,) = scene.after(1.1)
    assert (event.pid, event.start_ns, event.comm) == (PID, 0, "?")


def test_a_process_is_known_for_a_while_after_its_end(scene: Scene) -> None:
    scene.witness.learn("FORK_EVENTS", [ForkEvent(1, PID, START, 1, 0, 7, "thief")])
    scene.witness.learn("EXIT_EVENTS", [ExitEvent(2, PID, START, 0, 0)])
    scene.notice()
    scene.after(0.04)
    assert [event.comm for event in scene.after(1.1)] == ["thief"]
    scene.after(2.1)
    scene.notice()
    scene.after(1.1)
    assert [event.comm for event in scene.after(1.1)] == ["?"]


def test_a_running_process_that_was_missed_is_asked_of_proc(scene: Scene) -> None:
    scene.notice(pid=os.getppid())
    scene.after(0.04)
    (event,) = scene.after(1.1)
    assert event.start_ns
    assert event.comm != "?"


def test_the_agent_and_the_ignored_are_left_out(scene: Scene) -> None:
    scene.witness.ignore(scene.run())
    scene.after(0.01)
    scene.after(0.01)
    scene.notice()
    scene.notice(pid=os.getpid())
    scene.after(0.04)
    assert not scene.after(1.1)
    assert scene.counts() == {"filtered": 2}


def test_what_an_ignored_program_executes_is_not_ignored(scene: Scene) -> None:
    first = scene.run(comm="backup")
    scene.after(0.01)
    scene.run(comm="thief")
    scene.witness.ignore(first)
    scene.notice()
    scene.after(0.04)
    assert [event.comm for event in scene.after(1.1)] == ["thief"]


def test_becoming_an_ignored_program_afterwards_excuses_nothing(scene: Scene) -> None:
    scene.notice()
    scene.after(0.04)
    scene.witness.ignore(scene.run(comm="backup"))
    assert scene.after(1.1)


def test_what_lies_beside_is_passed_over_once_if_everybody_may_read_it(scene: Scene) -> None:
    for _ in range(3):
        scene.notice("profile", b"profile")
        scene.notice("gshadow", b"groups")
        scene.notice("nothing", b"gone")
        assert not scene.after(0.04)
    assert scene.queue.passed_over == [b"etc/profile"]
    assert scene.counts() == {"filtered": 9}


def test_what_is_new_beside_may_yet_be_the_file(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new").write_text("x")
    folder = str(tmp_path)
    scene.marks.folders[b"tmp"] = folder
    scene.notice("new", b"new", folder=b"tmp")
    scene.after(0.04)
    assert not scene.queue.passed_over
    monkeypatch.setattr(time, "time", lambda: (tmp_path / "new").stat().st_ctime + 61)
    scene.notice("new", b"new", folder=b"tmp")
    scene.after(0.04)
    assert scene.queue.passed_over == [os.fsencode(f"{folder}/new"[1:])]


def test_another_name_of_the_file_is_the_file(scene: Scene) -> None:
    scene.notice("innocent", folder=b"tmp")
    scene.after(0.04)
    (event,) = scene.after(1.1)
    assert event.filename == SHADOW


@pytest.mark.parametrize("mask", [MOVED_TO, CREATE])
def test_what_takes_the_place_of_a_file_is_known_too(scene: Scene, mask: int) -> None:
    scene.notice(file=b"new", mask=mask)
    scene.after(0.04)
    scene.notice("innocent", folder=b"tmp", file=b"new")
    scene.after(0.04)
    (event,) = scene.after(1.1)
    assert event.filename == SHADOW
    assert scene.counts() == {"delivered": 1}


def test_an_overflow_is_a_loss(scene: Scene) -> None:
    scene.notice(mask=OVERFLOW, pid=0, folder=b"", name="", file=b"")
    scene.after(0.04)
    assert scene.counts() == {"lost": 1}


def test_a_flood_is_bounded_and_counted(scene: Scene) -> None:
    for pid in range(PID, PID + 5000):
        scene.notice(pid=pid)
    scene.after(0.04)
    assert len(scene.after(1.1)) == 4096
    assert scene.counts() == {"delivered": 4096, "lost": 904}


def test_the_queue_is_not_looked_at_all_the_time(scene: Scene) -> None:
    scene.notice()
    scene.after(LOOK_NS / 2 / SECOND)
    assert scene.queue.notices
    scene.after(LOOK_NS / SECOND)
    assert not scene.queue.notices


def test_a_position_goes_on_where_the_agent_before_stood(scene: Scene) -> None:
    scene.witness.resume(3)
    scene.notice()
    scene.after(0.04)
    assert scene.after(1.1)
    assert scene.witness.position == 4
    assert scene.counts() == {"delivered": 4}


def test_without_marks_nothing_is_seen() -> None:
    witness = Witness(None)
    assert witness.look() == 0
    assert not witness.descriptors
    assert not any(witness.counters().values())
    witness.close()
