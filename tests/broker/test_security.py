"""Who may do what, with the configuration that `docker/nats/make-config` writes."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from tests.broker.kit import running, session_for, take, until, work
from transport.credentials import read_identity
from transport.crossing import open_loop
from transport.errors import Unauthorized
from transport.partitions import take_over
from transport.server import EmbeddedServer
from transport.session import Outgoing, Session
from transport.settings import BrokerSettings
from transport.streams import (
    ALERT_STREAM,
    ALERT_WRITER,
    DETECTION,
    INGEST,
    INVALID_WRITER,
    TELEMETRY_RAW,
    TELEMETRY_WRITER,
    Consumer,
    ensure,
    make_room,
    read_by,
    used_by,
)

ROOT = Path(__file__).resolve().parents[2]
MAKE_CONFIG = ROOT / "docker" / "nats" / "make-config"
ONE, TWO = "acme.web-1", "acme.web-2"


def make_config(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(MAKE_CONFIG), str(folder), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nats") / "secrets"
    made = make_config(folder, "--agent", ONE, "--agent", TWO)
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture
async def guarded(tmp_path: Path, secrets: Path) -> AsyncIterator[EmbeddedServer]:
    """A broker with TLS, users and their permissions."""
    server = EmbeddedServer(tmp_path / "broker", extra=(secrets / "security.conf").read_text())
    await server.start()
    yield server
    await server.stop()


def settings(secrets: Path, seed: str, **others: Any) -> BrokerSettings:
    others.setdefault("tls_ca_file", secrets / "ca.crt")
    return BrokerSettings(nkey_seed_file=secrets / seed, **others)


def agent(server: EmbeddedServer, secrets: Path, name: str) -> Session:
    own = settings(secrets, f"agents/{name}.seed")
    return session_for(server, name=name, settings=own, inbox_prefix=f"_INBOX.{name}")


def service(server: EmbeddedServer, secrets: Path, name: str) -> Session:
    own = settings(secrets, f"services/{name}.seed")
    return session_for(server, name=name, settings=own)


def mail(subject: str, number: int = 1) -> Outgoing:
    return Outgoing(subject, b"{}", f"{subject}-{number}")


async def hears(session: Session, subject: str) -> list[bytes]:
    """What comes on a subject; the session has no subscriptions of its own to offer."""
    heard: list[bytes] = []
    assert session._link is not None
    session._link.wire.listen(subject, lambda _, __, payload, ___: heard.append(payload))
    await settled(session)
    return heard


async def settled(session: Session) -> None:
    """Whatever was sent before this has been dealt with."""
    await session.publish_all(
        [mail("alerts." + session._name, trio.current_time().__hash__())], within_secs=5
    )


async def test_an_agent_publishes_as_itself_only(guarded: EmbeddedServer, secrets: Path) -> None:
    one, ingest = agent(guarded, secrets, ONE), service(guarded, secrets, "ingest")
    detection = service(guarded, secrets, "detection")
    async with running(one, ingest, detection):
        await ensure(ingest, streams=(TELEMETRY_RAW,), consumers=(INGEST,))
        await ensure(detection, streams=(ALERT_STREAM,))
        (own, alert, other, accepted) = await one.publish_all(
            [
                mail(f"telemetry.raw.{ONE}"),
                mail(f"alerts.{ONE}"),
                mail(f"telemetry.raw.{TWO}"),
                mail(f"telemetry.accepted.{ONE}"),
            ],
            within_secs=20,
        )
        assert (own.stored, alert.stored) == (True, True)
        assert "permissions violation" in other.error
        assert TWO in other.error
        assert "permissions violation" in accepted.error
        assert one.publish_core(f"heartbeat.{ONE}", b"{}")
        assert one.connected
        assert one.statistics().reconnects == 0
        async with ingest.consume(INGEST) as channel:
            (found,) = await take(channel, 1)
            assert found.subject == f"telemetry.raw.{ONE}"
            ingest.ack([found])


async def test_an_agent_hears_its_own_commands_only(guarded: EmbeddedServer, secrets: Path) -> None:
    one, two = agent(guarded, secrets, ONE), agent(guarded, secrets, TWO)
    plane, detection = (
        service(guarded, secrets, "control-plane"),
        service(guarded, secrets, "detection"),
    )
    async with running(one, two, plane, detection):
        await ensure(detection, streams=(ALERT_STREAM,))
        with capture_logs() as logs:
            own = await hears(two, f"cmd.{TWO}")
            stolen = [await hears(one, subject) for subject in (f"cmd.{TWO}", "cmd.>", ">")]
            stolen.append(await hears(one, f"_INBOX.{TWO}.>"))
            assert plane.publish_core(f"cmd.{TWO}", b"now")
            await until(lambda: bool(own))
            await settled(two)
            await settled(one)
        assert own == [b"now"]
        assert stolen == [[], [], [], []]
        assert sum("subscription" in each.get("reason", "") for each in logs) == 4
        assert not await hears(plane, f"heartbeat.{ONE}")


_REPLIES = (
    *("alerts.x", "alerts.acme.web-2", "telemetry.raw.acme.web-2", "telemetry.raw.t.e\u00a0l"),
    *("telemetry.accepted.t.e\u00a0l", "telemetry.accepted.acme.web-2", "telemetry.invalid.a.b"),
    *("deadletter.ingest.a.b", "detection.1.acme.web-2", "cmd.acme.web-2", "heartbeat.acme.web-2"),
    *("_INBOX.acme.web-2.x", "_INBOX.ingest.x", "_INBOX.control-plane.x"),
    *("$JS.API.STREAM.DELETE.TELEMETRY_RAW", "$JS.API.STREAM.PURGE.TELEMETRY_RAW"),
    *("$SYS.REQ.SERVER.PING", "$JS.ACK.TELEMETRY_RAW.ingest.1.1.1.1.0", "_R_.x"),
)


async def test_the_ack_of_an_agent_s_publish_goes_nowhere_but_to_the_agent(
    guarded: EmbeddedServer, secrets: Path
) -> None:
    one, two = agent(guarded, secrets, ONE), agent(guarded, secrets, TWO)
    ingest, plane = service(guarded, secrets, "ingest"), service(guarded, secrets, "control-plane")
    detection = service(guarded, secrets, "detection")
    async with running(one, two, ingest, plane, detection):
        await ensure(ingest, streams=used_by((INGEST,)))
        await ensure(detection, streams=(ALERT_STREAM, *used_by((DETECTION,))))
        heard = [
            await hears(two, f"cmd.{TWO}"),
            await hears(two, f"_INBOX.{TWO}.x"),
            await hears(ingest, "_INBOX.ingest.x"),
            await hears(plane, "_INBOX.control-plane.x"),
            await hears(plane, f"heartbeat.{TWO}"),
        ]
        alerts = await stored(detection, "ALERTS")
        assert one._link is not None
        for number, reply in enumerate(_REPLIES):
            one._link.wire.send(f"telemetry.raw.{ONE}", b"%d" % number, reply=reply)
        await one.publish_all([mail(f"telemetry.raw.{ONE}", 999)], within_secs=10)
        await settled(two)  # an alert more
        found = {
            name: await stored(ingest, name)
            for name in ("TELEMETRY_RAW", "TELEMETRY_CANONICAL", "TELEMETRY_INVALID", "DEAD_LETTER")
        }
        assert await stored(detection, "ALERTS") == alerts + 1
        assert await stored(detection, "TELEMETRY_DETECTION") == 0
    assert heard == [[], [], [], [], []]
    # The broker refuses the last two replies itself; all others are a message of the agent's own.
    assert found.pop("TELEMETRY_RAW") == len(_REPLIES) - 2 + 1
    assert set(found.values()) == {0}


async def stored(session: Session, stream: str) -> int:
    """How many messages are in a stream."""
    answer = await session.request(f"$JS.API.STREAM.INFO.{stream}", b"", within_secs=5)
    return int(json.loads(answer)["state"]["messages"])


@pytest.mark.parametrize(
    "path",
    [
        "STREAM.INFO.TELEMETRY_RAW",
        "STREAM.MSG.GET.TELEMETRY_RAW",
        "DIRECT.GET.TELEMETRY_RAW",
        "STREAM.PURGE.TELEMETRY_RAW",
        "CONSUMER.MSG.NEXT.TELEMETRY_RAW.ingest",
        "CONSUMER.CREATE.TELEMETRY_RAW",
        "STREAM.CREATE.MINE",
        "INFO",
    ],
)
async def test_an_agent_cannot_reach_into_streams(
    guarded: EmbeddedServer, secrets: Path, path: str
) -> None:
    one = agent(guarded, secrets, ONE)
    async with running(one):
        (receipt,) = await one.publish_all([mail(f"$JS.API.{path}")], within_secs=10)
        assert "permissions violation" in receipt.error


SERVICES: list[tuple[str, tuple[Consumer, ...], str]] = [
    (
        "ingest",
        (INGEST,),
        "telemetry.accepted",
    ),
    (
        "telemetry-writer",
        (TELEMETRY_WRITER, INVALID_WRITER),
        "deadletter.telemetry-writer",
    ),
    (
        "alert-writer",
        (ALERT_WRITER,),
        "telemetry.invalid",
    ),
    (
        "detection",
        (DETECTION,),
        "alerts",
    ),
]


@pytest.mark.parametrize(("name", "consumers", "prefix"), SERVICES)
async def test_a_service_can_do_its_work(
    guarded: EmbeddedServer,
    secrets: Path,
    name: str,
    consumers: tuple[Consumer, ...],
    prefix: str,
) -> None:
    session = service(guarded, secrets, name)
    with capture_logs() as logs:
        async with running(session):
            for _ in range(2):
                await ensure(session, streams=used_by(consumers), consumers=consumers)
            assert await make_room(session, read_by(consumers)) == 0
            (receipt,) = await session.publish_all([mail(f"{prefix}.{ONE}")], within_secs=5)
            assert receipt.stored
            own = consumers[0]
            if own.partitions:
                for token in (1, 2):
                    own = await take_over(session, consumers[0], 3, token=token)
            async with session.consume(own) as channel:
                with trio.move_on_after(0.2):
                    await channel.receive()
            (foreign,) = await session.publish_all([mail(f"cmd.{ONE}")], within_secs=5)
            assert "permissions violation" in foreign.error
    assert sum("permissions violation" in str(each.get("reason")) for each in logs) == 1


async def test_unknown_credentials_are_one_clear_line(
    guarded: EmbeddedServer, secrets: Path, tmp_path: Path
) -> None:
    assert make_config(tmp_path / "others", "--agent", ONE).returncode == 0
    seed = tmp_path / "others" / "agents" / f"{ONE}.seed"
    for own in (
        BrokerSettings(nkey_seed_file=seed, tls_ca_file=secrets / "ca.crt"),
        BrokerSettings(tls_ca_file=secrets / "ca.crt"),
    ):
        session = session_for(guarded, settings=own, url=guarded.url.replace("//", "//me:secret@"))
        with pytest.raises(Unauthorized) as caught:
            async with open_loop():
                await session.run()
        text = str(caught.value)
        assert "\n" not in text
        assert guarded.url in text
        assert "secret" not in text
        key = read_identity(own).public_key
        assert (f"nkey_seed_file {seed}" in text and key in text) or "neither" in text


async def test_being_locked_out_later_is_waited_out(
    guarded: EmbeddedServer, secrets: Path, tmp_path: Path
) -> None:
    one = agent(guarded, secrets, ONE)
    tls = (secrets / "security.conf").read_text().partition("accounts")[0]
    async with open_loop(), trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        await one.wait_connected()
        with capture_logs() as logs:
            await guarded.stop()
            shut = EmbeddedServer(
                tmp_path / "shut",
                port=guarded.port,
                extra=tls + 'authorization { user: "x", password: "y" }',
            )
            await shut.start()
            await until(lambda: any("refuses us" in str(each.get("reason")) for each in logs))
            await shut.stop()
            await guarded.start()
            with trio.fail_after(30):
                await one.wait_connected()
        nursery.cancel_scope.cancel()


async def refusal(session: Session) -> str:
    """Why it does not connect."""
    with capture_logs() as logs:
        async with open_loop(), trio.open_nursery() as nursery:
            nursery.start_soon(session.run)
            await until(lambda: bool(logs))
            assert not session.connected
            nursery.cancel_scope.cancel()
    return str(logs[0]["reason"])


async def test_a_broker_whose_certificate_others_signed_is_refused(
    guarded: EmbeddedServer, secrets: Path, tmp_path: Path
) -> None:
    assert make_config(tmp_path / "others").returncode == 0
    wrong = settings(secrets, f"agents/{ONE}.seed", tls_ca_file=tmp_path / "others" / "ca.crt")
    assert "certificate verify failed" in await refusal(session_for(guarded, settings=wrong))
    system = settings(secrets, f"agents/{ONE}.seed", tls_ca_file=None)
    assert "certificate verify failed" in await refusal(session_for(guarded, settings=system))


async def test_a_certificate_for_another_host_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    assert make_config(folder, "--host", "broker.example", "--agent", ONE).returncode == 0
    server = EmbeddedServer(tmp_path / "broker", extra=(folder / "security.conf").read_text())
    await server.start()
    try:
        own = settings(folder, f"agents/{ONE}.seed")
        assert "127.0.0.1" in await refusal(session_for(server, settings=own))
    finally:
        await server.stop()


async def test_credentials_are_not_sent_to_a_broker_without_tls(
    nats_server: EmbeddedServer, secrets: Path
) -> None:
    own = settings(secrets, f"agents/{ONE}.seed")
    assert "offers no TLS" in await refusal(session_for(nats_server, settings=own))
    url = nats_server.url.replace("nats:", "tls:")
    assert "offers no TLS" in await refusal(session_for(nats_server, url=url))


async def test_a_stopped_broker_with_tls_is_left_in_time(
    guarded: EmbeddedServer, secrets: Path
) -> None:
    ingest = service(guarded, secrets, "ingest")
    with trio.fail_after(20):
        async with running(ingest):
            await ensure(ingest, streams=(TELEMETRY_RAW,))
            await guarded.stop()
            await until(lambda: not ingest.connected)
            receipts = await ingest.publish_all(work([1]), within_secs=1)
            assert not receipts[0].stored


def test_made_again_it_keeps_what_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    assert make_config(folder, "--agent", ONE).returncode == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (folder / "agents" / f"{ONE}.seed").unlink()  # moved to its agent
    assert make_config(folder, "--agent", TWO).returncode == 0
    config = (folder / "security.conf").read_text()
    for path, content in before.items():
        if path.suffix == ".public":
            assert content.decode().strip() in config
        if path.suffix in (".crt", ".key", ".public"):
            assert path.read_bytes() == content
    assert f"telemetry.raw.{TWO}" in config
    (folder / "agents" / f"{ONE}.public").unlink()
    assert make_config(folder).returncode == 0
    assert f"telemetry.raw.{ONE}" not in (folder / "security.conf").read_text()
    modes = {
        path.stat().st_mode & 0o077
        for path in folder.rglob("*")
        if path.suffix in (".seed", ".key")
    }
    assert modes == {0}


@pytest.mark.parametrize(
    "name",
    [
        *("acme", "acme.*", "acme.a.b", "a b.c", "acme./x", "ingest.web-1", ".a"),
        *("acme.a/../b", "acme.web\u202e-1", "acme.web\x9b-1", f"acme.{'x' * 65}"),
    ],
)
def test_names_that_would_widen_permissions_are_refused(tmp_path: Path, name: str) -> None:
    made = make_config(tmp_path / "secrets", "--agent", name)
    assert made.returncode
    assert not (tmp_path / "secrets").exists()


def test_the_shipped_configuration_is_valid(tmp_path: Path, secrets: Path) -> None:
    shipped = (ROOT / "docker" / "nats" / "nats-server.conf").read_text()
    (tmp_path / "nats-server.conf").write_text(shipped)
    (tmp_path / "secrets").symlink_to(secrets)
    server = Path(sys.executable).parent / "nats-server"
    subprocess.run(
        [str(server), "-t", "-c", str(tmp_path / "nats-server.conf")],
        check=True,
        capture_output=True,
    )
