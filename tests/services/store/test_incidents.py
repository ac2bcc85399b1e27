"""Repeats of alerts, and the incidents that come of them, in each store."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
import pytest
import trio

from actors.detection.events import LEVELS, LineageProcess
from services.store.incidents import Incident, incident_id, lane_of
from services.store.interface import Added, Store
from tests.services.store.cast import NOW_MS, alert
from tests.services.store.places import Place
from transport.messages import Alert

BOOT = "6f9a"
SHELL = LineageProcess(300, 3_000_000_000, 1, 10_000_000, "bash")
TOOL = LineageProcess(400, 4_999_000_000, 300, 3_000_000_000, "curl")
ID = incident_id(tenant_id="acme", agent_id="agent-1", boot_id=BOOT, lineage="300-3000000000")


def of_lineage(number: int = 0, lineage: str = "300-3000000000", **own: Any) -> Alert:
    values: dict[str, Any] = {"boot_id": BOOT, "lineage": lineage, "processes": (SHELL, TOOL)}
    return alert(number, **{**values, **own})


async def incidents(store: Store, **chosen: Any) -> list[Incident]:
    return list((await store.incidents(**chosen)).incidents)


def test_only_information_is_quiet() -> None:
    lanes = [lane_of(level) for level in LEVELS]
    assert lanes == ["quiet", "page", "page", "page", "page"]


async def test_every_field_of_an_alert_is_read_back(store: Store) -> None:
    told = of_lineage(
        level="high",
        author="Ann Author",
        references=("https://example.org/a", "https://example.org/b"),
        count=3,
        source="worker",
        score=120,
        severity="HIGH",
        ancestry="init=>bash=>curl",
        evidence=[],
    )
    await store.add_alerts([told])
    timeline = await store.incident(ID)
    assert timeline is not None
    (stored,) = timeline.alerts
    assert stored.alert == told
    assert (stored.lane, stored.status) == ("page", "open")
    assert stored.last_observed_at_unix_ms == told.observed_at_unix_ms


REPEATS = [
    of_lineage(count=1, score=10, observed_at_unix_ms=NOW_MS),
    of_lineage(count=2, score=40, observed_at_unix_ms=NOW_MS + 50, detail="again"),
    of_lineage(count=3, score=30, observed_at_unix_ms=NOW_MS + 40, detail="again"),
]


@pytest.mark.parametrize("at_once", [True, False])
async def test_the_greatest_of_an_alerts_repeats_stands_in_whatever_order_they_come(
    store: Store, place: Place, *, at_once: bool
) -> None:
    for number, order in enumerate(itertools.permutations(REPEATS)):
        own: Any = {"alert_id": f"{number:036}", "lineage": str(number)}
        repeats = [msgspec.structs.replace(each, **own) for each in order]
        for part in [repeats] if at_once else [[each] for each in [*repeats, *repeats]]:
            await store.add_alerts(part)
    rows = place.rows(
        "SELECT count, score, last_observed_at_unix_ms AS last, detail FROM alerts"
        " ORDER BY alert_id"
    )
    firsts = [order[0].detail for order in itertools.permutations(REPEATS)]
    assert [row.pop("detail") for row in rows] == firsts
    assert rows == [{"count": 3, "score": 40, "last": NOW_MS + 50}] * 6
    assert {each.hits for each in await incidents(store)} == {3}


async def test_repeats_are_duplicates(store: Store) -> None:
    assert await store.add_alerts(REPEATS) == Added(messages=1, duplicates=2)
    assert await store.add_alerts(REPEATS[1:]) == Added(duplicates=2)


@pytest.mark.parametrize("whose", ["tenant_id", "agent_id"])
async def test_an_alert_under_anothers_id_neither_changes_nor_replaces_it(
    store: Store, place: Place, whose: str
) -> None:
    """Whichever comes first, each is stored."""
    other: Any = {whose: "other"}
    await store.add_alerts([of_lineage(0), of_lineage(1, count=9, score=999, **other)])
    await store.add_alerts([of_lineage(0, count=9, score=999, **other), of_lineage(1)])
    rows = place.rows(
        f"SELECT alert_id, count, score FROM alerts WHERE {whose} <> 'other' ORDER BY alert_id"  # noqa: S608 - ours
    )
    assert [(row["count"], row["score"]) for row in rows] == [(1, 0), (1, 0)]
    assert len(place.rows("SELECT 1 AS one FROM alerts")) == 4


async def test_a_repeat_brings_the_targets_that_its_alert_has_by_now(
    store: Store, place: Place
) -> None:
    few, more = ("/tmp/etc/shadow",), ("/tmp/etc/shadow", "/etc/shadow")
    await store.add_alerts([of_lineage(0, targets=few), of_lineage(1, targets=few)])
    await store.add_alerts([of_lineage(0, count=2, targets=more)])
    await store.add_alerts([of_lineage(0, targets=few)])
    await store.add_alerts([of_lineage(2, count=2, targets=more), of_lineage(2, targets=few)])
    rows = place.rows("SELECT targets FROM alerts ORDER BY alert_id")
    by_id = {of_lineage(n).alert_id: wanted for n, wanted in ((0, more), (1, few), (2, more))}
    assert [tuple(row["targets"]) for row in rows] == [by_id[key] for key in sorted(by_id)]


async def test_the_ledger_counts_what_agents_raised_whoever_was_faster(store: Store) -> None:
    await store.add_alerts([of_lineage(0, source="worker"), of_lineage(1, source="worker")])
    await store.add_alerts([of_lineage(0, source="agent"), of_lineage(2, source="agent")])
    await store.add_alerts([of_lineage(2, source="worker", count=2)])
    (epoch,) = (await store.ledger(since_unix_ms=0, until_unix_ms=1 << 50)).epochs
    assert epoch.alerts_stored == 2


async def test_alerts_of_one_lineage_are_one_incident(store: Store) -> None:
    told = [
        of_lineage(0, score=65, severity="WARNING", level="low", observed_at_unix_ms=NOW_MS),
        of_lineage(1, score=110, severity="HIGH", level="critical", count=4),
        of_lineage(2, rule="other", severity="INFO", observed_at_unix_ms=NOW_MS + 9, count=2),
        of_lineage(3, lineage="7-7"),
        of_lineage(4, boot_id="another"),
        of_lineage(5, agent_id="agent-2"),
        alert(6),
    ]
    await store.add_alerts(told[:2])
    await store.add_alerts(told[1:])
    found = await incidents(store)
    assert len(found) == 4
    (first,) = [each for each in found if each.incident_id == ID]
    assert first == Incident(
        incident_id=ID,
        tenant_id="acme",
        agent_id="agent-1",
        hostname="web-1",
        boot_id=BOOT,
        lineage="300-3000000000",
        first_seen_at_unix_ms=NOW_MS - 40,
        last_seen_at_unix_ms=NOW_MS + 9,
        alerts=3,
        hits=6,
        score=110,
        level="critical",
        severity="HIGH",
        status="open",
    )
    timeline = await store.incident(ID)
    assert timeline is not None
    assert timeline.incident == first
    assert [each.alert for each in timeline.alerts] == [told[1], told[0], told[2]]


async def test_what_is_only_information_opens_no_incident_and_joins_one(store: Store) -> None:
    quiet = [of_lineage(n, level="informational", score=n) for n in (1, 2)]
    await store.add_alerts(quiet[:1])
    assert await incidents(store) == []
    assert await store.incident(ID) is None
    await store.add_alerts([of_lineage(3, level="low")])
    await store.add_alerts(quiet[1:])
    timeline = await store.incident(ID)
    assert timeline is not None
    assert (timeline.incident.alerts, timeline.incident.level) == (3, "low")
    assert sorted(each.lane for each in timeline.alerts) == ["page", "quiet", "quiet"]


async def test_an_incident_keeps_the_status_people_gave_it(store: Store, place: Place) -> None:
    await store.add_alerts([of_lineage(0)])
    place.change("UPDATE incidents SET status = 'acknowledged'")
    await store.add_alerts([of_lineage(0), of_lineage(1)])
    assert [(each.status, each.alerts) for each in await incidents(store)] == [("acknowledged", 2)]
    with pytest.raises(Exception, match=r"(?i)constraint"):
        place.change("UPDATE incidents SET status = 'ignored'")


async def test_incidents_are_paged_by_the_time_they_were_seen_last(store: Store) -> None:
    alerts = [
        of_lineage(n, lineage=f"{n}-1", observed_at_unix_ms=NOW_MS + n // 3) for n in range(10)
    ]
    random.Random(3).shuffle(alerts)
    await store.add_alerts(alerts)
    pages: list[Sequence[Incident]] = []
    cursor = ""
    while not pages or cursor:
        page = await store.incidents(limit=4, cursor=cursor)
        pages.append(page.incidents)
        cursor = page.cursor
    assert [len(page) for page in pages] == [4, 4, 2]
    listed = [each for page in pages for each in page]
    keys = [(-each.last_seen_at_unix_ms, each.incident_id) for each in listed]
    assert keys == sorted(keys)
    assert len(set(keys)) == 10
    assert len(await incidents(store, since_unix_ms=NOW_MS + 3)) == 1
    assert await incidents(store, tenant_id="other") == []
    with pytest.raises(ValueError, match="invalid literal"):
        await store.incidents(cursor="page two")


async def test_writers_that_add_to_one_incident_at_the_same_time_add_up(
    store: Store, place: Place, loop: None
) -> None:
    others = [place.store() for _ in range(3)]

    async def add(each: Store, first: int) -> None:
        for number in range(first, first + 10):
            parts = [of_lineage(number), of_lineage(1000 + number, lineage="7-7")]
            await each.add_alerts(parts if first % 20 else parts[::-1])

    for other in others:
        await other.open()
    async with trio.open_nursery() as nursery:
        for place_in_line, each in enumerate([store, *others]):
            nursery.start_soon(partial(add, each, 10 * place_in_line))
    for other in others:
        await other.close()
    assert [each.alerts for each in await incidents(store)] == [40, 40]


async def test_incidents_go_with_the_last_of_their_alerts(store: Store) -> None:
    day_ms = 86_400_000
    old: Any = {"received_at_unix_ms": NOW_MS - 400 * day_ms}
    await store.add_alerts([of_lineage(0, **old), of_lineage(1, lineage="7-7", **old)])
    await store.add_alerts([of_lineage(2)])
    await store.retain(NOW_MS)
    assert [each.incident_id for each in await incidents(store)] == [ID]
