"""Every modifier and kind of value, as the tests they become and what these find."""

import pytest

from actors.detection.conditions import AllOf, AnyOf, Not
from actors.detection.conditions import Test as Ask  # pytest takes a Test for a test
from services.detection.sigma import values
from tests.services.detection.sigma.evaluator import (
    AUDITD,
    CONNECTED,
    CONNECTION,
    FILE,
    WRITTEN,
    Event,
    fires,
    item,
    refused_item,
    started,
)


def only(text: str) -> object:
    """What an item comes to, without the test that the exec succeeded."""
    (match,) = item(text).matches
    assert isinstance(match.when, AllOf)
    assert match.when.of[0] == Ask("error", "equals", (0,))
    rest = match.when.of[1:]
    return rest[0] if len(rest) == 1 else rest


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CommandLine: id", Ask("command_line", "equals", ("id",))),
        ("CommandLine|contains: id", Ask("command_line", "contains", ("id",))),
        ("CommandLine|startswith: id", Ask("command_line", "startswith", ("id",))),
        ("Image|endswith: /id", Ask("exe", "endswith", ("/id",))),
        ("Image: '*/id'", Ask("exe", "endswith", ("/id",))),
        ("Image: '*/id*'", Ask("exe", "contains", ("/id",))),
        ("Image: '/bin/*'", Ask("exe", "startswith", ("/bin/",))),
        ("Image: '**/id'", Ask("exe", "endswith", ("/id",))),
        ("Image: '/bin/?d'", Ask("exe", "glob", ("/bin/?d",))),
        ("Image|endswith: '/pyth*n'", Ask("exe", "glob", ("*/pyth*n",))),
        ("Image|contains: 'a\\*b*c'", Ask("exe", "glob", ("*a\\*b*c*",))),
        ("CommandLine: 'a\\*b'", Ask("command_line", "equals", ("a*b",))),
        ("CommandLine: 'a\\?b'", Ask("command_line", "equals", ("a?b",))),
        (r"CommandLine: 'a\b'", Ask("command_line", "equals", (r"a\b",))),
        (r"CommandLine: 'a\\*'", Ask("command_line", "startswith", ("a\\",))),
        (r"CommandLine: 'a\b?c'", Ask("command_line", "glob", (r"a\\b?c",))),
        ("CommandLine: ''", Ask("command_line", "equals", ("",))),
        ("CommandLine: '*'", Ask("command_line", "exists", (True,))),
        ("CommandLine|contains: ''", Ask("command_line", "exists", (True,))),
        ("CommandLine: null", Ask("command_line", "exists", (False,))),
        ("CommandLine: []", Ask("command_line", "exists", (False,))),
        ("CommandLine|exists: true", Ask("command_line", "exists", (True,))),
        ("CommandLine|exists: no", Ask("command_line", "exists", (False,))),
        ("CommandLine|cased: Id", Ask("command_line", "equals", ("Id",), cased=True)),
        (
            "CommandLine|contains|cased: Id",
            Ask("command_line", "contains", ("Id",), cased=True),
        ),
        ("CommandLine|re: '^a+$'", Ask("command_line", "re", ("^a+$",))),
        ("CommandLine|re|i: 'a'", Ask("command_line", "re", ("(?i)a",))),
        ("CommandLine|re|i|m|s: 'a'", Ask("command_line", "re", ("(?ims)a",))),
        ("CommandLine|re: '.*'", Ask("command_line", "exists", (True,))),
        ("CommandLine|re: '^$'", Ask("command_line", "re", ("^$",))),
        ("CommandLine|re: ''", Ask("command_line", "exists", (True,))),
        ("CommandLine|re: 'a*\\?b'", Ask("command_line", "re", ("a*\\?b",))),
        ("CommandLine: 777", Ask("command_line", "equals", ("777",))),
        ("CommandLine: 0777", Ask("command_line", "equals", ("0777",))),
        ("CommandLine: 1.10", Ask("command_line", "equals", ("1.10",))),
        ("CommandLine: 1.5", Ask("command_line", "equals", ("1.5",))),
        ("CommandLine: 2024-01-01", Ask("command_line", "equals", ("2024-01-01",))),
        ("CommandLine: 22:22", Ask("command_line", "equals", ("22:22",))),
        ("CommandLine|contains: '777'", Ask("command_line", "contains", ("777",))),
        ("ProcessId: 1", Ask("pid", "equals", (1,))),
        ("ProcessId: '1'", Ask("pid", "equals", (1,))),
        ("ProcessId: '0x10'", Ask("pid", "equals", (16,))),
        ("ProcessId|lt: 10", Ask("pid", "lt", (10,))),
        ("ProcessId|lte: 10.5", Ask("pid", "lte", (10,))),
        ("ProcessId|lt: 10.5", Ask("pid", "lt", (11,))),
        ("ProcessId|gt: 10.5", Ask("pid", "gt", (10,))),
        ("ProcessId|gte: 10.5", Ask("pid", "gte", (11,))),
        ("CommandLine|base64: id", Ask("command_line", "equals", ("aWQ=",))),
        ("CommandLine|wide|base64: id", Ask("command_line", "equals", ("aQBkAA==",))),
        ("CommandLine|utf16|base64: id", Ask("command_line", "equals", ("//5pAGQA",))),
        ("CommandLine|utf16be|base64: id", Ask("command_line", "equals", ("AGkAZA==",))),
        (
            "CommandLine|base64offset|contains: /bin/",
            Ask("command_line", "contains", ("L2Jpbi", "9iaW4v", "vYmluL")),
        ),
        (
            "CommandLine|contains|windash: ' -a'",
            Ask("command_line", "contains", (" -a", " /a", " –a", " —a", " ―a")),  # noqa: RUF001
        ),
        ("CurrentDirectory|fieldref: Image", Ask("cwd", "same_as", ("exe",))),
        ("CommandLine|neq: id", Not(Ask("command_line", "equals", ("id",)))),
        (
            "CommandLine|contains|all: [a, b]",
            (Ask("command_line", "contains", ("a",)), Ask("command_line", "contains", ("b",))),
        ),
        ("CommandLine|contains: [a, b, a]", Ask("command_line", "contains", ("a", "b"))),
        (
            "CommandLine: [a, 'b*', 'c*', null]",
            AnyOf(
                (
                    Ask("command_line", "equals", ("a",)),
                    Ask("command_line", "startswith", ("b", "c")),
                    Ask("command_line", "exists", (False,)),
                )
            ),
        ),
        (
            "CommandLine|base64offset|contains|all: [aaaa]",
            Ask("command_line", "contains", ("YWFhY", "FhYW", "hYWFh")),
        ),
    ],
)
def test_values_become_the_simplest_tests(text: str, expected: object) -> None:
    assert only(text) == expected


@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        ("CommandLine|re|startswith: 'a|b'", "bc", "cb"),
        ("CommandLine|re|endswith: 'a|b'", "cb", "bc"),
        ("CommandLine|re|contains: 'a|b'", "cbc", "c"),
        ("CommandLine|re|i|startswith: 'a'", "Ab", "bA"),
        ("CommandLine|re: 'A'", "A", "a"),
        ("CommandLine|re|m: '^b$'", "a\nb", "ab"),
        ("CommandLine|re|s: 'a.b'", "a\nb", "ab"),
        ("CommandLine|contains: ID", "xidx", "di"),
        ("CommandLine|cased: ID", "ID", "id"),
        ("CommandLine|contains|windash: ' -n'", "a —n", "a n"),
        ("CommandLine|base64offset|contains: 'http://'", "xx aHR0cDovLw== x", "http://"),
        ("CommandLine|contains|all: [a, b]", "b a", "a"),
        ("CommandLine|contains|neq: [a, b]", "c", "b"),
    ],
)
def test_values_find_what_they_mean(text: str, yes: str, no: str) -> None:
    rule = item(text)
    assert fires(rule, started(yes))
    assert not fires(rule, started(no))


@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        ("DestinationIp|cidr: 10.0.0.0/8", {}, {"dest_ip": "11.0.0.1"}),
        ("DestinationIp|cidr: 'fe80::/10'", {"dest_ip": "fe80::1"}, {"dest_ip": "::1"}),
        ("DestinationIp: '0:0::1'", {"dest_ip": "::1"}, {}),
        ("DestinationIp|startswith: '10.'", {}, {"dest_ip": "1.0.0.10"}),
        ("DestinationPort: [80, '443']", {"dest_port": 443}, {"dest_port": 81}),
        ("DestinationPort|gte: 80", {}, {"dest_port": 79}),
        ("DestinationPort|neq: 81", {}, {"dest_port": 81}),
        ("DestinationIsIpv6: 'true'", {"family": "ipv6"}, {}),
        ("DestinationIsIpv6: false", {}, {"family": "ipv6"}),
        ("Initiated: 'true'\nDestinationPort: 80", {}, {"dest_port": 81}),
        ("Initiated: true\nImage: /bin/x", {}, {"exe": "/bin/y"}),
        ("User: ROOT", {}, {"family": "unix"}),
    ],
)
def test_connections_are_compared_by_address_and_port(text: str, yes: Event, no: Event) -> None:
    rule = item(text, CONNECTION)
    assert fires(rule, CONNECTED | yes, "connect")
    assert not fires(rule, CONNECTED | no, "connect")


@pytest.mark.parametrize(
    "event",
    [{"access": ("read",)}, {"error": 13}, {"path": "/etc/passwd"}],
)
def test_a_file_event_is_a_successful_write_or_creation(event: Event) -> None:
    rule = item("TargetFilename|startswith: /tmp/", FILE)
    assert fires(rule, WRITTEN, "open")
    assert not fires(rule, WRITTEN | event, "open")


def test_a_failed_exec_creates_no_process() -> None:
    rule = item("CommandLine: id")
    assert fires(rule, started("id"))
    assert not fires(rule, started("id", error=2))


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        ("CommandLine|re: 'a(?=b)'", "unsupported", "look-ahead (?="),
        ("CommandLine|re: 'a(?!b)'", "unsupported", "look-ahead (?!"),
        ("CommandLine|re: '(?<=a)b'", "unsupported", "look-behind (?<="),
        ("CommandLine|re: '(?<!a)b'", "unsupported", "look-behind (?<!"),
        (r"CommandLine|re: '(a)\1'", "unsupported", r"a back-reference \1"),
        ("CommandLine|re: '(?P<n>a)(?P=n)'", "unsupported", "a back-reference (?P="),
        ("CommandLine|re: '(?>a)b'", "unsupported", "an atomic group"),
        ("CommandLine|re: 'a++'", "unsupported", "possessive ++"),
        ("CommandLine|re: 'a{2000}'", "unsupported", "more than 1000"),
        (r"CommandLine|re: 'a\Z'", "unsupported", r"\Z"),
        (r"CommandLine|re: '\p{L}{1000}'", "unsupported", "too large for RE2"),
        ("CommandLine|re: '['", "invalid", "missing ]"),
        ("CommandLine|re: '('", "invalid", "missing )"),
        ("CommandLine|re: '*a'", "invalid", "no argument for repetition"),
        ("CommandLine|re: 'a**'", "invalid", "bad repetition"),
        ("CommandLine|re|i: 'a)'", "invalid", "unexpected )"),
        ("CommandLine|expand: '%admins%'", "unsupported", "%admins%"),
        ("CommandLine|expand: '%admins%-x'", "unsupported", "%admins%"),
        ("CommandLine|re|expand: 'a%admins%'", "unsupported", "placeholders"),
        ("CommandLine|cidr: 10.0.0.0/8", "unsupported", "no address"),
        ("CommandLine|gt: 5", "unsupported", "neither more nor less"),
        ("CommandLine|hour: 5", "unsupported", "SigmaTimestampPart"),
        ("CommandLine|lt: x", "invalid", "SigmaLessThanModifier"),
        ("CommandLine|exists: x", "invalid", "SigmaExistsModifier"),
        ("CommandLine|base64: 'a*'", "invalid", "wildcards"),
        ("CommandLine|contains|re: a", "invalid", "Regular expression modifier"),
        ("CommandLine|nothing: a", "invalid", "no modifier nothing"),
        ("CommandLine|contains|contains: a", "invalid", "twice"),
        ("CommandLine: yes", "invalid", "quotes"),
        ("CommandLine: {a: b}", "invalid", "Unsupported type"),
        ("CommandLine|windash: ' -a -b -c -d'", "invalid", "windash"),
        ("CommandLine|fieldref: Hashes", "unsupported", "hashes no files"),
        ("CommandLine|fieldref: CommandLine", "invalid", "itself"),
        ("CommandLine|fieldref|contains: Image", "unsupported", "fieldref with contains"),
        ("CommandLine|fieldref: ProcessId", "unsupported", "cannot be compared"),
        ("ProcessId: 99999999999", "invalid", "never 99999999999"),
        ("ProcessId: -1", "invalid", "never -1"),
        ("ProcessId: 1.5", "invalid", "never 1.5"),
        ("ProcessId: one", "invalid", "never 'one'"),
        ("ProcessId|gt: 99999999999", "invalid", "never gt"),
        ("ProcessId|contains: '1'", "unsupported", "compared as a whole"),
        ("ProcessId|re: '1'", "unsupported", "compared as a whole"),
        ("Hashes|contains: abc", "unsupported", "field Hashes: Lavender hashes no files"),
        ("OriginalFileName: x", "unsupported", "field OriginalFileName: a Windows field"),
        ("Whatever: x", "unsupported", "field Whatever: Lavender's exec events have no such"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_what_is_wrong(
    text: str, kind: str, reason: str
) -> None:
    refusal = refused_item(text)
    assert (refusal.kind, refusal.line) == (kind, 8), refusal
    assert reason in refusal.reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("DestinationIp|cidr: 10.0.0.1/8", "Invalid CIDR"),
        ("DestinationIp|cidr: nonsense", "Invalid CIDR"),
        ("DestinationPort: 70000", "field DestinationPort is never 70000"),
        ("DestinationHostname: x", "Lavender's connect events carry no host names"),
        ("Initiated: 'false'", "Initiated false: Lavender sees connections going out"),
        ("Initiated: false", "Initiated false: Lavender sees connections going out"),
        ("Initiated: 'true'", "matches every connect event"),
        ("SourcePort: 1", "no source port"),
    ],
)
def test_connections_that_cannot_be_seen_are_refused(text: str, reason: str) -> None:
    assert reason in refused_item(text, CONNECTION).reason


@pytest.mark.parametrize(
    "text",
    [
        "Image: '*'",
        "Image|exists: true",
        "Image|re: '.*'",
        "ProcessId|gte: 0",
        "ProcessId|lte: 99999999999",
        "Image|neq: null",
    ],
)
def test_a_rule_that_matches_everything_is_refused(text: str) -> None:
    refusal = refused_item(text)
    assert (refusal.kind, refusal.reason) == ("invalid", "it matches every exec event")


@pytest.mark.parametrize(
    "text",
    [
        "Image: null",
        "Image|exists: false",
        "Image: /bin/a\nImage|endswith: /b",
        "Image|contains|all: [a]\nImage: /bin/b",
        "Image: /bin/a\nImage|neq: /BIN/A",
        "ProcessId|gt: 5\nProcessId|lt: 3",
        "ProcessId: 7\nProcessId|gt: 8",
    ],
)
def test_a_rule_that_can_never_hold_is_refused(text: str) -> None:
    refusal = refused_item(text)
    assert (refusal.kind, "never hold" in refusal.reason) == ("invalid", True), refusal


@pytest.mark.parametrize(
    "text",
    [
        "Image: [/bin/a, /bin/b]\nImage|endswith: /b",
        "Image: /bin/a\nImage|cased|endswith: /A",
        "ProcessId|gt: 5\nProcessId|lt: 7",
    ],
)
def test_a_rule_that_might_hold_is_not_refused_as_a_contradiction(text: str) -> None:
    assert item(text).matches


def test_a_list_of_values_may_be_long_but_not_endless() -> None:
    many = ", ".join(f"a{number}" for number in range(10_000))
    assert len(item(f"CommandLine: [{many}]").matches) == 1
    refusal = refused_item(f"CommandLine: [{many}, b]")
    assert "10,001 values" in refusal.reason


def test_a_small_file_cannot_become_much() -> None:
    dashes = ", ".join(f"' -a{number} -b -c'" for number in range(200))
    refusal = refused_item(f"CommandLine|windash|contains: [{dashes}]")
    assert refusal.reason == "windash makes more than 20,000 values of one file"
    many = ", ".join(f"(a|b){{1,100}}{number}" for number in range(1001))
    refusal = refused_item(f"CommandLine|re: ['{many}'".replace(", ", "', '") + "]")
    assert refusal.reason == "more than 1,000 regular expressions in one file"


def test_a_long_glob_is_a_glob_and_no_trouble() -> None:
    glob = "*a" * 3000
    rule = item(f"CommandLine|contains|all: ['{glob}', b]\nCommandLine: [ab, {'ab' * 2000}]")
    assert rule.matches


def test_the_answer_to_yes_and_no_is_asked_of_auditd_as_it_was_written() -> None:
    rule = item("type: SYSCALL\nSYSCALL: connect\nsuccess: yes", AUDITD)
    assert fires(rule, CONNECTED, "connect")
    assert fires(rule, CONNECTED | {"error": 115}, "connect")
    assert not fires(rule, CONNECTED | {"error": 111}, "connect")


def test_each_kind_of_text_has_its_question() -> None:
    assert set(values._TEXT_OPS.values()) == {"equals", "contains", "startswith", "endswith"}
