"""Tuning: what is shipped is narrow and explained; what users write is refused if it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.detection.conditions import Test
from actors.detection.engine import Engine
from actors.detection.rulefile import RuleFileError
from actors.detection.rules import Exclusion, Match, Rule
from actors.detection.ruleset import RuleSet
from actors.detection.settings import FilterSettings
from actors.detection.testing import Host, rules
from actors.detection.tuning import (
    SHIPPED,
    Tuning,
    by_rule,
    is_tuning,
    parse_tuning,
    shipped_tunings,
    tuned,
)

EXPLAINED = (Path(__file__).parents[2] / "docs" / "rules-exclusions.md").read_text()
FOLDER = Path(__file__).parents[2] / "actors" / "detection" / "builtin_tuning"
PRELOAD = "4b3cb710-5e83-4715-8c45-8b2b5b3e5751"
UNITS = "1bac86ba-41aa-4f62-9d6b-405eac99b485"
WRITERS = ("dpkg*", "useradd")
O_WRONLY, O_RDWR, O_CREAT = 1, 2, 0o100


@pytest.mark.parametrize("tuning", shipped_tunings(), ids=lambda tuning: tuning.name)
def test_every_shipped_exclusion_is_explained(tuning: Tuning) -> None:
    assert f"## {tuning.name}\n" in EXPLAINED
    section = EXPLAINED.split(f"## {tuning.name}\n")[1].split("\n## ")[0]
    assert [rule for rule in tuning.tunes if rule not in section] == []
    assert all(each.owner == "Lavender" and each.reason for each in tuning.exclusions)


def test_every_file_that_is_shipped_takes_effect() -> None:
    assert sorted(path.stem for path in FOLDER.iterdir()) == sorted(SHIPPED)


def host_of(rule_id: str, path: str) -> Host:
    """A host with a rule of that id about a file, tuned as shipped."""
    matches = (Match("open", Test("path", "startswith", (path,))),)
    rule = tuned(Rule(id=rule_id, label="x", matches=matches), by_rule(())[rule_id])
    host = Host()
    host.engine = Engine(RuleSet(FilterSettings(safe_file_writers=WRITERS), [rule]))
    return host


@pytest.mark.parametrize(
    ("flags", "told"), [(0, 0), (0o2000000, 0), (O_WRONLY, 1), (O_RDWR, 1), (O_CREAT, 1)]
)
def test_only_reading_is_no_change(flags: int, told: int) -> None:
    host = host_of(PRELOAD, "/etc/ld.so.preload")
    program, _ = host.run(host.bash, "/usr/bin/tool")
    assert len(host.open(program, "/etc/ld.so.preload", flags=flags)) == told


@pytest.mark.parametrize(
    ("exe", "system", "file", "told"),
    [
        ("/usr/bin/dpkg", True, "a.service.dpkg-new", []),
        ("/usr/bin/dpkg", True, "a.service", [UNITS]),
        ("/usr/bin/dpkg", False, "a.service.dpkg-new", [UNITS]),
        ("/tmp/dpkg", False, "a.service.dpkg-new", [UNITS]),
        ("/usr/bin/cp", True, "a.service.dpkg-new", [UNITS]),
    ],
)
def test_only_dpkg_itself_installs_units(
    exe: str,
    system: bool,  # noqa: FBT001 - a column of the table
    file: str,
    told: list[str],
) -> None:
    host = host_of(UNITS, "/usr/lib/systemd/system/")
    program, _ = host.run(host.bash, exe, system=system)
    alerts = host.open(program, f"/usr/lib/systemd/system/{file}", flags=O_WRONLY | O_CREAT)
    assert rules(alerts) == told


def test_a_users_tuning_adds_to_what_is_shipped_or_declines_it() -> None:
    more = Exclusion(when=Test("user", "equals", ("build",)), owner="me", reason="builds")
    mine = Tuning(name="mine", tunes=(UNITS, "other"), exclusions=(more,))
    rule = Rule(id=UNITS, label="x", matches=())
    (shipped,) = by_rule([])[UNITS]
    assert tuned(rule, by_rule([mine])[UNITS]).exclusions == (*shipped.exclusions, more)
    alone = Tuning(name="mine", tunes=(UNITS,), exclusions=(more,), shipped=False)
    assert tuned(rule, by_rule([alone])[UNITS]).exclusions == (more,)


def test_what_was_tuned_when_it_was_compiled_is_not_tuned_twice() -> None:
    rule = Rule(id=UNITS, label="x", matches=())
    once = tuned(rule, by_rule([])[UNITS])
    assert tuned(once, by_rule([])[UNITS]) is once


def test_the_status_can_be_changed_both_ways() -> None:
    rule = Rule(id="a", label="x", matches=())
    off = tuned(rule, [Tuning(name="off", tunes=("a",), status="disabled")])
    assert off.status == "disabled"
    assert tuned(off, [Tuning(name="on", tunes=("a",), status="active")]) == rule


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("tunes = []", "length"),
        ("tunes = ['a b']", "regex"),
        ("tunes = ['a']\nlevel = 'low'", "there is no key level"),
        ("tunes = ['a']\n[[exclusions]]\nmatch = {uid = 0}\nowner = 'x'", "reason"),
        ("tunes = ['a']\n[[exclusions]]\nmatch = {}\nowner = 'x'\nreason = 'y'", "empty"),
        ("tunes = ['a'\n", "Unclosed array"),
    ],
)
def test_tuning_that_cannot_be_used_is_refused(text: str, why: str) -> None:
    assert is_tuning(text.encode())
    with pytest.raises(RuleFileError, match=why):
        parse_tuning(text.encode(), path="x.toml")


def test_a_rule_is_no_tuning() -> None:
    assert not is_tuning(b'id = "x"\ntitle = "it tunes = things"\n')
