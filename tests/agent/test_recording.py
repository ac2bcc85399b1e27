# ruff: noqa: ASYNC230, ASYNC240 - small files of the test's own, and nothing else runs
import contextlib
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog.testing
import trio
from hypothesis import given
from hypothesis import strategies as st

from actors.agent.console import Stream
from actors.agent.endpoint import build_topology
from actors.agent.kinds import Resources
from actors.agent.messages import EventLog
from actors.agent.recording import RecordedSensor, Recorder
from actors.agent.sensor import RING_NAMES
from actors.agent.settings import Settings
from actors.detection.events import (
    AnyEvent,
    ConnectEvent,
    ExecEvent,
    ExitEvent,
    ForkEvent,
    OpenEvent,
    SeedEvent,
)
from actors.recordings import RecordingError
from actors.runtime import ExitReason, Outcome, run_topology
from actors.runtime.testing import run_actor
from tests.agent.cast import Script, fork, recording, reverse_shell

RINGS = dict(
    zip((ForkEvent, ExecEvent, ExitEvent, OpenEvent, ConnectEvent), RING_NAMES, strict=False)
)
HEADER = b'{"lavender_recording":1,"boot_id":"x","boot_unix_ns":5,"seeds":[]}\n'

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40)
i63 = st.integers(0, 2**63 - 1)
u32 = st.integers(0, 2**32 - 1)
pids = st.integers(0, 2**31 - 1)
stamp = {"time_ns": i63, "pid": pids, "start_ns": i63}
parent = {"ppid": pids, "parent_start_ns": i63, "uid": u32}
argv = st.lists(texts, max_size=3).map(tuple)
events: st.SearchStrategy[Any] = st.one_of(
    st.builds(ForkEvent, **stamp, **parent, comm=texts),
    st.builds(
        ExecEvent,
        **stamp,
        **parent,
        login_uid=u32,
        cgroup_id=i63,
        comm=texts,
        filename=texts,
        exe=texts,
        system_exe=st.booleans(),
        argv=argv,
        argv_cut=st.booleans(),
        cwd=texts,
        user=texts,
        error=st.integers(0, 4095),
    ),
    st.builds(ExitEvent, **stamp, exit_code=st.integers(0, 255), signal=st.integers(0, 64)),
    st.builds(
        OpenEvent,
        **stamp,
        uid=u32,
        comm=texts,
        filename=texts,
        resolved=st.booleans(),
        flags=u32,
        error=st.integers(0, 4095),
    ),
    st.builds(
        ConnectEvent,
        **stamp,
        uid=u32,
        user=texts,
        comm=texts,
        af=st.integers(0, 50),
        dest_ip=texts,
        dest_port=st.integers(0, 65535),
        path=texts,
        error=st.integers(0, 4095),
    ),
)
seeds = st.builds(
    SeedEvent, **stamp, **parent, comm=texts, exe=texts, system_exe=st.booleans(), argv=argv
)


async def record(
    sweeps: Sequence[Sequence[AnyEvent]], file: Any, *, seeds: Sequence[SeedEvent] = ()
) -> Recorder:
    recorder = Recorder(sensor=Script(seeds=seeds), file=file)
    async with run_actor(recorder) as stage:
        for sweep in sweeps:
            await stage.context.mailbox.put(EventLog(sweep))
    return recorder


def replay(path: Path) -> Iterator[dict[str, list[AnyEvent]]]:
    """What each sweep of a recording holds, by ring."""
    sensor = RecordedSensor(path)
    while (limits := sensor.snapshot()) is not None:
        yield {ring: list(sensor.read(ring, limit)) for ring, limit in limits.items()}
        for ring in limits:
            sensor.commit(ring)
            assert list(sensor.read(ring, 1)) == []
    sensor.close()
    if sensor.damage is not None:
        raise sensor.damage


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "recording"


@given(
    sweeps=st.lists(st.lists(events, max_size=6), max_size=4), before=st.lists(seeds, max_size=2)
)
def test_what_was_recorded_is_replayed(
    sweeps: list[list[AnyEvent]], before: list[SeedEvent]
) -> None:
    with tempfile.NamedTemporaryFile(buffering=0) as file:
        trio.run(lambda: record(sweeps, file, seeds=before))
        path = Path(file.name)
        sensor = RecordedSensor(path)
        assert list(sensor.seeds()) == before
        sensor.close()
        assert list(replay(path)) == [_by_ring(sweep) for sweep in sweeps]


def _by_ring(sweep: list[AnyEvent]) -> dict[str, list[AnyEvent]]:
    found: dict[str, list[AnyEvent]] = {}
    for ring in RING_NAMES:
        mine = [event for event in sweep if RINGS[type(event)] == ring]
        if mine:
            found[ring] = mine
    return found


async def test_a_fresh_recorder_writes_no_second_header(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        await record([[fork(1)]], file)
        await record([[fork(2)]], file)
    assert list(replay(path)) == [{"FORK_EVENTS": [fork(1)]}, {"FORK_EVENTS": [fork(2)]}]


async def test_without_a_file_there_is_nothing_to_do() -> None:
    recorder = await record([[fork(1)]], None)
    assert recorder.events_dropped == 0


async def test_a_full_disk_is_counted_and_logged_once() -> None:
    with (
        structlog.testing.capture_logs() as logs,
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        recorder = await record([[fork(1)], [fork(2), fork(3)]], full)
    assert recorder.events_dropped == 3
    assert [line["event"] for line in logs] == [
        "recording fails; events are missing",
        "recording is incomplete",
    ]
    assert "No space left" in logs[0]["why"]
    assert logs[1]["events_dropped"] == 3


class FillingDisk(io.FileIO):
    """Takes so many bytes, in small parts, then is full until somebody frees `room`."""

    room = 0

    def write(self, data: Any) -> int:
        if self.room <= 0:
            raise OSError(28, "No space left on device")
        size = min(len(data), self.room, 100)
        self.room -= size
        return super().write(bytes(data)[:size])


async def test_a_line_that_did_not_fit_leaves_no_part_of_itself(path: Path) -> None:
    with FillingDisk(path, "wb") as disk:
        disk.room = len(HEADER) + 400
        recorder = Recorder(sensor=Script(), file=disk)
        async with run_actor(recorder) as stage:
            await _write(stage, disk, [fork(1)])
            await _write(stage, disk, [fork(number) for number in range(50)])
            disk.room = 10_000
            await _write(stage, disk, [fork(3)])
    assert recorder.events_dropped == 50
    assert list(replay(path)) == [{"FORK_EVENTS": [fork(1)]}, {"FORK_EVENTS": [fork(3)]}]


async def test_a_header_that_did_not_fit_is_written_when_there_is_room(path: Path) -> None:
    with FillingDisk(path, "wb") as disk:
        recorder = Recorder(sensor=Script(), file=disk)
        async with run_actor(recorder) as stage:
            await _write(stage, disk, [fork(1)])
            assert path.read_bytes() == b""
            disk.room = 10_000
            await _write(stage, disk, [fork(2)])
    assert recorder.events_dropped == 1
    assert list(replay(path)) == [{"FORK_EVENTS": [fork(2)]}]


async def _write(stage: Any, disk: FillingDisk, sweep: Sequence[AnyEvent]) -> None:
    """Tell a sweep and wait until the disk has had it, one way or the other."""
    mailbox = stage.context.mailbox
    before = mailbox.handled
    await stage.tell(EventLog(sweep))
    with trio.fail_after(5):
        while mailbox.handled == before:  # noqa: ASYNC110 - the recorder tells nobody
            await trio.sleep(0.001)


# What cannot be replayed


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"hello\n",
        b"{}\n",
        b"[]\n",
        b"\x00\xff\xfe\n",
        b'{"lavender_recording":1,"boot_id":"x","boot_unix_ns":-1,"seeds":[]}\n',
        b'{"lavender_recording":1,"boot_id":"x","boot_unix_ns":1e40,"seeds":[]}\n',
        b'{"x":' + b"[" * 200_000,
    ],
)
def test_a_file_that_is_no_recording_is_refused(path: Path, raw: bytes) -> None:
    path.write_bytes(raw)
    with pytest.raises(RecordingError, match="line 1: not a recording"):
        RecordedSensor(path)


def test_another_version_is_refused(path: Path) -> None:
    path.write_bytes(HEADER.replace(b":1,", b":2,", 1))
    with pytest.raises(RecordingError, match="recording format 2; this version replays 1"):
        RecordedSensor(path)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="No such file"):
        RecordedSensor(tmp_path / "none")
    with pytest.raises(RecordingError, match="Is a directory"):
        RecordedSensor(tmp_path)


def line(*sweep: AnyEvent) -> bytes:
    return msgspec.json.encode(list(sweep)) + b"\n"


@pytest.mark.parametrize(
    "damaged",
    [
        b"garbage\n",
        b"\n",
        b"{}\n",
        b'[{"type":"fork"}]\n',
        b'[{"type":"reboot"}]\n',
        line(SeedEvent(1, 1, 1, 0, 0, 0, "x", "x", True, ())),  # noqa: FBT003 - a record's field
        line(fork(2)).replace(b'"bash"', b'"\xff"'),
        b"[" * 200_000 + b"\n",
    ],
)
def test_a_damaged_line_ends_the_replay_and_is_named(path: Path, damaged: bytes) -> None:
    path.write_bytes(HEADER + line(fork(1)) + damaged + line(fork(3)))
    sensor = RecordedSensor(path)
    assert sensor.snapshot() == {"FORK_EVENTS": 1}
    assert sensor.damage is None
    assert sensor.snapshot() is None
    assert str(sensor.damage).startswith(f"{path}: line 3: ")
    assert sensor.snapshot() is None, "what comes after the damage is not replayed either"
    sensor.close()


@pytest.mark.parametrize("tail", [line(fork(2))[:-1], line(fork(2))[:20]])
def test_an_unfinished_last_line_is_an_end_like_any_other(path: Path, tail: bytes) -> None:
    path.write_bytes(HEADER + line(fork(1)) + tail)
    with structlog.testing.capture_logs() as logs:
        assert list(replay(path)) == [{"FORK_EVENTS": [fork(1)]}]
    assert [entry["event"] for entry in logs] == ["recording ends in an unfinished line"]


@given(raw=st.binary(max_size=200))
def test_any_bytes_are_replayed_or_refused(raw: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(HEADER + raw)
        file.flush()
        with contextlib.suppress(RecordingError):
            list(replay(Path(file.name)))


# In the whole topology


async def run(sensor: RecordedSensor, *, file: Any = None) -> Outcome:
    with Path(os.devnull).open("wb") as null:
        resources = Resources(
            settings=Settings(),
            sensor=sensor,
            output="none",
            stdout=Stream(null.fileno()),
            stderr=Stream(null.fileno()),
            recording=file,
            spared=(),
        )
        with trio.fail_after(20):
            return await run_topology(build_topology(Settings(), resources))


async def test_a_recording_of_a_replay_is_the_same_recording(path: Path) -> None:
    path.write_bytes(recording(reverse_shell()))
    copy = path.with_name("copy")
    with copy.open("wb", buffering=0) as file:
        sensor = RecordedSensor(path)
        outcome = await run(sensor, file=file)
        sensor.close()
    assert outcome.reason is ExitReason.DRAINED
    assert copy.read_bytes() == path.read_bytes()


async def test_detection_goes_on_when_the_disk_is_full(path: Path) -> None:
    path.write_bytes(recording(reverse_shell()))
    with Path("/dev/full").open("wb", buffering=0) as full:
        sensor = RecordedSensor(path)
        outcome = await run(sensor, file=full)
        sensor.close()
    assert outcome.reason is ExitReason.DRAINED
    assert outcome.statistics["alert_console"].handled > 0
    assert {each.crashes for each in outcome.statistics.values()} == {0}


async def test_damage_restarts_nobody(path: Path) -> None:
    path.write_bytes(recording(reverse_shell()) + b"garbage\n")
    sensor = RecordedSensor(path)
    outcome = await run(sensor)
    sensor.close()
    assert outcome.reason is ExitReason.DRAINED
    assert sensor.damage is not None
    assert {each.restarts for each in outcome.statistics.values()} == {0}
