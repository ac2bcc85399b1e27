"""Rules and sequences together: what is asked first, and how exclusions reach sequences."""

from actors.detection.conditions import Test
from actors.detection.engine import Engine
from actors.detection.rules import Exclusion, Match, Rule, Sequence, Step
from actors.detection.ruleset import RuleSet
from actors.detection.settings import FilterSettings
from actors.detection.testing import Host, rules

SETTINGS = FilterSettings()


def opened(name: str) -> Match:
    return Match("open", Test("path", "equals", (name,)))


def test_a_parent_s_program_and_command_line_are_known_in_every_type_of_event() -> None:
    matches = tuple(
        Match(event, Test(name, "endswith", ("/nginx",)))
        for event in ("exec", "open", "connect")
        for name in ("parent.exe",)
    )
    lines = tuple(
        Match(event, Test("parent.command_line", "contains", ("-g daemon",)))
        for event in ("exec", "open", "connect")
    )
    host = Host()
    host.engine = Engine(
        RuleSet(
            SETTINGS,
            [Rule(id="exe", label="e", matches=matches), Rule(id="line", label="l", matches=lines)],
        )
    )
    parent = host.fork(host.init)
    host.exec(parent, "/usr/sbin/nginx", "-g", "daemon off;")
    _, alerts = host.run(parent, "/usr/bin/id")
    assert rules(alerts) == ["exe", "line"]
    assert rules(host.open(host.fork(parent), "/tmp/x")) == ["exe", "line"]
    assert rules(host.connect(host.fork(parent))) == ["exe", "line"]


def test_what_is_excluded_is_no_step() -> None:
    steps = (Step((opened("/a"),)), Step((opened("/b"),)))
    exclusion = Exclusion(when=Test("exe", "equals", ("/usr/bin/ok",)), owner="o", reason="r")
    found = Sequence(id="s", label="s", steps=steps, exclusions=(exclusion,))
    host = Host()
    host.engine = Engine(RuleSet(SETTINGS, [found]))
    for exe, told in (("/usr/bin/ok", []), ("/usr/bin/other", ["s"])):
        child, _ = host.run(host.init, exe)
        host.open(child, "/a")
        assert rules(host.open(child, "/b")) == told


def test_what_is_excluded_ends_a_sequence_nevertheless() -> None:
    exclusion = Exclusion(when=Test("path", "equals", ("/end",)), owner="o", reason="r")
    found = Sequence(
        id="s",
        label="s",
        steps=(Step((opened("/a"),)), Step((opened("/b"),))),
        until=(opened("/end"),),
        exclusions=(exclusion,),
    )
    host = Host()
    host.engine = Engine(RuleSet(SETTINGS, [found]))
    child, _ = host.run(host.init, "/usr/bin/x")
    for name in ("/a", "/end"):
        host.open(child, name)
    assert rules(host.open(child, "/b")) == []


def test_a_silent_rule_raises_nothing() -> None:
    host = Host()
    rule = Rule(id="r", label="r", matches=(opened("/a"),), silent=True)
    host.engine = Engine(RuleSet(SETTINGS, [rule]))
    assert host.open(host.fork(host.init), "/a") == []


def test_a_rule_of_several_matches_tells_an_event_once() -> None:
    host = Host()
    matches = (opened("/a"), Match("open", Test("path", "startswith", ("/",))))
    host.engine = Engine(RuleSet(SETTINGS, [Rule(id="r", label="r", matches=matches)]))
    assert rules(host.open(host.fork(host.init), "/a")) == ["r"]
