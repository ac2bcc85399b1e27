from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.detection import literals, predicates
from actors.detection.conditions import (
    AllOf,
    AnyOf,
    Condition,
    EventType,
    RuleError,
    Test,
    Value,
)
from actors.detection.engine import Engine
from actors.detection.rules import Exclusion, Match, Rule
from actors.detection.ruleset import RuleSet
from actors.detection.settings import FilterSettings
from actors.detection.testing import Host
from tests.detection.evaluator import conditions, holds, worlds

SETTINGS = FilterSettings(ignored_comms=())


def rule(number: int, event: EventType, when: Condition, unless: Condition | None) -> Rule:
    exclusions = () if unless is None else (Exclusion(when=unless, owner="me", reason="test"),)
    return Rule(
        id=f"rule-{number}",
        label=f"rule {number}",
        matches=(Match(event, when),),
        exclusions=exclusions,
    )


def agrees(data: st.DataObject, event: EventType) -> None:
    asked = data.draw(
        st.lists(
            st.tuples(conditions(event), st.none() | conditions(event)), min_size=1, max_size=4
        )
    )
    rules = [rule(number, event, *each) for number, each in enumerate(asked)]
    world, done = data.draw(worlds(event))
    with mock.patch.object(literals, "ahocorasick", None):
        plain = Engine(RuleSet(SETTINGS, rules))
    engines = [Engine(RuleSet(SETTINGS, rules)), plain]
    for engine in engines:
        engine.process(world.seed)
    for events, facts in done:
        expected = [
            f"rule-{number}"
            for number, (when, unless) in enumerate(asked)
            if holds(when, facts) and not (unless is not None and holds(unless, facts))
        ]
        for engine in engines:
            alerts = [
                alert for each in events for alert in engine.process(each) if each is events[-1]
            ]
            assert [alert.rule_id for alert in alerts] == expected


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_rules_on_execs_hold_exactly_when_the_reference_says_so(data: st.DataObject) -> None:
    agrees(data, "exec")


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_rules_on_opens_hold_exactly_when_the_reference_says_so(data: st.DataObject) -> None:
    agrees(data, "open")


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_rules_on_connections_hold_exactly_when_the_reference_says_so(
    data: st.DataObject,
) -> None:
    agrees(data, "connect")


# What random worlds do not show


def alerts_of(rules: list[Rule], host: Host, *, exe: str = "/usr/bin/curl") -> list[str]:
    host.engine = Engine(RuleSet(SETTINGS, rules))
    host.init = host.seed(None, "/usr/lib/systemd/systemd", pid=1)
    child, _ = host.run(host.init, exe)
    return [alert.rule_id for alert in host.connect(child)]


FIRST = Test("first_network_call", "equals", (True,))


def test_two_rules_may_both_ask_for_the_first_call() -> None:
    rules = [rule(number, "connect", FIRST, None) for number in range(2)]
    assert alerts_of(rules, Host()) == ["rule-0", "rule-1"]


def test_the_first_call_is_spent_only_where_all_else_holds() -> None:
    elsewhere = AnyOf((Test("exe", "equals", ("/x",)), Test("dest_port", "equals", (80,))))
    host = Host()
    host.engine = Engine(RuleSet(SETTINGS, [rule(0, "connect", AllOf((FIRST, elsewhere)), None)]))
    child, _ = host.run(host.init, "/usr/bin/curl")
    assert host.connect(child, dest_port=443) == []
    assert [alert.rule_id for alert in host.connect(child, dest_port=80)] == ["rule-0"]


@pytest.mark.parametrize("value", ["no", 1])
def test_exists_is_true_or_false(value: Value) -> None:
    with pytest.raises(RuleError, match="exe: exists is true or false"):
        RuleSet(SETTINGS, [rule(0, "exec", Test("exe", "exists", (value,)), None)])


def test_a_long_argument_is_no_address() -> None:
    rules = [rule(0, "exec", Test("command_line", "cidr", ("10.0.0.0/8",)), None)]
    host = Host()
    host.engine = Engine(RuleSet(SETTINGS, rules))
    before = predicates._address.cache_info().currsize
    host.run(host.init, "/usr/bin/x", "1" * 5000)
    assert predicates._address.cache_info().currsize == before


@pytest.mark.parametrize(
    ("network", "address"),
    [
        ("10.0.0.0/8", "::ffff:10.1.2.3"),
        ("::ffff:0:0/96", "::ffff:10.1.2.3"),
        ("2001:db8::/32", "2001:db8::1"),
        ("10.0.0.1", "10.0.0.1"),
    ],
)
def test_networks_hold_addresses_however_they_are_written(network: str, address: str) -> None:
    rules = [rule(0, "connect", Test("dest_ip", "cidr", (network,)), None)]
    host = Host()
    host.engine = Engine(RuleSet(SETTINGS, rules))
    child, _ = host.run(host.init, "/usr/bin/x")
    assert [alert.rule_id for alert in host.connect(child, address)] == ["rule-0"]
