import errno

import pytest

from actors.detection.alerts import Alert
from actors.detection.builtin import builtin_rules
from actors.detection.conditions import Op, RuleError, Test, Value
from actors.detection.engine import Engine
from actors.detection.rules import Match, Rule
from actors.detection.ruleset import RuleSet
from actors.detection.settings import FilterSettings
from actors.detection.testing import Host, rules

RULES = [each for each in builtin_rules() if isinstance(each, Rule)]
PYTHON = "/usr/bin/python3.11"


def test_labels_points_and_techniques_are_the_known_ones() -> None:
    assert [(rule.label, rule.points) for rule in RULES] == [
        ("T1059 [Unexpected shell spawn]", 40),
        ("T1003 [Sensitive file read]", 35),
        ("T1136 [Account file written]", 60),
        ("T1098 [SSH authorized keys written]", 45),
        ("T1548 [Sudoers written]", 60),
        ("T1053 [Cron job written]", 45),
        ("T1574 [Preloaded libraries written]", 75),
        ("T1543 [Service written]", 40),
        ("T1546 [Login script written]", 40),
        ("T1556 [Authentication modules written]", 60),
        ("T1071 [Connection to suspicious port]", 45),
        ("T1036 [Forged connection address]", 70),
        ("T1059 [Shell making outbound connection]", 60),
        ("T1071 [First time Network Caller]", 15),
        ("T1027 [Obfuscated command execution]", 55),
        ("T1059 [Shell on a network socket]", 80),
        ("T1059 [Shell behind a connection]", 80),
        ("T1059 [Shell started by a listening program]", 75),
        ("T1059 [Program from a writable folder connects out and runs commands]", 70),
        ("T1562 [Calls left out]", 30),
        ("T1562 [Flood of calls]", 55),
    ]
    assert all(rule.label.startswith(rule.techniques[0]) for rule in RULES)


# Unexpected shell spawn

SHELL = "unexpected-shell-spawn"


@pytest.mark.parametrize(
    ("launcher", "system", "fires"),
    [
        ("/usr/sbin/nginx", True, True),
        ("/usr/bin/tmux", True, False),
        ("/tmp/tmux", False, True),
        ("/usr/bin/zsh", True, False),
        ("/tmp/sh", False, True),
        ("/usr/bin/sshdx", True, True),
    ],
)
def test_shell_spawn_depends_on_the_launcher(launcher: str, *, system: bool, fires: bool) -> None:
    host = Host()
    parent, _ = host.run(host.init, launcher, system=system)
    _, alerts = host.run(parent, "/usr/bin/dash", filename="/bin/sh")
    assert (SHELL in rules(alerts)) is fires


def test_the_launcher_is_what_the_process_exec_d_before() -> None:
    host = Host()
    child, _ = host.run(host.sshd, "/tmp/dropper", system=False)
    alerts = host.exec(child, "/usr/bin/bash")
    assert rules(alerts) == [SHELL]
    assert alerts[0].detail == "/tmp/dropper started the shell /usr/bin/bash"


def test_the_parent_s_later_exec_does_not_launder_the_launcher() -> None:
    host = Host()
    parent, _ = host.run(host.bash, "/tmp/dropper", system=False)
    child = host.fork(parent)
    host.exec(parent, "/usr/bin/sudo")
    assert rules(host.exec(child, "/usr/bin/bash")) == [SHELL]


def test_a_shell_by_another_name_is_a_shell() -> None:
    host = Host()
    nginx, _ = host.run(host.init, "/usr/sbin/nginx")
    _, alerts = host.run(nginx, "/tmp/x", filename="/tmp/bash", system=False)
    assert rules(alerts) == [SHELL]
    _, alerts = host.run(nginx, "/usr/bin/busybox", filename="/bin/sh")
    assert rules(alerts) == [SHELL]


def test_a_failed_exec_tells_nothing() -> None:
    host = Host()
    child, _ = host.run(host.init, "/usr/sbin/nginx")
    assert not host.exec(child, "/usr/bin/bash", error=errno.EACCES)
    process = host.engine.table.get(child)
    assert process is not None
    assert process.program.exe == "/usr/sbin/nginx"


def test_an_unknown_launcher_is_not_trusted() -> None:
    host = Host()
    assert rules(host.exec((9999, host.now_ns), "/usr/bin/bash")) == [SHELL]


# Sensitive file read

READ = "sensitive-file-read"


@pytest.mark.parametrize(
    ("reader", "system", "fires"),
    [
        ("/usr/bin/cat", True, True),
        ("/usr/bin/sudo", True, False),
        ("/tmp/sudo", False, True),
        ("/usr/bin/dash", True, True),
        ("/usr/bin/sh", True, False),
        ("/usr/bin/fish", True, True),
    ],
)
def test_sensitive_read_depends_on_the_reader(reader: str, *, system: bool, fires: bool) -> None:
    host = Host()
    child, _ = host.run(host.bash, reader, system=system)
    assert rules(host.open(child, "/etc/shadow")) == ([READ] if fires else [])


def test_comm_does_not_make_a_safe_reader() -> None:
    host = Host()
    child, _ = host.run(host.bash, "/usr/bin/cat", filename="/tmp/sudo")
    assert rules(host.open(child, "/etc/shadow")) == [READ]


@pytest.mark.parametrize(
    ("flags", "error", "fires"),
    [
        (0, 0, True),
        (2, 0, True),
        (0o2000000, 0, True),
        (1, 0, False),
        (0o1101, 0, False),
        (3, 0, False),
        (0o10000000, 0, False),
        (0, errno.EACCES, False),
    ],
)
def test_only_a_successful_read_counts(flags: int, error: int, *, fires: bool) -> None:
    host = Host()
    cat, _ = host.run(host.bash, "/usr/bin/cat")
    alerts = host.open(cat, "/etc/shadow", flags=flags, error=error)
    assert (READ in rules(alerts)) is fires


def test_sensitive_read_names_the_file_and_near_misses_are_silent() -> None:
    host = Host()
    cat, _ = host.run(host.bash, "/usr/bin/cat")
    assert not host.open(cat, "/etc/shadow2")
    assert not host.open(cat, "/etc/hostname")
    alerts = host.open(cat, "/home/a/../b/.ssh/id_rsa", resolved=False)
    assert alerts[0].detail == "/usr/bin/cat opened /home/a/../b/.ssh/id_rsa for reading"


def test_a_late_read_gets_no_benefit_from_a_later_exec() -> None:
    host = Host()
    child, _ = host.run(host.bash, "/tmp/dropper", system=False)
    before = host.now_ns
    host.exec(child, "/usr/bin/sudo")
    host.now_ns = before - 1_000_000
    assert rules(host.open(child, "/etc/shadow")) == [READ]


# Connections

PORT, OUTBOUND, FIRST = "suspicious-port", "shell-outbound-connection", "first-network-caller"


@pytest.mark.parametrize(
    ("exe", "address", "port", "expected"),
    [
        ("/usr/bin/curl", "203.0.113.7", 4444, [PORT, FIRST]),
        ("/usr/bin/curl", "203.0.113.7", 4445, [FIRST]),
        ("/usr/bin/curl", "127.0.0.1", 4444, [PORT]),
        ("/usr/bin/curl", "127.9.9.9", 80, []),
        ("/usr/bin/curl", "::1", 80, []),
        ("/usr/bin/curl", "0.0.0.0", 80, []),  # noqa: S104  # an address to connect to, none to bind
        ("/usr/bin/curl", "::", 80, []),
        ("/usr/bin/curl", "::ffff:127.0.0.1", 80, []),
        ("/usr/bin/curl", "::ffff:7f00:1", 80, []),
        ("/usr/bin/curl", "::ffff:203.0.113.7", 80, [FIRST]),
        ("/usr/bin/curl", "2001:db8::1", 80, [FIRST]),
        ("/usr/bin/curl", "", 4444, []),
        ("/usr/bin/bash", "203.0.113.7", 80, [OUTBOUND, FIRST]),
        ("/usr/bin/bash", "127.0.0.1", 80, []),
        ("/usr/bin/bash", "2001:db8::1", 31337, [PORT, OUTBOUND, FIRST]),
    ],
)
def test_connections(exe: str, address: str, port: int, expected: list[str]) -> None:
    host = Host()
    child, _ = host.run(host.bash, exe)
    assert rules(host.connect(child, address, port)) == expected


@pytest.mark.parametrize(
    ("to", "target"), [("203.0.113.7", "203.0.113.7:443"), ("", "unix:/run/bus")]
)
def test_a_forged_connection_says_where_it_leads_and_what_was_claimed(to: str, target: str) -> None:
    host = Host()
    child, _ = host.run(host.bash, "/usr/bin/curl")
    alerts = host.connect(child, to, 443 if to else 0, claimed="198.51.100.20:443")
    assert rules(alerts)[0] == "forged-connection"
    assert alerts[0].level == "high"
    assert alerts[0].detail == (f"/usr/bin/curl connected to {target} and claims 198.51.100.20:443")


def test_a_failed_attempt_counts_and_says_so() -> None:
    host = Host()
    child, _ = host.run(host.bash, "/usr/bin/nc")
    alerts = host.connect(child, "2001:db8::1", 4444, error=errno.ECONNREFUSED)
    assert alerts[0].detail == (
        "/usr/bin/nc failed (ECONNREFUSED) to connect to [2001:db8::1]:4444"
    )
    child, _ = host.run(host.bash, "/usr/bin/nc")
    alerts = host.connect(child, "203.0.113.7", 4444, error=errno.EINPROGRESS)
    assert alerts[0].detail == "/usr/bin/nc connected to 203.0.113.7:4444"


def test_a_program_calls_for_the_first_time_once_per_host() -> None:
    host = Host()
    for _ in range(2):
        child, _ = host.run(host.bash, "/usr/bin/curl")
        host.connect(child)
    other, _ = host.run(host.bash, "/home/a/curl", system=False)
    assert rules(host.connect(other)) == [FIRST]
    again, _ = host.run(host.bash, "/usr/bin/curl")
    assert not host.connect(again)


def test_known_callers_are_no_news_if_they_can_be_believed() -> None:
    host = Host(known_network_callers=["curl"])
    real, _ = host.run(host.bash, "/usr/bin/curl")
    assert not host.connect(real)
    fake, _ = host.run(host.bash, "/tmp/curl", system=False)
    assert rules(host.connect(fake)) == [FIRST]


# Obfuscated command execution

OBFUSCATED = "obfuscated-command"


@pytest.mark.parametrize(
    ("exe", "arguments", "fires"),
    [
        ("/usr/bin/bash", ("-c", "echo x | base64 -d | sh"), True),
        ("/usr/bin/bash", ("-c", "ls | shuf"), False),
        (PYTHON, ("-c", "print()"), True),
        (PYTHON, ("script.py",), False),
        ("/usr/bin/cat", ("base64",), False),
        ("/usr/bin/base64", ("-d",), False),
    ],
)
def test_obfuscated_command(exe: str, arguments: tuple[str, ...], *, fires: bool) -> None:
    host = Host()
    _, alerts = host.run(host.bash, exe, *arguments)
    assert (OBFUSCATED in rules(alerts)) is fires


def test_trusted_command_launchers_may_use_one_liners() -> None:
    host = Host(safe_command_launchers=["ansible"])
    real, _ = host.run(host.bash, "/usr/bin/ansible")
    assert OBFUSCATED not in rules(host.run(real, PYTHON, "-c", "x")[1])
    fake, _ = host.run(host.bash, "/tmp/ansible", system=False)
    assert OBFUSCATED in rules(host.run(fake, PYTHON, "-c", "x")[1])


def test_an_interpreter_that_runs_itself_may_pass_code_but_not_hide_it() -> None:
    host = Host()
    python, _ = host.run(host.bash, PYTHON, "script.py")
    assert OBFUSCATED not in rules(host.run(python, PYTHON, "-c", "spawn_main()")[1])
    assert OBFUSCATED in rules(host.run(python, PYTHON, "-c", "import base64")[1])
    assert OBFUSCATED in rules(host.run(python, "/tmp/python3", "-c", "x", system=False)[1])


def test_obfuscation_detail_is_bounded_and_printable() -> None:
    host = Host()
    hostile = "eval '\x1b[2J\u202e" + "x" * 5000
    _, alerts = host.run(host.bash, "/usr/bin/bash", "-c", hostile)
    detail = alerts[0].detail
    assert detail.startswith("/usr/bin/bash ran /usr/bin/bash with eval: /usr/bin/bash -c eval")
    assert "\\x1b[2J\\u202e" in detail
    assert len(detail) <= 512
    assert detail.isprintable()


# All rules


def test_a_rule_counts_once_per_process_and_is_told_of_each_file() -> None:
    host = Host()
    cat, _ = host.run(host.bash, "/usr/bin/cat")
    (first,) = host.open(cat, "/etc/shadow")
    (second,) = host.open(cat, "/etc/sudoers")
    assert rules([first, second]) == [READ, READ]
    assert first.base_score == second.base_score
    assert second.detail.endswith("opened /etc/sudoers for reading")
    assert second.targets == ("/etc/shadow", "/etc/sudoers")
    assert not host.open(cat, "/etc/sudoers")
    other, _ = host.run(host.bash, "/usr/bin/cat")
    assert rules(host.open(other, "/etc/shadow")) == [READ]


def test_ignored_programs_raise_nothing_if_they_can_be_believed() -> None:
    host = Host(ignored_comms=["backup"])
    real, _ = host.run(host.init, "/usr/bin/backup")
    assert not host.open(real, "/etc/shadow")
    fake, _ = host.run(host.init, "/tmp/backup", system=False)
    assert rules(host.open(fake, "/etc/shadow")) == [READ]


def test_an_alert_says_who_and_where() -> None:
    host = Host()
    cat, _ = host.run(host.bash, "/usr/bin/cat")
    (alert,) = host.open(cat, "/etc/shadow")
    assert isinstance(alert, Alert)
    assert alert.identity == cat
    assert (alert.comm, alert.exe, alert.uid, alert.event) == ("cat", "/usr/bin/cat", 0, "open")
    assert alert.ancestry == "systemd=>sshd=>bash=>cat"
    assert alert.time_ns == host.now_ns


def test_an_unknown_process_gets_an_alert_by_its_comm() -> None:
    host = Host()
    (alert,) = host.open((4242, 7), "/etc/shadow")
    assert (alert.exe, alert.ancestry, alert.rarity_bonus) == ("", "?", 0)


# Rules as data


@pytest.mark.parametrize(
    ("name", "op", "value"),
    [
        ("no_such_field", "equals", "x"),
        ("program", "listed", "no_such_list"),
        ("program", "listed", "suspicious_ports"),
        ("error", "contains", "x"),
        ("error", "equals", "many"),
        ("obfuscated", "equals", "yes"),
        ("exe", "re", "("),
        ("exe", "re", "(?=x)"),
    ],
)
def test_a_rule_that_cannot_work_is_refused(name: str, op: Op, value: Value) -> None:
    when = Test(name, op, (value,))
    with pytest.raises(RuleError, match="broken"):
        RuleSet(FilterSettings(), [Rule(id="broken", label="x", matches=(Match("exec", when),))])


def test_two_rules_with_one_id_are_refused() -> None:
    with pytest.raises(RuleError, match=RULES[0].id):
        RuleSet(FilterSettings(), [RULES[0], RULES[0]])


def test_callers_are_bounded_and_the_oldest_goes() -> None:
    host = Host()
    for number in range(8193):
        host.connect(host.run(host.init, f"/usr/bin/p{number}")[0])
    statistics = host.engine.statistics()
    assert (statistics.callers, statistics.callers_dropped) == (8192, 1)
    assert rules(host.connect(host.run(host.init, "/usr/bin/p0")[0])) == [FIRST]
    assert not host.connect(host.run(host.init, "/usr/bin/p8192")[0])


# Rules of one's own


def host_of(own: Rule) -> Host:
    host = Host()
    host.engine = Engine(RuleSet(FilterSettings(), [own]))
    return host


@pytest.mark.parametrize("program", ["/usr/bin/java", "/usr/bin/javac"])
def test_a_rule_can_ask_what_the_parent_runs(program: str) -> None:
    when = Test("parent.exe", "endswith", ("/java",))
    host = host_of(Rule(id="child", label="child", matches=(Match("exec", when),)))
    parent, _ = host.run(host.bash, program)
    _, alerts = host.run(parent, "/usr/bin/id")
    assert rules(alerts) == ["child"] * program.endswith("/java")


def test_an_alert_of_a_rule_without_a_sentence_says_what_happened() -> None:
    matches = (
        Match("exec", Test("program", "equals", ("cat",))),
        Match("open", Test("path", "equals", ("/etc/issue",))),
        Match("connect", Test("dest_port", "equals", (99,))),
    )
    host = host_of(Rule(id="any", label="any", matches=matches))
    _, ran = host.run(host.bash, "/usr/bin/cat", "file")
    tac, _ = host.run(host.bash, "/usr/bin/tac")
    opened = host.open(tac, "/etc/issue")
    nc, _ = host.run(host.bash, "/usr/bin/nc")
    connected = host.connect(nc, "203.0.113.7", 99)
    assert [alert.detail for alert in (*ran, *opened, *connected)] == [
        "/usr/bin/cat ran: /usr/bin/cat file",
        "/usr/bin/tac opened /etc/issue",
        "/usr/bin/nc connected to 203.0.113.7:99",
    ]
