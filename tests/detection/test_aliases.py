import pytest

from actors.detection.aliases import with_aliases
from actors.detection.conditions import Op, Test
from actors.detection.rules import Match, Rule
from actors.detection.ruleset import RuleSet
from actors.detection.settings import FilterSettings
from actors.detection.testing import Host


@pytest.mark.parametrize(
    ("name", "op", "value", "more"),
    [
        ("path", "equals", "/var/run/x.pid", ("/run/x.pid",)),
        ("path", "contains", "/var/run/", ("/run/",)),
        ("path", "endswith", "/var/lock/x", ("/run/lock/x",)),
        ("exe", "equals", "/bin/sh", ("/usr/bin/sh",)),
        ("parent.exe", "startswith", "/sbin/", ("/usr/sbin/",)),
        ("exe", "glob", "/lib/*/x", ("/usr/lib/*/x",)),
        ("exe", "endswith", "/bin/sh", ()),
        ("exe", "equals", "/usr/bin/sh", ()),
        ("path", "re", "/var/run/x", ()),
        ("command_line", "startswith", "/bin/sh", ()),
        ("filename", "equals", "/bin/sh", ()),
    ],
)
def test_values_that_begin_with_a_link_stand_for_its_target_too(
    name: str, op: Op, value: str, more: tuple[str, ...]
) -> None:
    assert with_aliases(Test(name, op, (value,))).values == (value, *more)


@pytest.mark.parametrize("path", ["/var/run/haldrund.pid", "/run/haldrund.pid"])
def test_a_rule_about_var_run_fires_by_either_name(path: str) -> None:
    rule = Rule(
        id="lock",
        label="lock",
        matches=(Match("open", Test("path", "equals", ("/var/run/haldrund.pid",))),),
    )
    host = Host()
    host.engine = type(host.engine)(RuleSet(FilterSettings(), [rule]))
    assert len(host.open(host.bash, path, flags=1)) == 1
    assert not host.open(host.sshd, "/run/other.pid", flags=1)
