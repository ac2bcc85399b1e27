from typing import Any

import pytest
import trio
import trio.testing

from actors import notify
from actors.agent.heartbeat import Heartbeat
from actors.agent.messages import StatisticsRequest, Status
from actors.agent.sensor import NoSensor, Sensor
from actors.detection.builtin import builtin_set
from actors.detection.engine import Engine
from actors.detection.settings import FilterSettings
from actors.runtime import AskTimeoutError, Supervisor, Topology, UndeclaredMessageError
from actors.runtime.spec import ChildSpec
from actors.runtime.supervisor import End
from actors.runtime.testing import Probe, run_actor
from actors.version import VERSION
from tests.agent.cast import Script


def heartbeat(sensor: Sensor | None = None) -> Heartbeat:
    return Heartbeat(sensor=sensor or Script(), agent_id="web-7", interval_secs=15)


def engine_statistics(_: object) -> Any:
    return Engine(builtin_set(FilterSettings())).statistics()


async def test_beats_at_its_interval(autojump_clock: trio.testing.MockClock) -> None:
    async with run_actor(heartbeat(), answer=engine_statistics) as stage:
        for beats in range(4):
            assert len(stage.told) == beats
            await trio.sleep(15.1)


async def test_a_record_has_every_counter(autojump_clock: trio.testing.MockClock) -> None:
    async with run_actor(heartbeat(), answer=engine_statistics) as stage:
        await trio.sleep(15.1)
        (status,) = stage.told
    record = status.record
    assert (record["agent_id"], record["version"]) == ("web-7", VERSION)
    assert record["uptime_secs"] >= 0
    assert record["probes"]["exec"]["lost"] == 1
    assert record["detection"]["alerts"] == 0
    assert record["detection"]["table"]
    assert record["actors"] == {}


@pytest.mark.parametrize("error", [AskTimeoutError("too late"), UndeclaredMessageError("nobody")])
async def test_without_an_answer_the_rest_is_told(
    autojump_clock: trio.testing.MockClock, error: Exception
) -> None:
    def refuse(_: object) -> Any:
        raise error

    async with run_actor(heartbeat(), answer=refuse) as stage:
        await trio.sleep(15.1)
        (status,) = stage.told
    assert status.record["detection"] == {"unavailable": str(error)}


class Stuck(Probe):
    """Takes a message and never has done with it."""

    async def handle(self, message: Any) -> None:
        await super().handle(message)
        await trio.sleep_forever()


@pytest.mark.parametrize(("console", "beats"), [(Probe, 4), (Stuck, 2)])
async def test_systemd_hears_that_the_agent_lives_until_an_actor_is_stuck(
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    console: type[Probe],
    beats: int,
) -> None:
    """The first beat has nothing to compare with, and at the second the message has just come."""
    said: list[float] = []
    monkeypatch.setattr(notify, "alive", lambda: said.append(trio.current_time()))
    topology = Topology(
        name="test",
        children=(
            ChildSpec(
                name="heartbeat", factory=heartbeat, emits=Heartbeat.emits, to=("alert_console",)
            ),
            ChildSpec(name="alert_console", factory=lambda: console([]), accepts=(Status,)),
        ),
    )
    supervisor = Supervisor(topology)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.run)
        await trio.sleep(61)
        nursery.cancel_scope.cancel()
    assert len(said) == beats


async def test_without_an_edge_to_the_correlator_it_beats_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    seen: list[Any] = []
    topology = Topology(
        name="test",
        children=(
            ChildSpec(
                name="heartbeat", factory=heartbeat, emits=Heartbeat.emits, to=("alert_console",)
            ),
            ChildSpec(name="alert_console", factory=lambda: Probe(seen), accepts=(Status,)),
        ),
    )
    supervisor = Supervisor(topology)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.run)
        await trio.sleep(31)
        supervisor.drain()
    assert len(seen) == 2
    assert "nobody answers" in seen[0].record["detection"]["unavailable"]
    assert supervisor.statistics()["heartbeat"].crashes == 0


async def test_in_a_replay_it_ends_at_once() -> None:
    topology = Topology(
        name="test",
        children=(
            ChildSpec(name="heartbeat", factory=lambda: heartbeat(NoSensor()), restart="transient"),
        ),
    )
    with trio.fail_after(1):
        assert await Supervisor(topology).run() is End.FINISHED


def test_it_asks_what_it_says_it_asks() -> None:
    assert StatisticsRequest in Heartbeat.emits
