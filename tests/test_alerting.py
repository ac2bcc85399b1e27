"""Under which id an alert is told."""

from collections import deque
from uuid import uuid5

import msgspec
import pytest

from actors import alerting
from actors.alerting import Firsts, note_cut
from actors.detection.alerts import Alert
from actors.detection.cuts import Cut
from actors.detection.testing import Host
from transport.messages import ALERT_NAMESPACE, Gap


def alert(rule_id: str = "r", lineage: int = 1, count: int = 1, target: str = "") -> Alert:
    host = Host()
    cat, _ = host.run(host.bash, "/usr/bin/cat")
    (found,) = host.open(cat, "/etc/shadow")
    values = {name: getattr(found, name) for name in found.__struct_fields__}
    mine = {"lineage": (lineage, 0), "count": count, "first": count == 1, "target": target}
    return Alert(**values | {"rule_id": rule_id} | mine)


def own(event: str) -> str:
    """The id that UUID's own code makes of an event."""
    return str(uuid5(ALERT_NAMESPACE, f"{event}/{alert().rule}"))


def test_a_repeat_has_the_id_of_the_first() -> None:
    firsts = Firsts()
    assert firsts.id_of(alert(), "one") == own("one")
    assert firsts.id_of(alert(count=2), "two") == own("one")
    assert firsts.id_of(alert(lineage=2), "other") == own("other")
    assert Firsts(firsts.known()).id_of(alert(count=4), "four") == own("one")
    assert firsts.id_of(alert(count=1), "anew") == own("anew")
    assert firsts.id_of(alert(count=2), "again") == own("anew")


def test_each_target_has_an_alert_of_its_own() -> None:
    firsts = Firsts()
    other = msgspec.structs.replace(alert(count=2, target="b"), first=True)
    assert firsts.id_of(alert(target="a"), "one") == own("one")
    assert firsts.id_of(other, "two") == own("two")
    assert firsts.id_of(alert(count=3, target="a"), "three") == own("one")
    assert Firsts(firsts.known()).id_of(alert(count=4, target="b"), "four") == own("two")


def test_cuts_that_follow_on_each_other_are_one_gap() -> None:
    gaps: deque[Gap] = deque([Gap(0, 5, "lost_in_kernel_exec", 3)], maxlen=4)
    for number in range(100):
        at_ns = 10_000_000 * (number + 1)
        cut = Cut("partial_matches_cut", at_ns - 15_000_000, at_ns, 2, (1000, (7, 1)), "bash")
        note_cut(gaps, cut, boot_unix_ns=0)
    assert list(gaps) == [
        Gap(0, 5, "lost_in_kernel_exec", 3),
        Gap(0, 1000, "partial_matches_cut", 200),
    ]


def test_cuts_far_apart_are_gaps_of_their_own() -> None:
    gaps: deque[Gap] = deque(maxlen=4)
    for at_ns in (10**9, 10**12):
        cut = Cut("processes_forgotten", at_ns - 10**6, at_ns, 1, (1000, (7, 1)), "bash")
        note_cut(gaps, cut, boot_unix_ns=10**18)
    assert [gap.to_unix_ms - 10**12 for gap in gaps] == [10**3, 10**6]


def test_a_repeat_of_what_was_forgotten_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerting, "_FIRSTS_MAX", 1)
    firsts = Firsts()
    firsts.id_of(alert(), "one")
    firsts.id_of(alert("s"), "two")
    assert firsts.id_of(alert(count=2), "three") == own("three")
    assert firsts.id_of(alert(count=4), "four") == own("three")
