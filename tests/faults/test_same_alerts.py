"""The same recording gives the same alerts, byte for byte, wherever it is looked at."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import trio

from actors.agent.render import alert_json
from actors.detection.alerts import Alert as EngineAlert
from actors.detection.testing import Host
from actors.recordings import Recording
from tests.agent.cast import recording
from tests.broker.kit import publish_until_stored
from tests.faults.plane import HELD, Plane, listening, number, processes, until
from tests.services.messages import a_batch
from transport.messages import Alert, CanonicalBatch, Event, encode
from transport.messages import Host as Origin
from transport.session import Outgoing

EVENTS = 20
"""Of each batch."""
SECRETS = ("/etc/shadow", "/etc/sudoers", "/root/.ssh/id_rsa")


def busy_host() -> Host:
    """A day on a host in short: logins, services, failures, attacks."""
    chance = random.Random(7)
    host = Host()
    services = [host.seed(host.init, f"/usr/sbin/service{n}") for n in range(4)]
    lines = [host.bash, *services]
    for _ in range(900):
        parent = chance.choice(lines[-12:])
        match chance.randrange(8):
            case 0 | 1 | 2:
                tool = chance.choice(("bash", "sh", "cat", "curl", "python3.11", "nc", "id"))
                system = chance.random() < 0.8
                folder = "/usr/bin/" if system else "/tmp/"
                words = chance.choice(((), ("-c", "echo x | base64 -d | sh"), ("-l",)))
                lines.append(host.run(parent, folder + tool, *words, system=system)[0])
            case 3:
                host.open(parent, chance.choice(SECRETS), flags=chance.choice((0, 1)))
            case 4:
                host.connect(parent, "203.0.113.7", chance.choice((443, 4444)))
            case 5:
                host.connect(parent, chance.choice(("127.0.0.1", "2001:db8::1")), 80)
            case 6 if len(lines) > 6:
                host.exit(lines.pop())
            case _:
                host.wait(chance.random() * 20)
    return host


def as_the_endpoint_prints_it(payload: bytes, boot_unix_ns: int) -> bytes:
    """The line of the agent's console for an alert that a worker has published."""
    told = msgspec.json.decode(payload, type=Alert)
    return alert_json(
        EngineAlert(
            time_ns=told.observed_at_unix_ms * 1_000_000 - boot_unix_ns,
            pid=told.event_pid,
            start_ns=told.start_ns,
            uid=told.uid,
            comm=told.event_comm,
            exe=told.exe,
            system_exe=False,
            rule=told.rule,
            rule_id=told.rule_id,
            techniques=told.techniques,
            detail=told.detail,
            ancestry=told.ancestry,
            score=told.score,
            severity=told.severity,
            base_score=told.base_score,
            lineage_bonus=told.lineage_bonus,
            rarity_bonus=told.rarity_bonus,
            sequence_bonus=told.sequence_bonus,
            event=told.event_type,
            level=told.level,
            author=told.author,
            references=told.references,
            count=told.count,
        ),
        boot_unix_ns,
    )


def mail_of(path: Path) -> list[Outgoing]:
    """The recording as the batches that ingest would publish."""
    read = Recording(path)
    events: list[Event] = [*read.header.seeds]
    for sweep in read:
        events += sweep
    read.close()
    host = Origin("web-1", read.header.boot_id, read.header.boot_unix_ns)
    made = []
    for index, first in enumerate(range(0, len(events), EVENTS)):
        part = events[first : first + EVENTS]
        batch = a_batch(index, first=first, count=len(part))
        values = {name: getattr(batch, name) for name in batch.__struct_fields__}
        values |= {"events": part, "host": host}
        payload = encode(CanonicalBatch(**values, received_at_unix_ms=5))
        made.append(Outgoing("telemetry.accepted.acme.web-1", payload, f"recorded-{index}"))
    return made


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    with processes(tmp_path) as made:
        async with listening(made):
            yield made


@pytest.mark.parametrize("workers", [1, 3])
async def test_the_endpoint_and_workers_say_the_same_of_a_recording(
    plane: Plane, tmp_path: Path, workers: int
) -> None:
    path = tmp_path / "recording"
    path.write_bytes(recording(busy_host()))
    words = [sys.executable, "-m", "actors.agent", "--replay", str(path), "--output", "json"]
    environment = {**os.environ, "LAVENDER_CONFIG": str(tmp_path / "lavender.toml")}
    done = await trio.run_process(words, env=environment, capture_stdout=True, capture_stderr=True)
    lines = [line + b"\n" for line in done.stderr.splitlines() if b'"type":"alert"' in line]
    assert len(lines) > 50

    running = [plane.start_worker("services.detection") for _ in range(workers)]
    await until(lambda: all(number(each, HELD) > 0 for each in running))
    mail = mail_of(path)
    half = len(mail) // 2
    await publish_until_stored(plane.session, mail[:half])
    if workers > 1:
        owner = next(each for each in running if number(each, "detection_events") > 0)
        owner.kill()
    await publish_until_stored(plane.session, mail[half:])
    with trio.move_on_after(60):
        while len(plane.payloads) < len(lines):  # noqa: ASYNC110 - of another process
            await trio.sleep(0.05)
    boot_unix_ns = 1_700_000_000 * 10**9
    assert [as_the_endpoint_prints_it(each, boot_unix_ns) for each in plane.payloads] == lines
