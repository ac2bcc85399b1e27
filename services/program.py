"""The program of a service: command line, configuration, checks, and the life of its topology.

Exit codes: those of `actors.runtime.ExitReason`, and 2 for a configuration that cannot be used, 71
for a broker that will not have us (credentials, version), 1 for a failed ``--check``.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import trio

from actors import config, logs, notify, stdio
from actors.rulebook import folder_of
from actors.runtime import Outcome, Topology, TopologyError, load_topology, render, run_topology
from actors.usage import Parser, program_name
from actors.version import VERSION
from services import checks
from services.gate import Gate
from services.metrics import Metrics
from services.parts import COMMON_ACTORS, Part, Resources, common_kinds
from services.settings import Settings
from services.stack.broker import keep_running
from services.store import open_store
from services.store.interface import StoreError
from transport import crossing
from transport.errors import CredentialsError, ServerError, TransportError
from transport.server import EmbeddedServer
from transport.session import Session

CONFIG_ERROR = 2
BROKER_ERROR = 71
STORE_ERROR = 74
_GOODBYE_SECS = 2.0
_GC_THRESHOLD = 20_000
_SERVER_STOPS_SECS = 10.0


def parser(name: str, *, epilog: str = "") -> Parser:
    """The options every service has."""
    made = Parser(
        prog=program_name(f"services.{name}", command=f"lavender {name.replace('_', '-')}"),
        description=f"Lavender's {name.replace('_', ' ')}.",
        epilog=epilog or None,
    )
    made.add_argument("--config", type=Path, metavar="FILE", help="use this lavender.toml")
    mode = made.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="say whether it can run here")
    mode.add_argument("--show-topology", action="store_true", help="print actors and edges")
    made.add_argument("--version", action="version", version=f"Lavender {VERSION}")
    return made


def load_settings(chosen: Path | None) -> Settings:
    """The configuration; says on standard error where there is none.

    The folder of the rules is absolute in it, if there is one.

    Raises:
        ConfigError: it cannot be used.
    """
    program = Path(__file__).resolve().parent
    try:
        start = Path.cwd()
    except OSError:  # it has been removed
        start = program
    settings, source = config.load(Settings, start=start, program=program, chosen=chosen)
    if source.path is None:
        stdio.say("warning: no lavender.toml found; using the built-in defaults")
        return settings
    rules = settings.rules.model_copy(update={"folder": folder_of(settings.rules, source.path)})
    return settings.model_copy(update={"rules": rules})


def main(part: Part, words: Sequence[str] | None = None, *, epilog: str = "") -> int:
    """Run one service; the exit code. The epilog ends its help."""
    options = parser(part.name, epilog=epilog).parse_args(sys.argv[1:] if words is None else words)
    stdio.open_missing()
    logs.configure(pretty=False)
    try:
        settings = load_settings(options.config)
        listen = getattr(settings, part.name).listen
        return run(part.name, (part,), settings, listen=listen, options=options)
    except config.ConfigError as error:
        stdio.say(str(error))
        return CONFIG_ERROR


def run(  # noqa: PLR0913 - what one process is made of
    name: str,
    parts: Sequence[Part],
    settings: Settings,
    *,
    listen: str,
    options: Any,
    server: EmbeddedServer | None = None,
    announce: Callable[[], None] | None = None,
) -> int:
    """Do what the options ask for with these parts in one process; the exit code.

    Args:
        name: of the topology.
        parts: the services.
        settings: the configuration.
        listen: where metrics are served.
        options: of the command line.
        server: a broker that lives with them.
        announce: called once when all actors have started.

    Raises:
        ConfigError: the topology, or a file with credentials, cannot be used.
    """
    needs_store = any(part.needs_store for part in parts)
    resources = Resources(
        settings=settings,
        session=_session(settings, name),
        gate=Gate(open_store(settings.store)) if needs_store else None,
        metrics=Metrics(),
        listen=listen,
    )
    topology = build_topology(name, parts, resources)
    if options.show_topology:
        stdio.write_all(1, render(topology))
        return 0
    if options.check:
        table, good = trio.run(checks.check, resources, topology)
        stdio.write_all(1, table)
        return 0 if good else 1
    return serve(resources, topology, server=server, announce=announce)


def _session(settings: Settings, name: str) -> Session:
    """The broker, not yet connected.

    Raises:
        ConfigError: a file with credentials or certificates cannot be used.
    """
    try:
        return Session(settings.broker, name=name.replace("_", "-"))
    except CredentialsError as error:
        raise config.ConfigError(str(error)) from error


def build_topology(name: str, parts: Sequence[Part], resources: Resources) -> Topology:
    """The topology of the configuration, or the parts' own.

    Raises:
        ConfigError: with every problem found.
    """
    kinds = common_kinds(resources, [each for part in parts for each in part.consumers])
    actors: dict[str, Any] = dict(COMMON_ACTORS)
    for part in parts:
        kinds |= part.kinds(resources)
        actors |= part.actors
    tables = {name: {"actors": actors}} | resources.settings.topology
    try:
        return load_topology(tables, name=name, kinds=kinds)
    except TopologyError as error:
        raise config.ConfigError("\n".join(map(str, error.problems))) from error


def serve(
    resources: Resources,
    topology: Topology,
    *,
    server: EmbeddedServer | None = None,
    announce: Callable[[], None] | None = None,
) -> int:
    """Run until told to stop; the exit code."""
    log = structlog.get_logger().bind(service=topology.name)
    failures: list[Exception] = []
    # What is there now lives for ever, and batches of events form no cycles.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 20, 50)
    outcome = trio.run(_live, resources, topology, failures, server, announce)
    for failure in failures:
        stdio.say(str(failure))
        return BROKER_ERROR
    if outcome is None:
        return BROKER_ERROR
    if outcome.error is not None:
        cause = outcome.error.__cause__ or outcome.error
        if isinstance(cause, StoreError | TransportError):
            stdio.say(str(cause))
            return STORE_ERROR if isinstance(cause, StoreError) else BROKER_ERROR
        log.error("stopped by an error", why=str(outcome.error), cause=repr(cause))
    log.info("stopped", reason=outcome.reason.name.lower(), **_totals(resources))
    return outcome.reason.value


def _totals(resources: Resources) -> dict[str, Any]:
    return {"broker": asdict(resources.session.statistics())}


async def _live(
    resources: Resources,
    topology: Topology,
    failures: list[Exception],
    server: EmbeddedServer | None,
    announce: Callable[[], None] | None,
) -> Outcome | None:
    """The topology beside its connection; None if the broker would not have us."""
    session, metrics = resources.session, resources.metrics
    metrics.add("broker", lambda: asdict(session.statistics()) | {"connected": session.connected})
    metrics.check("broker", lambda: session.connected)
    gate = resources.gate
    if gate is not None:
        metrics.check("store", lambda: gate.available)
    outcome: Outcome | None = None
    try:
        async with crossing.open_loop(), trio.open_nursery() as nursery:

            async def stay_connected() -> None:
                await trio.lowlevel.checkpoint()
                try:
                    await session.run()
                except TransportError as error:
                    failures.append(error)
                    nursery.cancel_scope.cancel()

            if server is not None and await _started(server, failures):
                nursery.start_soon(keep_running, server)
            if not failures:
                nursery.start_soon(stay_connected)
                nursery.start_soon(_feed_watchdog)
                outcome = await run_topology(topology, ready=partial(_ready, announce))
                for claims in resources.claims:
                    claims.give_back_all()
            if gate is not None:
                with trio.move_on_after(_GOODBYE_SECS, shield=True):
                    await gate.close()
            nursery.cancel_scope.cancel()
    finally:
        if server is not None:
            with trio.move_on_after(_SERVER_STOPS_SECS, shield=True):
                await server.stop()
    return outcome


def _ready(announce: Callable[[], None] | None) -> None:
    if announce is not None:
        announce()
    notify.ready()


async def _feed_watchdog() -> None:
    """Tell systemd that this loop turns, if it wants to know."""
    within_secs = notify.watchdog_secs()
    await trio.lowlevel.checkpoint()
    while within_secs is not None:
        notify.alive()
        await trio.sleep(within_secs / 4)


async def _started(server: EmbeddedServer, failures: list[Exception]) -> bool:
    await trio.lowlevel.checkpoint()
    try:
        await server.start()
    except ServerError as error:
        failures.append(error)
    return not failures
