"""A network cut between agent and broker, for longer than the broker remembers duplicates."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.backend import backend, tool
from transport.streams import DUPLICATES_SECS

HOST, GUEST = "10.213.7.1", "10.213.7.2"


def ip(*words: str) -> None:
    tool("ip", *words)


@contextmanager
def island() -> Iterator[tuple[str, str]]:
    """A network namespace joined to ours by a pair of devices: its name, our device."""
    tag = f"{os.getpid() % 100_000}"
    name, ours, theirs = f"lavender-{tag}", f"lvh{tag}", f"lvg{tag}"
    ip("netns", "add", name)
    try:
        ip("link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", name)
        ip("addr", "add", f"{HOST}/30", "dev", ours)
        ip("link", "set", ours, "up")
        ip("-n", name, "addr", "add", f"{GUEST}/30", "dev", theirs)
        ip("-n", name, "link", "set", theirs, "up")
        yield name, ours
    finally:
        ip("netns", "del", name)


def test_a_cut_longer_than_the_duplicate_window_loses_and_repeats_nothing(tmp_path: Path) -> None:
    total = 20_000
    with island() as (namespace, device), backend(tmp_path, listen=HOST) as running:
        running.start()
        enter = ("ip", "netns", "exec", namespace)
        emitter = running.emitter(total, rate=500, prefix=enter, linger=180)
        emitter.start()
        running.wait_for(running.numbers)
        # In both directions at once: some batches are stored whose acks never come back.
        ip("link", "set", device, "down")
        time.sleep(DUPLICATES_SECS + 10)
        ip("link", "set", device, "up")
        assert emitter.finish(within_secs=300)["left"] == 0
        running.settle(total)
