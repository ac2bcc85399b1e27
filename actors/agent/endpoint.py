"""The endpoint's life: attach, drop privileges, run the topology, say how it ended."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import BinaryIO

import structlog
import trio

from actors import notify, stdio
from actors.agent import lock, memory, privileges, publishing, witness
from actors.agent.confinement import Confinement, Work
from actors.agent.console import Output, Stream
from actors.agent.enrich import Enricher, Users
from actors.agent.exits import ExitCode, StartError, start_error
from actors.agent.heartbeat import BEATS_MISSED
from actors.agent.hostfiles import HostFiles
from actors.agent.kinds import Resources, agent_kinds
from actors.agent.readers import ring_problems
from actors.agent.recording import RecordedSensor
from actors.agent.seeds import ancestors_of, start_ns_of
from actors.agent.sensor import KernelSensor, NoSensor, Sensor
from actors.agent.settings import Settings
from actors.agent.spooling import Publishing
from actors.detection.paths import DELIVER_ALL, component_names
from actors.recordings import RecordingError
from actors.rulefiles import RuleFiles
from actors.runtime import Outcome, Topology, TopologyError, load_topology, run_topology
from actors.version import VERSION
from bpf import pins
from bpf.attach import Attached, Loading, Order
from bpf.control import Opens
from bpf.errors import BpfError
from transport import crossing
from transport.errors import TransportError
from transport.spool_errors import SpoolError

WATCHING = "Lavender is watching. Ctrl+C to stop"
_TOPOLOGY = "agent"
UNREMARKABLE_GAPS = ("no pins", "no bpffs")
"""Reasons why nothing watched before a start that need no warning of their own."""


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


def watch(
    settings: Settings,
    *,
    rules: RuleFiles,
    output: Output,
    record: Path | None,
    loading: Loading | None,
) -> int:
    """Run the agent on this machine until it is told to stop; its exit code.

    Args:
        settings: of the configuration.
        rules: what to look for.
        output: what to print.
        record: a file to record to.
        loading: the loader, if it is at work already.

    Raises:
        StartError: nothing of the machine was changed, but for the lock file and the spool's
            folder.
    """
    _need_root("the agent must start as root")
    with ExitStack() as stack:
        stack.enter_context(_lock())
        recording = _open_recording(record, stack)
        # Before the probes: a start that fails here leaves a crashed agent's pins as they are.
        prepared = _prepare_publishing(settings)
        attached = _attach(settings, loading)
        stack.callback(_detach, attached)
        _tell_of_start(attached)
        sensor = _sense(settings, attached, hold=prepared is not None)
        stack.callback(sensor.close)
        spared = ancestors_of(os.getpid())
        work = _work(settings, prepared, attached, rules)
        _give_up_root(work.kills)
        rules.warn_of_unreadable()
        resources = Resources(
            settings=settings,
            sensor=sensor,
            output=output,
            stdout=Stream(stdio.nonblocking(1)),
            stderr=Stream(stdio.nonblocking(2)),
            recording=recording,
            spared=spared,
            publishing=publishing.try_to_open(settings, prepared, sensor, rules=rules),
            rules=rules,
        )
        if resources.publishing is None:
            sensor.let_go()
        memory.settle()
        notify.connect()
        confinement = resources.confinement
        confinement.close_files(work)
        beat = settings.agent.heartbeat_interval_secs
        return _run(resources, ready=partial(_announce, beat, confinement, work))


def replay(settings: Settings, path: Path, *, rules: RuleFiles, output: Output) -> int:
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
            rules=rules,
        )
        code = _run(resources)
    if sensor.damage is not None:
        raise StartError(ExitCode.RECORDING, str(sensor.damage))
    return code


def detach(agent_id: str) -> str:
    """Remove what an agent of this id has left pinned; says what that was.

    Raises:
        StartError: not root, or an agent runs, or the kernel refuses.
    """
    _need_root("only root may remove probes")
    with _lock():
        try:
            names = pins.detach(agent_id)
        except OSError as error:
            raise StartError(
                ExitCode.LOAD, f"what agent {agent_id} left pinned cannot be removed: {error}"
            ) from error
    if not names:
        return f"agent {agent_id} has left nothing\n"
    return f"removed what agent {agent_id} had left in bpffs: {', '.join(names)}\n"


def _need_root(text: str) -> None:
    if os.geteuid() != 0:
        raise StartError(ExitCode.NOT_ROOT, f"{text}: use sudo")


def _attach(settings: Settings, loading: Loading | None) -> Attached:
    user = privileges.unprivileged_user()
    order = Order(settings.agent.agent_id, VERSION, (user.pw_uid, user.pw_gid))
    try:
        return (loading or Loading()).finish(order)
    except BpfError as error:
        raise start_error(error) from error


def _tell_of_start(attached: Attached) -> None:
    """Say whether the time before this start was watched, and whether a crash now would be."""
    log = structlog.get_logger()
    if attached.taken_over:
        log.info("took over the probes of an agent that crashed", load_id=attached.load_id)
    elif attached.gap not in UNREMARKABLE_GAPS:
        log.warning(
            "what an earlier agent left pinned was not taken over",
            reason=attached.gap,
            why=attached.detail,
        )
    if attached.folder is None:
        log.warning("nothing is pinned: a crash would lose events", why=attached.detail)
    if attached.bpffs:
        log.warning("bpffs was open to others", why=attached.bpffs)
    if attached.others:
        log.warning("pins of other agents are left; --detach removes them", agents=attached.others)


def _detach(attached: Attached) -> None:
    for why in attached.detach():
        structlog.get_logger().error("pins are left; --detach removes them", why=why)


def _lock() -> BinaryIO:
    path = lock.LOCK
    try:
        return os.fdopen(lock.take(path), "rb")
    except OSError as error:
        raise StartError(
            ExitCode.ALREADY_RUNNING,
            f"cannot tell whether another agent runs: {path}: {error.strerror}",
        ) from error
    except lock.LockHeldError as error:
        raise StartError(
            ExitCode.ALREADY_RUNNING,
            f"another Lavender agent runs on this machine ({error}, holds {path}); "
            "stop that one first",
        ) from error


def _open_recording(record: Path | None, stack: ExitStack) -> BinaryIO | None:
    if record is None:
        return None
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        file = stack.enter_context(os.fdopen(os.open(record, flags, 0o600), "wb", buffering=0))
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # a device is everybody's
            os.fchmod(file.fileno(), 0o600)
    except OSError as error:
        raise StartError(ExitCode.RECORDING, f"{record}: {error.strerror}") from error
    if not file.seekable():
        raise StartError(ExitCode.RECORDING, f"{record}: is not a file; a pipe cannot be mended")
    return file


def _prepare_publishing(settings: Settings) -> publishing.Prepared | None:
    """What publishing needs of root; None if nothing is to be published.

    Raises:
        StartError: the credentials, or the spool's folder, cannot be used.
    """
    kinds = {actor.kind for actor in build_topology(settings).children}
    if not settings.publish.enabled or "publisher" not in kinds:
        return None
    try:
        return publishing.prepare(settings)
    except TransportError as error:
        raise StartError(ExitCode.CONFIG, str(error)) from error
    except (OSError, SpoolError) as error:
        raise StartError(
            ExitCode.CONFIG,
            f"publish.spool = {settings.publish.spool}: cannot be used: {error}; name another "
            "folder, or set publish.enabled = false",
        ) from error


def _sense(settings: Settings, attached: Attached, *, hold: bool) -> KernelSensor:
    sensor = KernelSensor(
        attached,
        Enricher(Users(), HostFiles()),
        witness=witness.begin(
            settings.filters.sensitive_files, repeat_secs=settings.agent.open_repeat_secs
        ),
        hold=hold,
    )
    names = component_names(settings.filters.sensitive_files)
    guarded = component_names(settings.filters.guarded_files)
    sensor.control.watch_all()
    sensor.control.set_agent(os.getpid(), start_ns_of(os.getpid()) or 0)
    sensor.control.set_opens(
        names - {DELIVER_ALL},
        guarded=guarded - {DELIVER_ALL},
        opens=_opens(names, guarded, settings.filters.open_events),
        suppress_ns=int(settings.agent.open_repeat_secs * 1e9),
    )
    return sensor


def _opens(names: AbstractSet[str], guarded: AbstractSet[str], wanted: Opens) -> Opens:
    """Which opens the kernel must deliver: more than is wanted where names cannot decide."""
    if DELIVER_ALL in names:
        return "all"
    return "written" if wanted == "sensitive" and DELIVER_ALL in guarded else wanted


def _kills(settings: Settings) -> bool:
    """Whether the agent may kill processes: nothing else that it does needs a capability."""
    kinds = {actor.kind for actor in build_topology(settings).children}
    return "responder" in kinds and not settings.response.dry_run


def _give_up_root(kills: bool) -> None:  # noqa: FBT001 - the one thing that matters
    left = privileges.drop({privileges.Capability.KILL} if kills else ())
    if left:
        structlog.get_logger().warning("the capability bounding set is not empty", why=left)


def _work(
    settings: Settings, prepared: publishing.Prepared | None, attached: Attached, rules: RuleFiles
) -> Work:
    return Work(
        spool=None if prepared is None else prepared.folder,
        pins=attached.folder,
        rules=rules.folder,
        broker_url=None if prepared is None else settings.agent.nats_url,
        kills=_kills(settings),
    )


def _announce(heartbeat_secs: float, confinement: Confinement, work: Work) -> None:
    """Give up what only the start needed, and say that it is over."""
    confinement.close_calls(work)
    structlog.get_logger().info("confined", **confinement.status())
    stdio.write_now(2, f"{WATCHING}\n".encode())
    notify.ready("watching")
    notify.allow_secs(BEATS_MISSED * heartbeat_secs)


def _run(resources: Resources, *, ready: Callable[[], None] | None = None) -> int:
    topology = build_topology(resources.settings, resources)
    outcome: Outcome = trio.run(_until_done, topology, ready, resources.publishing)
    _report(outcome, resources.sensor, (resources.stdout, resources.stderr))
    return outcome.reason.value


async def _until_done(
    topology: Topology, ready: Callable[[], None] | None, published: Publishing | None
) -> Outcome:
    if published is None:
        return await run_topology(topology, ready=ready)
    async with crossing.open_loop(), trio.open_nursery() as nursery:
        nursery.start_soon(published.shipping.connect)
        outcome = await run_topology(topology, ready=ready)
        await published.shipping.close()
        nursery.cancel_scope.cancel()
    return outcome


def _report(outcome: Outcome, sensor: Sensor, streams: tuple[Stream, Stream]) -> None:
    """Say how it ended and what, if anything, was lost on the way."""
    log = structlog.get_logger()
    if outcome.error is not None:
        cause = outcome.error.__cause__ or outcome.error
        log.error("stopped by an error", why=str(outcome.error), cause=repr(cause))
    probes = sensor.counters()
    lost, throttled = (
        sum(counts[word] for counts in probes.values()) for word in ("lost", "throttled")
    )
    dropped = sum(each.items_dropped for each in outcome.statistics.values())
    unprinted = sum(stream.lines_dropped for stream in streams)
    report = log.warning if lost or throttled or dropped or unprinted else log.info
    report(
        "stopped",
        reason=outcome.reason.name.lower(),
        lost_in_kernel=lost,
        throttled_in_kernel=throttled,
        dropped_by_actors=dropped,
        lines_not_printed=unprinted,
        probes=probes,
    )
