"""The spool keeps what it is given, in order, within its bounds, and says what it gave up."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.transport.spool_cast import EPOCH, EVENTS, HOUR_MS, NOW, batch, ids, marks
from transport.messages import Evicted
from transport.spool import Spool
from transport.spool_errors import SpoolError
from transport.spool_evictions import Loss
from transport.spool_rows import OVERHEAD_BYTES

COST = 1000 + OVERHEAD_BYTES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "spool"


@pytest.fixture
def spool(folder: Path) -> Iterator[Spool]:
    spool = Spool.open(folder, max_bytes=10 * COST, max_age_secs=3600)
    yield spool
    spool.close()


def put(spool: Spool, *numbers: int, now: int = NOW, keep: tuple[int, ...] = ()) -> list[Loss]:
    items = [batch(n) for n in numbers]
    return spool.append(items, marks((numbers[-1] + 1) * EVENTS), now_unix_ms=now, keep=keep)


def put_alerts(spool: Spool, *numbers: int, now: int = NOW) -> list[Loss]:
    return spool.append([batch(n, kind="alert") for n in numbers], marks(), now_unix_ms=now)


def test_an_item_comes_back_as_it_went_in(spool: Spool) -> None:
    put(spool, 7)
    (item,) = spool.oldest(10, limit_bytes=10**6)
    sent = batch(7)
    assert item[1:] == (*sent[:3], sent.payload, EPOCH, 70, EVENTS, NOW)


def test_alerts_come_first_and_each_kind_oldest_first(spool: Spool) -> None:
    put(spool, 0, 1)
    put_alerts(spool, 5, 6)
    put(spool, 2)
    expected = ["alert-5", "alert-6", *(f"{EPOCH}-{n}" for n in range(3))]
    assert ids(spool) == expected


def test_what_is_on_its_way_is_not_given_again(spool: Spool) -> None:
    put(spool, 0, 1, 2)
    first = spool.oldest(1, limit_bytes=10**6)[0].id
    assert ids(spool, skip=[first]) == [f"{EPOCH}-1", f"{EPOCH}-2"]


def test_bytes_limit_what_is_given_but_one_item_always_is(spool: Spool) -> None:
    put(spool, 0, 1, 2)
    assert len(spool.oldest(10, limit_bytes=2000)) == 2
    assert len(spool.oldest(10, limit_bytes=1)) == 1
    assert len(spool.oldest(2, limit_bytes=10**6)) == 2


def test_removed_is_gone_at_once_and_after_the_next_start(folder: Path, spool: Spool) -> None:
    put(spool, 0, 1, 2)
    items = spool.oldest(2, limit_bytes=10**6)
    spool.remove([each.id for each in items])
    spool.remove([items[0].id, 12345])
    assert ids(spool) == [f"{EPOCH}-2"]
    assert spool.statistics(now_unix_ms=NOW).bytes == COST
    spool.close()
    again = Spool.open(folder)
    assert ids(again) == [f"{EPOCH}-2"]
    again.close()


def test_an_id_is_never_given_twice(spool: Spool) -> None:
    put(spool, 0)
    first = spool.oldest(1, limit_bytes=10**6)[0].id
    spool.remove([first])
    put(spool, 1)
    spool.remove([first])
    assert ids(spool) == [f"{EPOCH}-1"]


def test_marks_are_those_of_the_last_append(folder: Path, spool: Spool) -> None:
    assert spool.opened.how == "fresh"
    assert spool.marks() is None
    put(spool, 0)
    spool.append([], marks(99), now_unix_ms=NOW)
    assert spool.marks() == marks(99)
    spool.close()
    again = Spool.open(folder)
    assert again.opened.how == "resumed"
    assert again.marks() == marks(99)
    again.close()


def test_above_the_bound_the_oldest_telemetry_goes(spool: Spool) -> None:
    put(spool, *range(9))
    put_alerts(spool, 0)
    assert put(spool, 9, 10) == [Loss("telemetry", "bytes", EPOCH, 2, 20)]
    assert ids(spool) == ["alert-0", *(f"{EPOCH}-{n}" for n in range(2, 11))]
    assert spool.unreported() == [Evicted(EPOCH, 0, 19, "bytes")]


def test_alerts_go_last(spool: Spool) -> None:
    put(spool, 0)
    put_alerts(spool, *range(10))
    assert put_alerts(spool, 10) == [Loss("alert", "bytes", EPOCH, 1, 0)]
    assert put(spool, 1) == [Loss("telemetry", "bytes", EPOCH, 1, EVENTS)]
    assert ids(spool) == [f"alert-{n}" for n in range(1, 11)]


def test_what_is_on_its_way_stays_above_the_bound(spool: Spool) -> None:
    put(spool, *range(10))
    kept = tuple(each.id for each in spool.oldest(3, limit_bytes=10**6))
    put(spool, 10, keep=kept)
    assert ids(spool) == [f"{EPOCH}-{n}" for n in (0, 1, 2, *range(4, 11))]


def test_an_item_larger_than_the_bound_is_evicted_at_once(spool: Spool) -> None:
    put(spool, 0)
    losses = spool.append([batch(1, size=10 * COST)], marks(20), now_unix_ms=NOW)
    assert losses == [Loss("telemetry", "bytes", EPOCH, 1, EVENTS)]
    assert spool.unreported() == [Evicted(EPOCH, 10, 19, "bytes")]
    assert ids(spool) == [f"{EPOCH}-0"]


def test_what_is_too_old_goes(spool: Spool) -> None:
    put(spool, 0, 1)
    put_alerts(spool, 0)
    put(spool, 2, now=NOW + 1)
    losses = put(spool, 3, now=NOW + HOUR_MS + 1)
    assert losses == [Loss("telemetry", "age", EPOCH, 2, 20), Loss("alert", "age", EPOCH, 1, 0)]
    assert ids(spool) == [f"{EPOCH}-2", f"{EPOCH}-3"]


def test_a_clock_set_back_makes_nothing_old(spool: Spool) -> None:
    put(spool, 0)
    assert put(spool, 1, now=NOW - 10 * HOUR_MS) == []
    assert spool.statistics(now_unix_ms=NOW - 10 * HOUR_MS).oldest_age_secs == 0


def test_evictions_outlast_the_process_until_they_are_reported(folder: Path, spool: Spool) -> None:
    put(spool, *range(12))
    spool.close()
    spool = Spool.open(folder, max_bytes=10 * COST)
    told = spool.unreported()
    assert told == [Evicted(EPOCH, 0, 19, "bytes")]
    put(spool, 12)
    spool.reported(told)
    assert spool.unreported() == [Evicted(EPOCH, 20, 29, "bytes")]
    spool.close()
    spool = Spool.open(folder)
    assert spool.unreported() == [Evicted(EPOCH, 20, 29, "bytes")]
    assert spool.statistics(now_unix_ms=NOW).evicted == [Loss("telemetry", "bytes", EPOCH, 3, 30)]
    spool.close()


def test_statistics_count_what_waits(spool: Spool) -> None:
    put(spool, 0, 1)
    put_alerts(spool, 0, now=NOW + 2000)
    found = spool.statistics(now_unix_ms=NOW + 5000)
    assert (found.batches, found.alerts, found.bytes) == (2, 1, 3 * COST)
    assert found.oldest_age_secs == 5
    spool.remove([each.id for each in spool.oldest(9, limit_bytes=10**6)])
    empty = spool.statistics(now_unix_ms=NOW + 5000)
    assert (empty.batches, empty.alerts, empty.bytes, empty.oldest_age_secs) == (0, 0, 0, 0)


def test_nothing_is_written_of_an_append_that_fails(spool: Spool) -> None:
    put(spool, 0)
    impossible = batch(2)._replace(first_seq=1 << 70)
    with pytest.raises(OverflowError):
        spool.append([batch(1), impossible], marks(30), now_unix_ms=NOW)
    assert ids(spool) == [f"{EPOCH}-0"]
    assert spool.marks() == marks(10)
    assert spool.statistics(now_unix_ms=NOW).failed_appends == 1
    put(spool, 1)
    assert ids(spool) == [f"{EPOCH}-0", f"{EPOCH}-1"]


def test_only_the_owner_can_read_it(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o755)
    (folder / "spool.db").touch(0o644)
    spool = Spool.open(folder)
    put(spool, 0)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()}
    assert modes == dict.fromkeys(("spool.db", "spool.db-wal", "spool.lock"), 0o600)
    spool.close()


def test_every_append_is_synced(spool: Spool) -> None:
    settings = [spool._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous",)]
    assert settings == [2]
    assert spool._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_room_is_used_again_and_given_back(folder: Path) -> None:
    spool = Spool.open(folder, max_bytes=40_000_000)
    file, log = folder / "spool.db", folder / "spool.db-wal"
    for n in range(600):
        spool.append([batch(n, size=200_000)], marks(n), now_unix_ms=NOW)
    assert 35_000_000 < file.stat().st_size < 44_000_000
    assert log.stat().st_size < 10_000_000
    while items := spool.oldest(50, limit_bytes=10**7):
        spool.remove([each.id for each in items])
    assert file.stat().st_size < 100_000
    spool.append([batch(0)], marks(0), now_unix_ms=NOW)
    assert ids(spool) == [f"{EPOCH}-0"]
    spool.close()


def test_small_items_are_charged_for_what_they_take(folder: Path) -> None:
    spool = Spool.open(folder, max_bytes=2_000_000)
    for n in range(40):
        items = [batch(200 * n + i, size=50) for i in range(200)]
        spool.append(items, marks(n), now_unix_ms=NOW)
    spool.close()
    assert (folder / "spool.db").stat().st_size < 2_000_000


def test_a_closed_spool_says_so(spool: Spool) -> None:
    spool.close()
    spool.close()
    with pytest.raises(SpoolError, match="closed"):
        put(spool, 0)
    with pytest.raises(SpoolError, match="closed"):
        spool.oldest(1, limit_bytes=1)
