"""Messages and marks for the spool's tests, and a process that can be killed or starved."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from transport.messages import Counters
from transport.spool import Spool
from transport.spool_errors import SpoolFull
from transport.spool_evictions import Kind
from transport.spool_records import Marks, NewItem

EPOCH = "0123456789abcdef"
HOUR_MS = 3_600_000
NOW = 1_700_000_000_000
PER_APPEND = 3
EVENTS = 10


def marks(spooled: int = 0, *, epoch: str = EPOCH) -> Marks:
    return Marks(
        load_id="f" * 16,
        positions={"exec": spooled * 64},
        counters=Counters(read=spooled, spooled=spooled),
        epoch=epoch,
        next_batch=spooled // EVENTS,
    )


def batch(n: int, *, size: int = 1000, epoch: str = EPOCH, kind: Kind = "telemetry") -> NewItem:
    """The n-th batch, or alert."""
    payload = (b"%d," % n) * (size // len(b"%d," % n) + 1)
    if kind == "alert":
        return NewItem("alert", f"alert-{n}", "alerts.dev.a", payload[:size], epoch)
    message_id, first_seq = f"{epoch}-{n}", n * EVENTS
    subject = "telemetry.raw.dev.a"
    return NewItem(kind, message_id, subject, payload[:size], epoch, first_seq, EVENTS)


def ids(spool: Spool, *, skip: Sequence[int] = ()) -> list[str]:
    """Message ids in the order of sending."""
    return [each.message_id for each in spool.oldest(10**6, limit_bytes=10**9, skip=skip)]


def append_for_ever(folder: Path) -> None:
    """Append and remove until killed; each line says what is now so, or is about to be."""
    spool = Spool.open(folder, max_bytes=400_000)
    found = spool.marks()
    n = found.next_batch if found else 0
    while True:
        items = [batch(n + i, size=700 * (1 + (n + i) % 9)) for i in range(PER_APPEND)]
        n += PER_APPEND
        spool.append(items, marks(n * EVENTS), now_unix_ms=NOW)
        _say("appended", n)
        if n % 4:
            first = spool.oldest(2, limit_bytes=10**6)
            for each in first:
                _say("removing", int(each.message_id.rpartition("-")[2]))
            spool.remove([each.id for each in first])


def fill_the_disk(folder: Path) -> None:
    """Live beside a full disk: first with a broker, then without, then with room again."""
    spool = Spool.open(folder / "spool")
    n = _send(spool, 0, times=60)
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    n = _send(spool, n, times=100)
    _say("sent on a full disk", n)
    first = n
    try:
        while True:
            spool.append([batch(n, size=100_000)], marks((n + 1) * EVENTS), now_unix_ms=NOW)
            n += 1
    except SpoolFull as error:
        _say(str(error), n - first)
    try:
        spool.append([batch(n, size=2_000_000)], marks(10**6), now_unix_ms=NOW)
    except SpoolFull:
        _say("again", spool.statistics(now_unix_ms=NOW).failed_appends)
    assert spool.marks() == marks(n * EVENTS)
    assert ids(spool) == [batch(i).message_id for i in range(first, n)]
    ballast.unlink()
    spool.append([batch(n, size=1_000_000)], marks((n + 1) * EVENTS), now_unix_ms=NOW)
    assert ids(spool) == [batch(i).message_id for i in range(first, n + 1)]
    spool.close()
    _say("appended with room", n)


def _send(spool: Spool, n: int, *, times: int) -> int:
    for _ in range(times):
        spool.append([batch(n, size=100_000)], marks((n + 1) * EVENTS), now_unix_ms=NOW)
        n += 1
        spool.remove([each.id for each in spool.oldest(9, limit_bytes=10**6)])
    return n


def _say(what: str, n: int) -> None:
    sys.stdout.write(f"{what} {n}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    {"append": append_for_ever, "fill": fill_the_disk}[sys.argv[1]](Path(sys.argv[2]))
