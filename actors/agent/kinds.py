"""The actor kinds the agent knows, bound to what one run of it shares."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import BinaryIO

from actors.agent.confinement import Confinement
from actors.agent.console import AlertConsole, EventConsole, Output, Stream, Style
from actors.agent.correlator import Correlator
from actors.agent.heartbeat import Heartbeat
from actors.agent.known import Known
from actors.agent.publisher import Publisher
from actors.agent.readers import ReaderOptions, RingClock, RingReader
from actors.agent.recording import Recorder
from actors.agent.responder import Responder
from actors.agent.sensor import Sensor
from actors.agent.settings import Settings
from actors.agent.spooling import Publishing, Spooling
from actors.agent.sweeps import Sweeps
from actors.rulefiles import RuleFiles, RuleWatcher
from actors.runtime import Kind


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What the actors of one run share."""

    settings: Settings
    sensor: Sensor
    output: Output
    stdout: Stream
    stderr: Stream
    recording: BinaryIO | None
    spared: Collection[int]
    """Pids the responder never touches."""
    publishing: Publishing | None = None
    rules: RuleFiles | None = None
    """None: the built-in rules alone."""
    confinement: Confinement = field(default_factory=Confinement)


def agent_kinds(resources: Resources) -> dict[str, Kind]:
    """Every kind `[topology]` may name."""
    settings, sensor = resources.settings, resources.sensor
    sweeps, known = Sweeps(), Known()
    files = resources.rules or RuleFiles(settings.rules, settings.filters)
    published = resources.publishing
    spooling = None if published is None else Spooling(published, sensor)
    style = Style(resources.output, sensor.boot_unix_ns)
    return {
        "ring_clock": Kind.of(
            RingClock, sensor=sensor, sweeps=sweeps, urgent=not settings.response.dry_run
        ),
        "ring_reader": Kind.of(RingReader, options=ReaderOptions, sensor=sensor, sweeps=sweeps),
        "correlator": Kind.of(
            Correlator,
            sensor=sensor,
            known=known,
            rules=lambda: files.book.rules,
            record=resources.recording is not None,
            show=resources.output != "none",
            publish=resources.publishing is not None,
        ),
        "rule_watcher": Kind.of(RuleWatcher, files=files, live=sensor.live),
        "publisher": Kind.of(Publisher, work=spooling),
        "responder": Kind.of(
            Responder, settings=settings.response, spared=resources.spared, live=sensor.live
        ),
        "heartbeat": Kind.of(
            Heartbeat,
            sensor=sensor,
            agent_id=settings.agent.agent_id,
            interval_secs=settings.agent.heartbeat_interval_secs,
            confinement=resources.confinement,
        ),
        "recorder": Kind.of(Recorder, sensor=sensor, file=resources.recording),
        "event_console": Kind.of(EventConsole, style=style, stream=resources.stdout),
        "alert_console": Kind.of(AlertConsole, style=style, stream=resources.stderr),
    }
