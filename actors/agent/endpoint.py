"""The endpoint's life: attach, drop privileges, run the topology, say how it ended."""

from __future__ import annotations

import fcntl
import gc
import os
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import BinaryIO

import structlog
import trio

from actors import stdio
from actors.agent import privileges
from actors.agent.console import Output, Stream
from actors.agent.enrich import Enricher, Users, host_devices
from actors.agent.exits import ExitCode, StartError, start_error
from actors.agent.kinds import Resources, agent_kinds
from actors.agent.readers import ring_problems
from actors.agent.recording import RecordedSensor, RecordingError
from actors.agent.seeds import ancestors_of
from actors.agent.sensor import KernelSensor, NoSensor, Sensor
from actors.agent.settings import Settings
from actors.detection.paths import DELIVER_ALL, component_names
from actors.runtime import Outcome, Topology, TopologyError, load_topology, run_topology
from bpf.attach import Attached, Loading
from bpf.errors import BpfError

LOCK = Path("/run/lavender-agent.lock")
WATCHING = "Lavender is watching. Ctrl+C to stop"
_TOPOLOGY = "agent"
_GC_THRESHOLD = 20_000


def build_topology(settings: Settings, resources: Resources | None = None) -> Topology:
    """The agent's topology; without resources, one to look at and not to run.

    Raises:
        TopologyError: with every problem found.
    """
    if resources is None:
        resources = Resources(
            settings=settings,
            sensor=NoSensor(),
            output="none",
            stdout=Stream(1),
            stderr=Stream(2),
            recording=None,
            spared=(),
        )
    topology = load_topology(settings.topology, name=_TOPOLOGY, kinds=agent_kinds(resources))
    problems = list(ring_problems(settings.topology[_TOPOLOGY]["actors"]))
    if problems:
        raise TopologyError(problems)
    return topology


def watch(settings: Settings, *, output: Output, record: Path | None) -> int:
    """Run the agent on this machine until it is told to stop; its exit code.

    Raises:
        StartError: before anything of the machine was changed, but for the lock file.
    """
    if os.geteuid() != 0:
        raise StartError(ExitCode.NOT_ROOT, "the agent must start as root: use sudo")
    with ExitStack() as stack:
        stack.enter_context(_lock())
        try:
            loading = Loading()
            recording = _open_recording(record, stack)
            attached = loading.finish()
        except BpfError as error:
            raise start_error(error) from error
        sensor = _sense(settings, attached)
        stack.callback(sensor.close)
        resources = Resources(
            settings=settings,
            sensor=sensor,
            output=output,
            stdout=Stream(stdio.nonblocking(1)),
            stderr=Stream(stdio.nonblocking(2)),
            recording=recording,
            spared=ancestors_of(os.getpid()),
        )
        privileges.drop(_needed(settings))
        _settle_memory()
        return _run(resources, ready=_announce)


def replay(settings: Settings, path: Path, *, output: Output) -> int:
    """Run the same topology on a recording; its exit code.

    Raises:
        StartError: the recording cannot be used, or not to its end.
    """
    try:
        sensor = RecordedSensor(path)
    except RecordingError as error:
        raise StartError(ExitCode.RECORDING, str(error)) from error
    with closing(sensor):
        resources = Resources(
            settings=settings,
            sensor=sensor,
            output=output,
            stdout=Stream(stdio.nonblocking(1)),
            stderr=Stream(stdio.nonblocking(2)),
            recording=None,
            spared=(),
        )
        code = _run(resources)
    if sensor.damage is not None:
        raise StartError(ExitCode.RECORDING, str(sensor.damage))
    return code


def _lock() -> BinaryIO:
    try:
        file = LOCK.open("ab")
    except OSError as error:
        raise StartError(
            ExitCode.ALREADY_RUNNING,
            f"cannot tell whether another agent runs: {LOCK}: {error.strerror}",
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise StartError(
            ExitCode.ALREADY_RUNNING,
            f"another Lavender agent runs on this machine (it holds {LOCK}); stop that one first",
        ) from error
    return file


def _open_recording(record: Path | None, stack: ExitStack) -> BinaryIO | None:
    if record is None:
        return None
    try:
        file = stack.enter_context(record.open("wb", buffering=0))
    except OSError as error:
        raise StartError(ExitCode.RECORDING, f"{record}: {error.strerror}") from error
    if not file.seekable():
        raise StartError(ExitCode.RECORDING, f"{record}: is not a file; a pipe cannot be mended")
    return file


def _sense(settings: Settings, attached: Attached) -> KernelSensor:
    sensor = KernelSensor(attached, Enricher(Users(), host_devices()))
    names = component_names(settings.filters.sensitive_files)
    sensor.control.set_agent(os.getpid())
    sensor.control.set_opens(
        names - {DELIVER_ALL},
        every_open=settings.filters.open_events == "all" or DELIVER_ALL in names,
        suppress_ns=int(settings.agent.open_repeat_secs * 1e9),
    )
    return sensor


def _needed(settings: Settings) -> frozenset[privileges.Capability]:
    """What the enabled actors need: the correlator and the responder read /proc, one may kill."""
    kinds = {actor.kind for actor in build_topology(settings).children}
    needed = {privileges.Capability.DAC_READ_SEARCH, privileges.Capability.SYS_PTRACE}
    if "responder" in kinds and not settings.response.dry_run:
        needed.add(privileges.Capability.KILL)
    return frozenset(needed)


def _settle_memory() -> None:
    """Exempt what lives for ever from garbage collection, and collect the rest less often.

    Events and batches form no cycles: reference counting frees them at once.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 20, 50)


def _announce() -> None:
    stdio.write_now(2, f"{WATCHING}\n".encode())


def _run(resources: Resources, *, ready: Callable[[], None] | None = None) -> int:
    topology = build_topology(resources.settings, resources)
    outcome: Outcome = trio.run(_until_done, topology, ready)
    _report(outcome, resources.sensor, (resources.stdout, resources.stderr))
    return outcome.reason.value


async def _until_done(topology: Topology, ready: Callable[[], None] | None) -> Outcome:
    return await run_topology(topology, ready=ready)


def _report(outcome: Outcome, sensor: Sensor, streams: tuple[Stream, Stream]) -> None:
    """Say how it ended and what, if anything, was lost on the way."""
    log = structlog.get_logger()
    if outcome.error is not None:
        cause = outcome.error.__cause__ or outcome.error
        log.error("stopped by an error", why=str(outcome.error), cause=repr(cause))
    lost = sum(counts["lost"] for counts in sensor.counters().values())
    dropped = sum(each.items_dropped for each in outcome.statistics.values())
    unprinted = sum(stream.lines_dropped for stream in streams)
    report = log.warning if lost or dropped or unprinted else log.info
    report(
        "stopped",
        reason=outcome.reason.name.lower(),
        lost_in_kernel=lost,
        dropped_by_actors=dropped,
        lines_not_printed=unprinted,
        probes=sensor.counters(),
    )
