from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from actors.agent.correlator import Correlator
from actors.agent.known import Known
from actors.agent.messages import Activity, AlertBatch, EventBatch, EventLog, StatisticsRequest
from actors.detection.builtin import builtin_set
from actors.detection.conditions import Test
from actors.detection.events import AnyEvent, ConnectEvent, ExecEvent, SeedEvent
from actors.detection.rules import Exclusion, Match, Rule
from actors.detection.ruleset import RuleSet
from actors.detection.settings import FilterSettings
from actors.detection.testing import Host, rules
from actors.rulefiles import NewRules
from actors.runtime.testing import Stage, run_actor
from tests.agent.cast import Script, an_exec, fork, reverse_shell


@asynccontextmanager
async def correlator(
    *,
    sensor: Script | None = None,
    known: Known | None = None,
    filters: FilterSettings | None = None,
    record: bool = False,
    show: bool = False,
) -> AsyncIterator[Stage]:
    actor = Correlator(
        sensor=sensor or Script(),
        known=known or Known(),
        rules=lambda: builtin_set(filters or FilterSettings()),
        record=record,
        show=show,
    )
    async with run_actor(actor) as stage:
        yield stage


def batch(ring: int, *events: AnyEvent, sweep: int = 1, expected: int = 2) -> EventBatch:
    return EventBatch(ring, sweep, expected, events)


def of(kind: type, stage: Stage) -> list[Any]:
    return [message for message in stage.told if type(message) is kind]


def logged(stage: Stage) -> list[list[int]]:
    """The times of the events of each sweep, as they were told to the recorder."""
    return [[event.time_ns for event in message.events] for message in of(EventLog, stage)]


def split(host: Host) -> tuple[list[AnyEvent], list[AnyEvent]]:
    """A host's seeds, and the rest."""
    seeds = [event for event in host.events if isinstance(event, SeedEvent)]
    return [*seeds], [event for event in host.events if not isinstance(event, SeedEvent)]


async def test_a_sweeps_batches_are_merged_by_time() -> None:
    async with correlator(record=True) as stage:
        await stage.tell(batch(1, fork(2), fork(5)))
        assert stage.told == []
        await stage.tell(batch(0, fork(1), fork(4), fork(9)))
        assert logged(stage) == [[1, 2, 4, 5, 9]]


async def test_events_of_one_nanosecond_go_in_the_order_of_their_rings() -> None:
    async with correlator(record=True) as stage:
        await stage.tell(batch(3, fork(7, pid=30), fork(7, pid=31), expected=3))
        await stage.tell(batch(0, fork(7, pid=1), expected=3))
        await stage.tell(batch(1, fork(7, pid=10), expected=3))
        (log,) = of(EventLog, stage)
        assert [event.pid for event in log.events] == [1, 10, 30, 31]


async def test_a_missing_part_of_a_crashed_reader_is_not_waited_for() -> None:
    async with correlator(record=True) as stage:
        await stage.tell(batch(0, fork(1), sweep=1))
        await stage.tell(batch(0, fork(2), sweep=2, expected=1))
        assert logged(stage) == [[1], [2]]


async def test_a_drain_takes_what_is_incomplete() -> None:
    async with correlator(record=True) as stage:
        await stage.tell(batch(0, fork(1)))
        await stage.drain()
        assert logged(stage) == [[1]]


async def test_an_empty_sweep_is_told_to_nobody() -> None:
    async with correlator(record=True, show=True) as stage:
        await stage.tell(batch(0))
        await stage.tell(batch(1))
        await stage.drain()
        assert stage.told == []


async def test_alerts_are_those_of_the_engine_and_told_first() -> None:
    host = reverse_shell()
    seeds, rest = split(host)
    fresh = Host()
    expected = [
        raised
        for event in host.events
        if event not in fresh.events
        for raised in fresh.engine.process(event)
    ]
    assert len(rules(expected)) >= 3
    sensor = Script(seeds=seeds)
    for asked in (False, True):
        async with correlator(sensor=sensor, record=asked, show=asked) as stage:
            await stage.tell(batch(0, *rest, expected=1))
            (alerts,) = of(AlertBatch, stage)
            assert alerts.alerts == expected
            assert type(stage.told[0]) is AlertBatch


async def test_what_is_shown_are_executions_and_connections_with_their_ancestry() -> None:
    seeds, rest = split(reverse_shell())
    sensor = Script(seeds=seeds)
    async with correlator(sensor=sensor, show=True) as stage:
        await stage.tell(batch(0, *rest, expected=1))
        (activity,) = of(Activity, stage)
    assert [type(event) for event, _ in activity.entries] == [
        type(event) for event in rest if isinstance(event, ExecEvent | ConnectEvent)
    ]
    assert [ancestry for _, ancestry in activity.entries][:3] == [
        "systemd=>nginx=>bash",
        "systemd=>nginx=>bash",
        "systemd=>nginx=>bash=>nc",
    ]


async def test_nothing_is_shown_or_recorded_unless_asked_for() -> None:
    _, rest = split(reverse_shell())
    async with correlator() as stage:
        await stage.tell(batch(0, *rest, expected=1))
        assert of(Activity, stage) == []
        assert of(EventLog, stage) == []


async def test_the_kernel_is_told_of_processes_to_ignore() -> None:
    host = Host()
    ignored, _ = host.run(host.bash, "/usr/bin/noisy")
    copy, _ = host.run(host.bash, "/tmp/noisy", system=False)
    sensor = Script()
    filters = FilterSettings(ignored_comms=("noisy",))
    async with correlator(sensor=sensor, filters=filters) as stage:
        await stage.tell(batch(0, *host.events, expected=1))
    assert [event.identity for event in sensor.ignored] == [ignored]
    assert copy != ignored


async def test_statistics_are_the_engines() -> None:
    async with correlator() as stage:
        await stage.tell(batch(0, fork(1), fork(2, pid=8), expected=1))
        statistics = await stage.ask(StatisticsRequest())
        assert statistics.forks == 2


async def test_a_fresh_instance_begins_with_the_processes_that_run() -> None:
    seeds, _ = split(Host())
    sensor = Script(seeds=seeds)
    async with correlator(sensor=sensor) as stage:
        assert (await stage.ask(StatisticsRequest())).seeds == len(seeds)


async def test_waits_for_all_parts_however_long_they_take(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with correlator(record=True) as stage:
        await stage.tell(batch(0, fork(1)))
        await trio.sleep(3600)
        assert stage.told == []
        await stage.tell(batch(1, fork(2)))
        assert logged(stage) == [[1, 2]]


@pytest.mark.parametrize(("hostname", "told"), [("build-1", 0), ("web-1", 1)])
async def test_an_exclusion_by_host_holds_on_that_host_also_after_new_rules(
    hostname: str, told: int
) -> None:
    rule = Rule(
        id="any-curl",
        label="curl",
        matches=(Match("exec", Test("exe", "endswith", ("/curl",))),),
        exclusions=(
            Exclusion(when=Test("host", "equals", ("build-1",)), owner="us", reason="it may"),
        ),
    )
    found = RuleSet(FilterSettings(), [rule])
    sensor = Script()
    sensor.hostname = hostname
    actor = Correlator(sensor=sensor, known=Known(), rules=lambda: found, record=False, show=False)
    async with run_actor(actor) as stage:
        for sweep in range(2):
            event = an_exec(exe="/usr/bin/curl", pid=100 + sweep, time_ns=10**10 + sweep)
            await stage.context.mailbox.put(batch(1, event, sweep=sweep, expected=1))
            await stage.context.mailbox.put(NewRules(RuleSet(FilterSettings(), [rule])))
    assert len(of(AlertBatch, stage)) == 2 * told


async def test_one_after_a_crash_knows_what_the_one_before_knew() -> None:
    known, host = Known(), Host()
    perl, _ = host.run(host.bash, "/usr/bin/perl", "-e", "fork")
    orphan = host.fork(perl)
    host.run(orphan, "/tmp/x", system=False)
    host.exit(perl)
    seeds = [each for each in host.events if isinstance(each, SeedEvent)]
    later = [each for each in host.events if not isinstance(each, SeedEvent)]
    async with correlator(sensor=Script(seeds=seeds), known=known) as stage:
        await stage.context.mailbox.put(batch(1, *later, expected=1))
    before = known.table
    async with correlator(sensor=Script(), known=known):
        after = known.table
    assert before is not None
    assert after is not None
    assert after is not before
    assert len(after) == len(before) == 6
    for each in before:
        again = after.get(each.identity)
        assert again is not None
        assert (again.parent, again.uid, again.alive) == (each.parent, each.uid, each.alive)
        assert again.program.exe == each.program.exe
        assert again.program.system_exe == each.program.system_exe
        assert after.ancestry(each.identity) == before.ancestry(each.identity)
