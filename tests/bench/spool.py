"""What the spool costs an agent, beside the broker that takes everything at once."""

from __future__ import annotations

import os
import statistics
import time

from tests.bench.measures import Row
from tests.bench.rig import Rig
from transport.messages import EVENTS_MAX, Counters, ProbeCounts
from transport.spool import Spool
from transport.spool_records import Marks, NewItem

_BATCHES = 500
_PAYLOAD_BYTES = 100_000
_EPOCH = "0123456789abcdef"


def spool_cost(rig: Rig) -> list[Row]:
    """CPU and wall time of a full batch: appended with an fsync, read again, removed."""
    spool = Spool.open(rig.folder / "spool")
    payload = os.urandom(_PAYLOAD_BYTES)
    marks = _marks()
    waits: list[float] = []
    append_secs = send_secs = 0.0
    written = _written_bytes()
    for n in range(_BATCHES):
        item = NewItem(
            kind="telemetry",
            message_id=f"{_EPOCH}-{n}",
            subject="telemetry.raw.dev.dev-agent-1",
            payload=payload,
            epoch=_EPOCH,
            first_seq=n * EVENTS_MAX,
            events=EVENTS_MAX,
        )
        begin, cpu = time.perf_counter(), time.process_time()
        spool.append([item], marks, now_unix_ms=n)
        waits.append((time.perf_counter() - begin) * 1e3)
        appended = time.process_time()
        spool.remove([each.id for each in spool.oldest(8, limit_bytes=1 << 20)])
        append_secs += appended - cpu
        send_secs += time.process_time() - appended
    written = _written_bytes() - written
    spool.close()
    per_event = 1e6 / (_BATCHES * EVENTS_MAX)
    waits.sort()
    size = f"{EVENTS_MAX} events, {_PAYLOAD_BYTES // 1000} kB"
    return [
        Row(
            "spool: CPU per event",
            f"{(append_secs + send_secs) * per_event:.2f} µs",
            "-",
            None,
            f"append {append_secs * per_event:.2f}, read and remove {send_secs * per_event:.2f}",
        ),
        Row(
            f"spool: append of {size}",
            f"{statistics.median(waits):.2f} ms",
            "-",
            None,
            f"fsync included, p99 {waits[int(len(waits) * 0.99)]:.2f}, worst {waits[-1]:.2f}",
        ),
        Row(
            "spool: written per byte of payload",
            f"{written / (_BATCHES * _PAYLOAD_BYTES):.2f} bytes",
            "-",
            None,
        ),
    ]


def _marks() -> Marks:
    probes = {
        name: ProbeCounts(seen=10**9, delivered=10**9)
        for name in ("exec", "exit", "fork", "open", "connect")
    }
    return Marks(
        load_id=_EPOCH,
        positions=dict.fromkeys(probes, 10**12),
        counters=Counters(load_id=_EPOCH, probes=probes, read=10**9, spooled=10**9),
        epoch=_EPOCH,
        next_batch=0,
    )


def _written_bytes() -> int:
    with open("/proc/self/io") as lines:  # noqa: PTH123 - a kernel file, read line by line
        return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))
