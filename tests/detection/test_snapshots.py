import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.detection import snapshots
from actors.detection.builtin import builtin_rules, builtin_set
from actors.detection.engine import Engine
from actors.detection.events import AnyEvent
from actors.detection.rules import Sequence
from actors.detection.ruleset import RuleSet
from actors.detection.settings import FilterSettings
from actors.detection.snapshots import SnapshotError
from actors.detection.testing import Host, rules
from tests.detection.test_engine import histories

SMALL = FilterSettings(max_processes=64)


@settings(max_examples=100, deadline=None)
@given(histories(), st.integers(0, 200))
def test_a_restored_engine_goes_on_as_if_nothing_had_happened(
    events: list[AnyEvent], cut: int
) -> None:
    found = builtin_set(SMALL)
    whole, first = Engine(found), Engine(found)
    expected = whole.process_batch(events)
    alerts = first.process_batch(events[:cut])
    second = snapshots.restore(builtin_set(SMALL), snapshots.take(first))
    alerts += second.process_batch(events[cut:])
    assert msgspec.json.encode(alerts) == msgspec.json.encode(expected)
    assert snapshots.take(second) == snapshots.take(whole)
    assert second.statistics() == whole.statistics()


def test_new_rules_take_over_what_the_old_ones_have_begun() -> None:
    host = Host()
    bash, _ = host.run(host.bash, "/usr/bin/bash")
    host.connect(bash)
    fewer = [each for each in builtin_rules() if each.id != "unexpected-shell-spawn"]
    host.engine = snapshots.restore(RuleSet(FilterSettings(), fewer), snapshots.take(host.engine))
    _, alerts = host.run(bash, "/usr/bin/sh")
    assert rules(alerts) == ["reverse-shell"]


def test_what_a_changed_sequence_has_begun_is_forgotten() -> None:
    host = Host()
    bash, _ = host.run(host.bash, "/usr/bin/bash")
    host.connect(bash)
    changed = [
        msgspec.structs.replace(each, ordered=False)
        if isinstance(each, Sequence) and each.id == "reverse-shell"
        else each
        for each in builtin_rules()
    ]
    host.engine = snapshots.restore(RuleSet(FilterSettings(), changed), snapshots.take(host.engine))
    _, alerts = host.run(bash, "/usr/bin/sh")
    assert rules(alerts) == []


@pytest.mark.parametrize("raw", [b"", b"\x80", b"nonsense", b"\xff" * 100])
def test_other_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(SnapshotError, match="not a snapshot"):
        snapshots.restore(builtin_set(SMALL), raw)
