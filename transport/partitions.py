"""Taking over a partition: its deliveries begin again behind what is acked, for one owner alone.

A consumer belongs to one ownership of its partition, ``detection-<partition>-<token>``: who takes
over makes a new one and removes the old. So what a previous owner had in hand comes again at once
and in order, and whoever sleeps through the loss of a partition asks a consumer that is gone.

The new one is made before the old ones are removed: there is always one that knows how far it got.
"""

from __future__ import annotations

from typing import Any

from transport.api import Requests, find, put
from transport.streams import Consumer, consumers_of
from transport.subjects import DETECTION_INPUT


class Overtaken(Exception):  # noqa: N818 - it says what is so
    """Somebody took the partition over with a higher token."""

    def __init__(self, token: int) -> None:
        super().__init__(f"token {token}")
        self.token = token
        """The highest there is."""


async def take_over(
    session: Requests, consumer: Consumer, partition: int, *, token: int
) -> Consumer:
    """The consumer of one ownership of a partition. Cancelled or failed, call it again.

    Args:
        session: the broker.
        consumer: the partitioned one.
        partition: which of its partitions.
        token: of the ownership; higher than any before.

    Raises:
        Overtaken: it is not the highest.
        StreamMismatch: the broker refuses it.
        Unreachable: no answer.
    """
    prefix = f"{consumer.durable}-{partition}-"
    own = Consumer(
        f"{prefix}{token}",
        consumer.stream,
        ack_wait_secs=consumer.ack_wait_secs,
        max_ack_pending=consumer.max_ack_pending,
    )
    there = {
        int(each["name"].removeprefix(prefix)): each["ack_floor"]["stream_seq"]
        for each in await consumers_of(session, consumer.stream)
        if each["name"].startswith(prefix) and each["name"].removeprefix(prefix).isdigit()
    }
    if there and max(there) > token:
        raise Overtaken(max(there))
    if token not in there:
        await _make(session, own, partition, after=max(there.values(), default=0))
    for other in there:
        if other != token:
            await find(session, f"CONSUMER.DELETE.{consumer.stream}.{prefix}{other}")
    return own


async def _make(session: Requests, own: Consumer, partition: int, *, after: int) -> None:
    """Make a consumer of what comes after a message of the stream."""
    config: dict[str, Any] = {
        "durable_name": own.durable,
        "filter_subject": f"{DETECTION_INPUT}.{partition}.>",
        "ack_policy": "explicit",
        "replay_policy": "instant",
        "deliver_policy": "all",
        "ack_wait": int(own.ack_wait_secs * 1e9),
        "max_deliver": -1,
        "max_ack_pending": own.max_ack_pending,
    }
    if after:
        config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": after + 1}
    body = {"stream_name": own.stream, "config": config}
    path = f"CONSUMER.DURABLE.CREATE.{own.stream}.{own.durable}"
    await put(session, path, body, f"consumer {own.durable} of stream {own.stream}")
