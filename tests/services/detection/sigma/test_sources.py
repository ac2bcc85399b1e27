"""What records of each log source can be here, and what is said of those that cannot."""

from __future__ import annotations

import pytest

from actors.detection.conditions import AllOf, AnyOf, Condition
from actors.detection.conditions import Test as Ask  # pytest takes a Test for a test
from services.detection.sigma.loading import load
from tests.services.detection.sigma.evaluator import (
    AUDITD,
    CONNECTED,
    CONNECTION,
    FILE,
    PROCESS,
    STARTED,
    WRITTEN,
    Event,
    document,
    fires,
    item,
    refusal_of,
    refused_item,
    rule_of,
    started,
)


def fields(condition: Condition) -> set[str]:
    match condition:
        case Ask():
            return {condition.field}
        case AllOf() | AnyOf():
            return {name for each in condition.of for name in fields(each)}
    return fields(condition.of)


@pytest.mark.parametrize(
    ("logsource", "text", "name"),
    [
        (PROCESS, "Image: x", "exe"),
        (PROCESS, "CommandLine: x", "command_line"),
        (PROCESS, "ParentImage: x", "parent.exe"),
        (PROCESS, "ParentCommandLine: x", "parent.command_line"),
        (PROCESS, "ParentUser: x", "parent.user"),
        (PROCESS, "User: x", "user"),
        (PROCESS, "CurrentDirectory: x", "cwd"),
        (PROCESS, "LogonId: 0", "login_uid"),
        (PROCESS, "ProcessId: 1", "pid"),
        (PROCESS, "Computer: x", "host"),
        (FILE, "TargetFilename: x", "path"),
        (FILE, "Image: x", "exe"),
        (FILE, "User: x", "user"),
        (FILE, "CommandLine: x", "command_line"),
        (CONNECTION, "DestinationIp: x", "dest_ip"),
        (CONNECTION, "DestinationPort: 1", "dest_port"),
        (CONNECTION, "Image: x", "exe"),
        (CONNECTION, "User: x", "user"),
        (AUDITD, "a0: x", "argv.0"),
        (AUDITD, "a17: x", "argv.17"),
        (AUDITD, "argc: 3", "argc"),
        (AUDITD, "type: PATH\nname: x", "path"),
        (AUDITD, "type: EXECVE\ncwd: x", "cwd"),
        (AUDITD, "type: EXECVE\nauid: 0", "login_uid"),
        (AUDITD, "exe: x", "exe"),
        (AUDITD, "comm: x", "comm"),
        (AUDITD, "uid: 0", "uid"),
    ],
)
def test_fields_have_their_place(logsource: str, text: str, name: str) -> None:
    assert any(name in fields(match.when) for match in item(text, logsource).matches)


@pytest.mark.parametrize(
    ("logsource", "reason"),
    [
        ("service: sshd", "logsource service sshd: Lavender does not read this log"),
        ("service: syslog", "logsource service syslog: Lavender does not read this log"),
        ("category: file_delete", "logsource category file_delete: Lavender has no such event"),
        ("category: registry_event", "category registry_event: Lavender has no such event"),
        ("category: process_creation\n    service: osquery", "logsource service osquery"),
        ("definition: any log", "product linux without category or service"),
    ],
)
def test_other_logs_are_unsupported_by_name(logsource: str, reason: str) -> None:
    refusal = refused_item("CommandLine: x", logsource)
    assert refusal.kind == "unsupported"
    assert refusal.line == 3
    assert reason in refusal.reason


@pytest.mark.parametrize(
    ("logsource", "text", "reason"),
    [
        ("category: proces_creation", "Image: x", "did you mean process_creation?"),
        ("category: file_events", "Image: x", "did you mean file_event?"),
        ("category: process_creation", "Imag: x", "field Imag: there is no such field"),
        ("category: process_creation", "Commandline: x", "did you mean CommandLine?"),
        ("category: file_event", "TargetFileName: x", "did you mean TargetFilename?"),
        ("category: network_connection", "DestinationIP: x", "did you mean DestinationIp?"),
    ],
)
def test_a_slip_is_a_mistake_and_not_unsupported(logsource: str, text: str, reason: str) -> None:
    refusal = refused_item(text, logsource)
    assert refusal.kind == "invalid"
    assert reason in refusal.reason


@pytest.mark.parametrize("product", ["windows", "macos"])
def test_other_systems_are_unsupported_by_name(product: str) -> None:
    text = document("sel: {Image: x}\ncondition: sel").replace("linux", product)
    (refusal,) = load(text, "other.yml").refusals
    assert str(refusal) == (
        f"other.yml:3: unsupported: 'A test' logsource product {product}: Lavender watches Linux"
    )


def test_a_rule_for_every_system_is_for_linux_too() -> None:
    text = document("sel: {Image: x}\ncondition: sel").replace("    product: linux\n", "")
    assert len(load(text, "every.yml").loaded) == 1


# auditd


def kinds(detection: str) -> list[str]:
    return [match.event for match in rule_of(detection, AUDITD).matches]


def test_arguments_are_those_of_execs() -> None:
    rule = rule_of("sel: {type: EXECVE, a0: chmod, a1: 777}\ncondition: sel", AUDITD)
    assert fires(rule, started("chmod 777 x"))
    assert not fires(rule, started("chmod 755 x"))
    assert not fires(rule, started("chmod"))
    assert not fires(rule, started("chmod 777", error=13))


def test_the_type_of_a_record_is_read_without_regard_to_case() -> None:
    assert kinds("sel: {type: execve, a0: zip}\ncondition: sel") == ["exec"]


@pytest.mark.parametrize("kind", ["EXEC*", "'*CVE'", "'E?ECVE'", "'?X*V*'", "[TTY, EXECVE]"])
def test_the_type_of_a_record_may_be_a_pattern(kind: str) -> None:
    assert kinds(f"sel: {{type: {kind}, a0: zip}}\ncondition: sel") == ["exec"]


def test_the_type_of_a_record_may_be_an_expression() -> None:
    assert kinds("sel: {type|re: '^EX', a0: zip}\ncondition: sel") == ["exec"]


def test_what_all_views_of_an_event_build_on_stands_there_once() -> None:
    rule = rule_of("one: {a1: x}\ntwo: {exe: /bin/y}\ncondition: 1 of them", AUDITD)
    assert rule.matches[0].when == AllOf(
        (
            Ask("error", "equals", (0,)),
            AnyOf((Ask("argv.1", "equals", ("x",)), Ask("exe", "equals", ("/bin/y",)))),
        )
    )


def test_a_path_is_of_a_file_that_is_opened_or_run() -> None:
    rule = rule_of("sel: {type: PATH, name|startswith: /tmp/.}\ncondition: sel", AUDITD)
    assert [match.event for match in rule.matches] == ["exec", "open"]
    assert fires(rule, WRITTEN | {"path": "/tmp/.x", "access": ("read",)}, "open")
    assert fires(rule, STARTED | {"exe": "/tmp/.x"})
    assert not fires(rule, WRITTEN | {"path": "/tmp/.x", "error": 2}, "open")


def test_a_path_is_created_only_by_an_open() -> None:
    rule = rule_of("sel: {type: PATH, nametype: CREATE, name: /a}\ncondition: sel", AUDITD)
    assert [match.event for match in rule.matches] == ["open"]
    assert fires(rule, WRITTEN | {"path": "/a"}, "open")
    assert not fires(rule, WRITTEN | {"path": "/a", "access": ("write",)}, "open")


@pytest.mark.parametrize(
    ("name", "event"),
    [("execve", "exec"), ("openat", "open"), ("open", "open"), ("connect", "connect")],
)
def test_a_system_call_is_the_event_it_makes(name: str, event: str) -> None:
    detection = f"sel: {{type: SYSCALL, SYSCALL: {name}, exe: /bin/x}}\ncondition: sel"
    assert kinds(detection) == [event]
    assert kinds(detection.replace("SYSCALL:", "syscall:")) == [event]


def test_any_system_call_is_any_event() -> None:
    assert kinds("sel: {type: SYSCALL, exe|endswith: /x}\ncondition: sel") == [
        "exec",
        "open",
        "connect",
    ]


def test_a_system_call_may_have_failed() -> None:
    failed = rule_of("sel: {SYSCALL: openat, success: 'no'}\ncondition: sel", AUDITD)
    assert fires(failed, WRITTEN | {"error": 13}, "open")
    assert not fires(failed, WRITTEN, "open")


def test_a_rule_without_a_type_is_about_every_record_that_has_its_fields() -> None:
    assert kinds("one: {a1: x}\ntwo: {name: /etc/x}\ncondition: 1 of them") == ["exec", "open"]
    assert kinds("one: {a1: x}\ncondition: one") == ["exec"]


def test_keywords_are_looked_for_in_execs_and_opens() -> None:
    assert kinds("words: [secret]\ncondition: words") == ["exec", "open"]
    assert kinds("sel: {type: EXECVE}\nwords: [secret]\ncondition: all of them") == ["exec"]


@pytest.mark.parametrize(
    ("detection", "event", "matches"),
    [
        ("sel: {a0: null, name: /etc/x}\ncondition: sel", {"path": "/etc/x"}, True),
        ("sel: {a0|exists: false, name: /etc/x}\ncondition: sel", {"path": "/etc/x"}, True),
        ("sel: {name: /a}\nf: {a0: x}\ncondition: sel and not f", {"path": "/a"}, True),
        ("sel: {name: /a}\nf: {type: EXECVE}\ncondition: sel and not f", {"path": "/a"}, True),
    ],
)
def test_what_a_record_never_has_is_null(detection: str, event: Event, *, matches: bool) -> None:
    assert fires(rule_of(detection, AUDITD), WRITTEN | event, "open") is matches


@pytest.mark.parametrize(
    ("detection", "reason"),
    [
        ("sel: {key: x}\ncondition: sel", "field key: Lavender's events carry no keys"),
        ("sel: {type: SYSCALL, exe: x, key: y}\ncondition: sel", "field key"),
        ("sel: {type: SERVICE_STOP, unit: x}\ncondition: sel", "record type SERVICE_STOP"),
        ("sel: {type: SYSCALL, SYSCALL: mknod}\ncondition: sel", "system call mknod"),
        ("sel: {type: SYSCALL, a0: 26}\ncondition: sel", "do not carry arguments of system"),
        ("sel: {type: PATH, a0: x}\ncondition: sel", "field a0: PATH records do not have it"),
        ("sel: {type: EXECVE, name: x}\ncondition: sel", "field name: EXECVE records do not"),
        ("sel: {SYSCALL: execve, euid: 33}\ncondition: sel", "field euid: Lavender's events carry"),
        ("sel: {type: PATH, name: x, nametype: DELETE}\ncondition: sel", "nametype DELETE"),
        ("sel: {SYSCALL: execve, success: 'no'}\ncondition: sel", "failed execs are not told"),
        ("sel: {type: EXECVE, a256: x}\ncondition: sel", "field a256"),
        ("sel: {type|startswith: USER_}\ncondition: sel", "record type USER_*"),
        ("sel: {type: EXECVE, unit: x}\ncondition: sel", "field unit: Lavender does not see"),
    ],
)
def test_records_that_cannot_be_built_are_unsupported(detection: str, reason: str) -> None:
    refusal = refusal_of(detection, AUDITD)
    assert refusal.kind == "unsupported", refusal
    assert reason in refusal.reason
    assert refusal.line == 7


@pytest.mark.parametrize(
    "detection",
    [
        "sel: {type: EXECVE}\ncondition: sel",
        "sel: {type: PATH}\ncondition: sel",
        "sel: {SYSCALL: openat, type: SYSCALL}\ncondition: sel",
        "sel: {type: SERVICE_STOP}\ncondition: not sel",
        "a: {type: EXECVE, exe: x}\nb: {exe: x}\nc: {type: PATH}\ncondition: a or (c and not b)",
        "sel: {type: EXECVE, a0|exists: true}\nmore: {type: PATH}\ncondition: sel or more",
    ],
)
def test_a_whole_type_of_record_is_too_much(detection: str) -> None:
    assert "matches every" in refusal_of(detection, AUDITD).reason


def test_connections_of_unix_sockets_are_no_network_connections() -> None:
    rule = item("Image: /bin/x", CONNECTION)
    assert fires(rule, CONNECTED, "connect")
    assert not fires(rule, CONNECTED | {"family": "unix"}, "connect")
