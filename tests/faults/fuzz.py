"""What a stolen key could send: messages, subjects, replies and orders, by chance, from a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from tests.faults.worst import TOKENS
from tests.services.messages import EPOCH, a_batch
from tests.services.test_writing import ALERT
from transport.frames import MESSAGE_ID
from transport.messages import alert_id

HUGE = (-1, 0, 1, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64, 10**400, 1.5, -0.0, 1e308)
TEXTS = (
    "",
    "\0",
    "\x1b[2J",
    "\n",
    "é",
    "\u2028",
    "a\\u0000b",
    "x" * 70_000,
    "../../x",
    "*",
    ">",
    "'",
)
STREAMS = ("TELEMETRY_RAW", "TELEMETRY_CANONICAL", "TELEMETRY_DETECTION", "ALERTS", "DEAD_LETTER")
PREFIXES = (
    b"telemetry.raw",
    b"telemetry.accepted",
    b"telemetry.invalid",
    b"alerts",
    b"heartbeat",
    b"deadletter.ingest",
    b"detection.3",
    b"cmd",
)
VERBS = ("STREAM.PURGE", "STREAM.DELETE", "STREAM.INFO", "STREAM.UPDATE", "CONSUMER.LIST")
DURABLES = ("ingest", "telemetry-writer", "alert-writer", "invalid-writer", "detection-3-1")
HEADERS = (
    "Nats-Expected-Last-Sequence: 0",
    "Nats-Expected-Stream: ALERTS",
    "Nats-Rollup: all",
    "Nats-Rollup: sub",
    "Nats-TTL: 1s",
    "Nats-TTL: never",
    "Nats-Required-Api-Level: 999",
    "Nats-Schedule: @every 1s",
    "Nats-Schedule-Target: alerts.acme.good",
    "Nats-Incr: 5",
    "Nats-Batch-Id: x",
    "Nats-Batch-Sequence: 1",
    "Nats-Batch-Commit: 1",
    "Nats-Marker-Reason: Purge",
    "Nats-Stream-Source: TELEMETRY_RAW 1 > >",
    "Status: 503",
    ": x",
    "no colon",
)


class Shot(NamedTuple):
    """One publish, as it goes over the connection."""

    subject: bytes
    reply: bytes
    headers: bytes
    payload: bytes


class Fuzz:
    """Shots of one agent against another's and everybody's.

    Args:
        chance: what they are drawn from.
        own: ``tenant.agent`` whose key it is.
        victim: of whom it knows everything but the key.
    """

    def __init__(self, chance: random.Random, *, own: str, victim: str) -> None:
        self.chance = chance
        self._own = own
        self._victim = victim
        self._sent: list[Shot] = []
        self._number = 0

    def shot(self) -> Shot:
        """The next one."""
        chance = self.chance
        if self._sent and chance.random() < 0.1:
            return chance.choice(self._sent)  # a replay
        made = Shot(self._subject(), self._reply(), self._headers(), self._payload())
        self._sent.append(made)
        if len(self._sent) > 200:
            del self._sent[chance.randrange(200)]
        return made

    def _subject(self) -> bytes:
        own, victim = self._own, self._victim
        if self.chance.random() < 0.9:
            prefix = self.chance.choices(("telemetry.raw", "alerts", "heartbeat"), (7, 3, 1))[0]
            return f"{prefix}.{own}".encode()
        return self.chance.choice(
            (
                f"telemetry.raw.{victim}",
                f"telemetry.accepted.{own}",
                f"alerts.{victim}",
                "telemetry.invalid.odd.odd",
                "$JS.API.STREAM.PURGE.TELEMETRY_RAW",
                "$JS.API.INFO",
                "$SYS.REQ.SERVER.PING",
                f"cmd.{victim}",
                "_INBOX.ingest.x",
                f"telemetry.raw.{own}.x",
            )
        ).encode()

    def _reply(self) -> bytes:
        chance = self.chance
        if chance.random() < 0.4:
            return b""
        token = chance.choice(TOKENS[:-3])
        tenant = self._own.partition(".")[0].encode()
        stream, durable = chance.choice(STREAMS), chance.choice(DURABLES)
        prefix = chance.choice(PREFIXES)
        return chance.choice(
            (
                prefix + b"." + self._victim.encode(),
                prefix + b"." + self._own.encode(),
                prefix + b"." + tenant + b"." + token,
                prefix + b".x",
                prefix + b".a.b.c.d",
                f"$JS.API.{chance.choice(VERBS)}.{stream}".encode(),
                f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}".encode(),
                f"$JS.API.CONSUMER.DELETE.{stream}.{durable}".encode(),
                f"$JS.ACK.{stream}.{durable}.1.{chance.randrange(5000)}.1.1.0".encode(),
                f"$JS.FC.{stream}.{durable}.x".encode(),
                f"_INBOX.{durable}.0000000000000000.p.{chance.randrange(99)}".encode(),
                f"_INBOX.{self._victim}.x".encode(),
                b"$SYS.REQ.SERVER.PING",
                b"_R_.x",
                token,
            )
        )

    def _headers(self) -> bytes:
        chance = self.chance
        if chance.random() < 0.4:
            return b""
        lines = [chance.choice(("NATS/1.0", "NATS/1.0", "NATS/1.0 503", "NATS/1.0 100 Idle", "X"))]
        if chance.random() < 0.5:
            number = chance.choice((self._number, chance.randrange(10_000)))
            identity = chance.choice(
                (f"{self._own}.{number}", f"{self._victim}.{number}", "a\x01b", "x" * 5000, "é")
            )
            lines.append(f"{MESSAGE_ID}: {identity}")
        lines += chance.sample(HEADERS, chance.randrange(3))
        return "\r\n".join((*lines, "", "")).encode()

    def _payload(self) -> bytes:
        chance = self.chance
        makers: tuple[Callable[[], bytes], ...] = (
            self._batch,
            self._batch,
            self._alert,
            self._single,
            self._garbage,
        )
        payload = chance.choice(makers)()
        if chance.random() < 0.15 and payload:
            at = chance.randrange(len(payload))
            other = bytes(chance.randrange(256) for _ in range(chance.randrange(4)))
            payload = payload[:at] + other + payload[at + chance.randrange(3) :]
        return payload[: 900 * 1024]

    def _batch(self) -> bytes:
        chance = self.chance
        count = chance.choice((0, 1, 5, 5, 5, 60, 500, 501))
        first = chance.choice((self._number, 0, chance.randrange(10**6), 2**62))
        self._number += count
        value = msgspec.to_builtins(a_batch(0, first=0, count=count))
        epoch = chance.choice(("00000000000000ee", EPOCH, f"{chance.getrandbits(64):016x}"))
        tenant, _, agent = self._own.partition(".")
        value |= {
            "schema_version": 2,
            "tenant_id": tenant,
            "agent_id": agent,
            "epoch": epoch,
            "batch_id": f"{epoch}-{chance.choice((first, chance.randrange(100), 10**18 - 1))}",
            "first_seq": first,
            "last_seq": first + count - 1,
        }
        if chance.random() < 0.3:
            value["host"]["boot_id"] = f"{chance.getrandbits(32):x}"
        if chance.random() < 0.3:
            low, high = chance.choice(((10, 0), (0, 2**63 - 1), (2**63 - 1, 0), (3, 9)))
            run = {"epoch": epoch, "first_seq": low, "last_seq": high, "reason": "age"}
            value["counters"]["evicted"] = [run] * chance.choice((1, 1024, 1025))
        if chance.random() < 0.1:
            value["counters"]["probes"] = {
                f"p{n}": {} for n in range(chance.choice((16, 17, 9999)))
            }
        if chance.random() < 0.2:
            gap = {"from_unix_ms": 0, "to_unix_ms": 253_402_300_799_999, "reason": "x", "events": 1}
            value["counters"]["gaps"] = [gap] * chance.choice((1, 64, 1024))
        return self._mutated(value)

    def _alert(self) -> bytes:
        value = msgspec.to_builtins(ALERT)
        tenant, _, agent = self._own.partition(".")
        whose = self.chance.choice(((tenant, agent), tuple(self._victim.split("."))))
        value |= {"tenant_id": whose[0], "agent_id": whose[1]}
        # The victim's own ids, which come of what everybody may know.
        theirs = alert_id(f"{EPOCH}-{self.chance.randrange(2000)}", "own")
        value["alert_id"] = self.chance.choice((f"{self.chance.randrange(50):036x}", theirs))
        value["count"] = self.chance.choice((1, 2, 2**31))
        return self._mutated(value)

    def _single(self) -> bytes:
        tenant, _, agent = self._own.partition(".")
        value = {
            "schema_version": 1,
            "event_id": self.chance.choice(("a", "a\x01b", "a\n", "x" * 128, "é", "a b")),
            "tenant_id": tenant,
            "agent_id": agent,
            "host": {"hostname": "h"},
            "observed_at_unix_ms": self.chance.choice((1, 253_402_300_799_999)),
            "event": {"type": "exit", "pid": 1},
        }
        return self._mutated(value)

    def _garbage(self) -> bytes:
        chance = self.chance
        return chance.choice(
            (
                lambda: b"",
                lambda: b"{}",
                lambda: b"[" * chance.randrange(200_000),
                lambda: b"\xff" * chance.randrange(500_000),
                lambda: b'{"schema_version":2,"first_seq":' + b"9" * chance.randrange(100_000),
                lambda: b'{"stream":"ALERTS","seq":1}',
                lambda: chance.randbytes(chance.randrange(2000)),
            )
        )()

    def _mutated(self, value: Any) -> bytes:
        for _ in range(self.chance.choice((0, 0, 0, 1, 1, 2, 5))):
            self._mutate(value)
        return json.dumps(value, ensure_ascii=self.chance.random() < 0.5).encode(
            "utf-8", "surrogatepass"
        )

    def _mutate(self, value: Any) -> None:
        """Change something somewhere in it."""
        chance = self.chance
        while isinstance(value, dict | list) and value:
            keys = list(value) if isinstance(value, dict) else range(len(value))
            key = chance.choice(list(keys))
            inner = value[key]
            if isinstance(inner, dict | list) and inner and chance.random() < 0.8:
                value = inner
                continue
            if chance.random() < 0.1:
                del value[key]
            else:
                value[key] = chance.choice(
                    (chance.choice(HUGE), chance.choice(TEXTS), None, [], {}, True, [inner] * 3)
                )
            return
