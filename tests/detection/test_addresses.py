"""An IPv4 peer behind an IPv6 socket: rules get the answers of the IPv4 socket."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.detection.addresses import is_external, is_mapped, plain
from actors.detection.alerts import event_text
from actors.detection.conditions import Op, Test
from actors.detection.engine import Engine
from actors.detection.rules import Match, Rule, Sequence, Step
from actors.detection.ruleset import RuleSet
from actors.detection.settings import FilterSettings
from actors.detection.testing import Host
from tests.services.store.cast import connect_event

MAPPED = "::ffff:203.0.113.9"


@pytest.mark.parametrize(
    ("name", "op", "value", "holds"),
    [
        ("dest_ip", "equals", "203.0.113.9", True),
        ("dest_ip", "startswith", "203.0.", True),
        ("dest_ip", "cidr", "203.0.113.0/24", True),
        ("dest_ip", "equals", MAPPED, False),
        ("dest_ip.raw", "equals", MAPPED, True),
        ("family", "equals", "ipv4", True),
        ("family", "equals", "ipv6", False),
    ],
)
def test_a_rule_finds_the_peer_by_its_own_address(
    name: str, op: Op, value: str, *, holds: bool
) -> None:
    rule = Rule(id="r", label="r", matches=(Match("connect", Test(name, op, (value,))),))
    host = Host()
    host.engine = Engine(RuleSet(FilterSettings(), [rule]))
    assert bool(host.connect(host.bash, MAPPED)) == holds


def test_both_forms_of_an_address_are_one_peer() -> None:
    step = Step((Match("connect", Test("comm", "exists", (True,))),), by=())
    two = Sequence(
        id="s",
        label="s",
        steps=(step,),
        scope="lineage",
        count=2,
        distinct="dest_ip",
        window_secs=9,
    )
    host = Host()
    host.engine = Engine(RuleSet(FilterSettings(), [two]))
    told = [host.connect(host.bash, each) for each in (MAPPED, "203.0.113.9", "203.0.113.8")]
    assert [bool(each) for each in told] == [False, False, True]


def test_an_alert_names_the_peer_as_an_ipv4_socket_would() -> None:
    event = connect_event(dest_ip=MAPPED, af=10, dest_port=443)
    assert event_text(event) == "203.0.113.9:443"


@given(st.ip_addresses(v=4).map(str))
def test_a_mapped_address_is_the_one_that_it_maps(address: str) -> None:
    assert plain(f"::ffff:{address}") == plain(address) == address
    assert is_external(f"::ffff:{address}") == is_external(address)


@given(st.ip_addresses(v=6).map(str))
def test_an_address_of_ipv6_stays_as_it_is(address: str) -> None:
    assert is_mapped(address) or plain(address) == address
