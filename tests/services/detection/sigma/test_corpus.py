"""The public Linux rules of SigmaHQ: most load, and the rest say what they lack."""

from __future__ import annotations

import re
from functools import cache

import pytest

from actors.detection.conditions import Condition, Not
from actors.detection.rules import Rule
from services.detection.sigma.loading import Results, load_files
from tests.services.detection.sigma.evaluator import (
    CONNECTED,
    WRITTEN,
    Event,
    corpora,
    fires,
    started,
)

FOLDER = corpora() / "sigma-linux"
pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the Sigma corpus is not here; TESTS_CORPORA says where it is"
)
LACKING = re.compile(
    r"field (?:key|euid|DestinationHostname): Lavender's \w*\s?events carry .*"
    r"|record type SERVICE_STOP: .*"
    r"|system call (?:syslog|sysinfo|mknod|socket): .*"
    r"|logsource service (?:sshd|syslog|cron|clamav|guacamole|vsftpd|auth|sudo): .*"
    r"|logsource product linux without category or service: .*"
)


@cache
def corpus() -> Results:
    return load_files([FOLDER])


def called(name: str) -> Rule:
    (found,) = (each.rule for each in corpus().loaded if each.path.endswith(f"/{name}.yml"))
    assert isinstance(found, Rule)
    return found


def test_every_rule_loads_or_says_what_it_lacks() -> None:
    results = corpus()
    assert len(results.loaded) + len(results.refusals) == 248
    assert len(results.loaded) >= 198
    for each in results.refusals:
        assert each.kind == "unsupported", each
        assert LACKING.fullmatch(each.reason), each
        assert each.line > 1


def test_every_rule_names_its_author_and_its_own_id() -> None:
    rules = corpus().rules
    assert all(rule.author and rule.source == "sigma" for rule in rules)
    assert len({rule.id for rule in rules}) == len({rule.label for rule in rules}) == len(rules)


def positive(condition: Condition) -> bool:
    """Whether it asks for something; a rule of exclusions alone would fire all day."""
    if isinstance(condition, Not):
        return False
    return not hasattr(condition, "of") or any(positive(each) for each in condition.of)


def test_no_rule_is_made_of_exclusions_alone() -> None:
    for rule in corpus().rules:
        assert isinstance(rule, Rule)
        for match in rule.matches:
            assert positive(match.when), rule.title


@pytest.mark.parametrize(
    ("name", "event", "kind"),
    [
        (
            "proc_creation_lnx_crypto_mining",
            started("x -o stratum+tcp://pool:3333"),
            "exec",
        ),
        ("lnx_auditd_susp_cmds", started("chmod 777 x"), "exec"),
        ("lnx_auditd_coinminer", started("x y z --cpu-priority=5"), "exec"),
        (
            "lnx_auditd_ld_so_preload_mod",
            WRITTEN | {"path": "/etc/ld.so.preload"},
            "open",
        ),
        ("lnx_auditd_hidden_binary_execution", started("x", exe="/home/a/.x"), "exec"),
        (
            "lnx_auditd_systemd_service_creation",
            WRITTEN | {"path": "/etc/systemd/system/x.service"},
            "open",
        ),
        (
            "lnx_auditd_bpfdoor_port_redirect",
            started("iptables -t nat --to-ports 42", text="iptables -t nat --to-ports 42"),
            "exec",
        ),
        (
            "file_event_lnx_susp_cron_file_created",
            WRITTEN | {"path": "/etc/cron.d/x"},
            "open",
        ),
        (
            "net_connection_lnx_susp_malware_callback_port",
            CONNECTED | {"dest_ip": "8.8.8.8", "dest_port": 4444},
            "connect",
        ),
        (
            "net_connection_lnx_back_connect_shell_dev",
            CONNECTED | {"exe": "/usr/bin/bash"},
            "connect",
        ),
    ],
)
def test_rules_fire_at_what_they_are_for(name: str, event: Event, kind: str) -> None:
    assert fires(called(name), event, kind)


def test_filters_keep_rules_quiet() -> None:
    rule = called("net_connection_lnx_susp_malware_callback_port")
    for address in ("127.0.0.1", "192.168.1.1", "::1", "fe80::1"):
        local = CONNECTED | {"dest_ip": address, "dest_port": 4444}
        assert not fires(rule, local, "connect")
