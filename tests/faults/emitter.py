"""A make-believe agent: real publisher, spool and connection; its "ring" is arithmetic.

Event ``k`` is always the same event, so what must be in the store in the end is known however often
this program is killed: it reads on from the spool's marks, as an agent reads on in its rings.

Prints one JSON object when everything was confirmed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import trio

from actors import logs
from actors.agent.batches import Sender
from actors.agent.messages import Telemetry
from actors.agent.publisher import Publisher
from actors.agent.sensor import NoSensor
from actors.agent.settings import PublishSettings
from actors.agent.shipping import Shipping
from actors.agent.spooling import Publishing, Spooling
from actors.detection.alerts import Alert
from actors.runtime import Actor, ChildSpec, Topology, run_topology
from tests.services.messages import BOOT_NS, an_event
from transport import local_key
from transport.crossing import open_loop
from transport.messages import Event, Host
from transport.session import Session
from transport.settings import BrokerSettings
from transport.spool import Spool
from transport.subjects import Address

LOAD_ID = "00000000000000ad"
RING = "EXEC_EVENTS"
ALERT_EVERY = 500
_TICK_SECS = 0.02


class Arithmetic(NoSensor):
    """A sensor that has delivered every event up to where it was read."""

    live = True
    load_id = LOAD_ID
    taken_over = True

    def __init__(self) -> None:
        self.position = 0

    def counters(self) -> dict[str, dict[str, int]]:
        """All delivered."""
        none = dict.fromkeys(("filtered", "suppressed", "lost"), 0)
        return {"exec": {"seen": self.position, "delivered": self.position, **none}}

    def release(self, positions: Mapping[str, int]) -> None:
        """Nothing to give back."""


class Generator(Actor):
    """Source of the events from ``first`` to ``total``, at a rate.

    Args:
        sensor: says how far we are.
        total: where to end.
        rate: events per second.
    """

    emits = (Telemetry,)

    def __init__(self, *, sensor: Arithmetic, total: int, rate: int) -> None:
        self._sensor = sensor
        self._total = total
        self._rate = rate

    async def run(self) -> None:
        """Emit until all is out or told to stop."""
        first = position = self._sensor.position
        begin = trio.current_time()
        while position < self._total and not self.context.stopping.is_set():
            due = first + int((trio.current_time() - begin) * self._rate) + 1
            events = [an_event(number) for number in range(position, min(due, self._total))]
            alerts = [
                an_alert(event)
                for number, event in enumerate(events, position)
                if number % ALERT_EVERY == 0
            ]
            position += len(events)
            self._sensor.position = position
            read = position - first
            if not self.context.tell_nowait(Telemetry(events, alerts, {RING: position}, read)):
                raise AssertionError("the publisher's mailbox drops; it never refuses")
            await trio.sleep(_TICK_SECS)


def an_alert(event: Event) -> Alert:
    """An alert about an event."""
    return Alert(
        time_ns=event.time_ns,
        pid=event.pid,
        start_ns=event.start_ns,
        uid=0,
        comm="bash",
        exe="/usr/bin/bash",
        system_exe=True,
        rule="T1059 [Unexpected shell spawn]",
        rule_id="unexpected-shell",
        techniques=("T1059",),
        detail="a test",
        ancestry="systemd=>bash",
        score=65,
        severity="WARNING",
        base_score=40,
        lineage_bonus=0,
        rarity_bonus=25,
        sequence_bonus=0,
        event=str(event.__struct_config__.tag),
    )


async def _main(options: argparse.Namespace) -> None:
    sensor = Arithmetic()
    name = f"agent-{options.agent}"
    session = Session(
        BrokerSettings(),
        name=name,
        url=options.url,
        identity=local_key.find(options.url),
        inbox_prefix=f"_INBOX.{options.tenant}.{options.agent}",
        ping_secs=1.0,
    )
    folder = Path(options.spool)
    settings = PublishSettings(spool=folder, spool_max_bytes=options.spool_bytes)
    shipping = Shipping(
        session, lambda: Spool.open(folder, max_bytes=options.spool_bytes, max_age_secs=86_400)
    )
    if shipping.marks is not None:
        sensor.position = shipping.marks.positions.get(RING, 0)
    jump_ms = [0]
    publishing = Publishing(
        settings=settings,
        sender=Sender(
            address=Address(options.tenant, options.agent),
            host=Host("made-up", "boot", BOOT_NS),
            epoch=os.urandom(8).hex(),
            telemetry_prefix="telemetry.raw",
        ),
        shipping=shipping,
        heartbeat_prefix="heartbeat",
        policy_version=lambda: "test",
        start_gaps=[],
        watching_since_unix_ms=None,
    )
    work = Spooling(publishing, sensor, clock_ms=lambda: time.time_ns() // 1_000_000 + jump_ms[0])
    children = (
        ChildSpec(
            name="generator",
            factory=lambda: Generator(sensor=sensor, total=options.total, rate=options.rate),
            emits=Generator.emits,
            to=("publisher",),
            restart="transient",
        ),
        ChildSpec(
            name="publisher",
            factory=lambda: Publisher(work),
            accepts=Publisher.accepts,
            capacity=256,
            overflow="drop_newest",
        ),
    )
    async with open_loop(), trio.open_nursery() as nursery:
        nursery.start_soon(shipping.connect)
        if options.clock_jumps:
            nursery.start_soon(_jump, jump_ms)
        outcome = await run_topology(Topology(name="emitter", children=children, drain_secs=30))
        with trio.move_on_after(options.linger):
            async with trio.open_nursery() as last:
                last.start_soon(shipping.run)
                await shipping.emptied()
                last.cancel_scope.cancel()
        left = await shipping.statistics()
        await shipping.close()
        nursery.cancel_scope.cancel()
    record = {"reason": outcome.reason.name, "left": left.batches + left.alerts}
    sys.stdout.write(json.dumps(record) + "\n")


async def _jump(jump_ms: list[int]) -> None:
    """A clock that is set back and forward by hours."""
    while True:
        for hours in (-5, 7, 0, -48, 0, 48):
            jump_ms[0] = hours * 3_600_000
            await trio.sleep(0.3)


def main() -> None:
    """Run as the arguments say."""
    logs.configure(pretty=False)
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--spool", required=True)
    parser.add_argument("--total", type=int, required=True)
    parser.add_argument("--rate", type=int, required=True)
    parser.add_argument("--tenant", default="acme")
    parser.add_argument("--agent", default="web-1")
    parser.add_argument("--spool-bytes", type=int, default=256 << 20)
    parser.add_argument("--linger", type=float, default=120)
    parser.add_argument("--clock-jumps", action="store_true")
    trio.run(_main, parser.parse_args())


if __name__ == "__main__":
    main()
