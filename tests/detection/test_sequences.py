import pytest

from actors.detection.builtin import builtin_rules
from actors.detection.conditions import RuleError
from actors.detection.events import Identity
from actors.detection.rules import Sequence, Step
from actors.detection.ruleset import RuleSet
from actors.detection.settings import FilterSettings
from actors.detection.testing import Host, rules

SEQUENCES = [each for each in builtin_rules() if isinstance(each, Sequence)]
REVERSE, CREDENTIAL, RAPID = (sequence.id for sequence in SEQUENCES[:3])
BASH, DASH, SH = "/usr/bin/bash", "/usr/bin/dash", "/bin/sh"
LS, CAT = "/usr/bin/ls", "/usr/bin/cat"


def session(host: Host) -> Identity:
    """Another login under the same sshd."""
    return host.run(host.fork(host.sshd), BASH)[0]


def test_labels_and_points_are_the_known_ones() -> None:
    assert [(each.label, each.points) for each in SEQUENCES] == [
        ("CHAIN Reverse shell behaviour", 90),
        ("CHAIN Credential access then execution", 75),
        ("CHAIN Rapid process spawning", 60),
        ("CHAIN Shell relayed to another machine", 85),
        ("CHAIN Shell in a loop with a named pipe", 85),
    ]
    assert SEQUENCES[0].techniques == ("T1059", "T1059.004")


# Reverse shell


def test_reverse_shell_in_one_process_and_its_child() -> None:
    host = Host()
    bash, _ = host.run(host.sshd, BASH)
    host.connect(bash)
    sh, alerts = host.run(bash, DASH, filename=SH)
    assert rules(alerts) == [REVERSE]
    assert alerts[0].identity == sh
    assert alerts[0].detail == (
        f"in 0.0 s: exec {BASH} (pid {bash[0]}), "
        f"connect 203.0.113.7:443 (pid {bash[0]}), exec {SH} (pid {sh[0]})"
    )


def test_reverse_shell_across_siblings_under_one_program() -> None:
    host = Host()
    server, _ = host.run(host.init, "/usr/sbin/nginx")
    host.run(server, BASH)
    helper, _ = host.run(server, "/usr/bin/nc")
    host.connect(helper)
    _, alerts = host.run(server, DASH, filename=SH)
    assert REVERSE in rules(alerts)


def test_reverse_shell_needs_the_order() -> None:
    host = Host()
    child = host.fork(host.bash)
    host.connect(child)
    host.exec(child, BASH)
    assert REVERSE not in rules(host.exec(child, DASH, filename=SH))


def test_reverse_shell_needs_an_external_connection() -> None:
    host = Host()
    bash, _ = host.run(host.sshd, BASH)
    host.connect(bash, "127.0.0.1")
    host.connect(bash, "")
    assert REVERSE not in rules(host.run(bash, DASH, filename=SH)[1])


@pytest.mark.parametrize(("pause", "fires"), [(29.9, True), (30.1, False)])
def test_reverse_shell_needs_the_window(pause: float, *, fires: bool) -> None:
    host = Host()
    bash, _ = host.run(host.sshd, BASH)
    host.connect(bash)
    host.wait(pause)
    assert (REVERSE in rules(host.run(bash, DASH, filename=SH)[1])) is fires


def test_reverse_shell_needs_one_lineage() -> None:
    host = Host()
    first, second = session(host), session(host)
    host.run(first, BASH)
    host.connect(first)
    assert REVERSE not in rules(host.run(second, DASH, filename=SH)[1])


def test_a_renewed_first_step_does_not_lose_what_followed_the_old_one() -> None:
    host = Host()
    bash, _ = host.run(host.sshd, BASH)
    host.connect(bash)
    host.exec(bash, BASH)
    assert REVERSE in rules(host.run(bash, DASH, filename=SH)[1])


def test_noise_cannot_push_a_partial_match_out() -> None:
    host = Host(correlator_max_events=10)
    bash, _ = host.run(host.sshd, BASH)
    for _ in range(100):
        host.run(bash, LS)
    host.connect(bash)
    for _ in range(100):
        host.run(bash, LS)
    assert REVERSE in rules(host.run(bash, DASH, filename=SH)[1])


# Credential access then execution


def test_credential_access_across_siblings_of_one_shell() -> None:
    host = Host()
    host.open(host.run(host.bash, CAT)[0], "/etc/shadow")
    child, alerts = host.run(host.bash, "/tmp/x", system=False)
    assert rules(alerts) == [CREDENTIAL]
    assert alerts[0].identity == child
    assert alerts[0].severity == "HIGH"


def test_credential_access_by_the_process_itself_and_by_its_child() -> None:
    for inside in (True, False):
        host = Host()
        thief, _ = host.run(host.init, "/tmp/thief", system=False)
        host.open(thief, "/etc/shadow")
        child = thief if inside else host.fork(host.fork(thief))
        assert CREDENTIAL in rules(host.exec(child, LS))


def test_credential_access_needs_the_order() -> None:
    host = Host()
    child, alerts = host.run(host.bash, CAT)
    assert not alerts
    assert CREDENTIAL not in rules(host.open(child, "/etc/shadow"))


@pytest.mark.parametrize(("pause", "fires"), [(29.9, True), (30.1, False)])
def test_credential_access_needs_the_window(pause: float, *, fires: bool) -> None:
    host = Host()
    host.open(host.run(host.bash, CAT)[0], "/etc/shadow")
    host.wait(pause)
    assert (CREDENTIAL in rules(host.run(host.bash, LS)[1])) is fires


def test_a_trusted_reader_begins_nothing() -> None:
    host = Host()
    host.open(host.run(host.bash, "/usr/bin/sudo")[0], "/etc/shadow")
    assert not host.run(host.bash, LS)[1]


def test_sessions_under_sshd_do_not_correlate() -> None:
    host = Host()
    first, second = session(host), session(host)
    host.open(host.run(first, CAT)[0], "/etc/shadow")
    assert not host.run(second, LS)[1]


def test_services_under_init_do_not_correlate() -> None:
    host = Host()
    service, _ = host.run(host.init, "/usr/sbin/cron")
    host.open(service, "/etc/shadow")
    assert not host.run(host.init, LS)[1]


def test_children_of_a_false_sshd_do_correlate() -> None:
    host = Host()
    false, _ = host.run(host.init, "/tmp/sshd", system=False)
    host.open(host.run(false, CAT)[0], "/etc/shadow")
    assert rules(host.run(false, LS)[1]) == [CREDENTIAL]


def test_a_window_fires_once_and_a_new_read_opens_a_new_one() -> None:
    host = Host()
    host.open(host.run(host.bash, CAT)[0], "/etc/shadow")
    assert rules(host.run(host.bash, LS)[1]) == [CREDENTIAL]
    assert not host.run(host.bash, LS)[1]
    host.open(host.run(host.bash, CAT)[0], "/etc/shadow")
    assert CREDENTIAL in rules(host.run(host.bash, LS)[1])


def test_a_dead_intermediate_does_not_break_the_lineage() -> None:
    host = Host()
    thief, _ = host.run(host.bash, "/tmp/thief", system=False)
    host.open(thief, "/etc/shadow")
    middle = host.fork(thief)
    child = host.fork(middle)
    host.exit(middle)
    host.exit(thief)
    assert rules(host.exec(child, LS)) == [CREDENTIAL]


def test_a_late_first_step_does_not_complete_backwards() -> None:
    host = Host()
    cat, _ = host.run(host.bash, CAT)
    host.wait(1)
    host.open(cat, "/etc/shadow")
    host.now_ns -= 500_000_000
    assert not host.run(host.bash, LS)[1]


# Rapid process spawning


def test_rapid_spawning_of_siblings() -> None:
    host = Host()
    assert [rules(host.run(host.bash, LS)[1]) for _ in range(11)] == [
        *([[]] * 4),
        [RAPID],
        *([[]] * 4),
        [RAPID],
        [],
    ]


def test_rapid_spawning_down_a_chain() -> None:
    host = Host()
    process, fired = host.bash, []
    for _ in range(5):
        process, alerts = host.run(process, "/usr/bin/env")
        fired += rules(alerts)
    assert fired == [RAPID]


@pytest.mark.parametrize(("pause", "fires"), [(2.4, True), (2.6, False)])
def test_rapid_spawning_needs_ten_seconds(pause: float, *, fires: bool) -> None:
    host = Host()
    fired = []
    for _ in range(5):
        fired += rules(host.run(host.bash, LS)[1])
        host.wait(pause)
    assert (fired == [RAPID]) is fires


def test_noisy_programs_do_not_count_if_they_can_be_believed() -> None:
    host = Host()
    assert not [a for _ in range(20) for a in host.run(host.bash, "/usr/bin/make")[1]]
    false = [a for _ in range(5) for a in host.run(host.bash, "/tmp/make", system=False)[1]]
    assert rules(false) == [RAPID]


def test_init_and_sshd_may_start_many() -> None:
    host = Host()
    for parent in (host.init, host.sshd):
        assert not [a for _ in range(20) for a in host.run(parent, LS)[1]]


def test_one_process_that_execs_again_and_again() -> None:
    host = Host()
    child = host.fork(host.init)
    assert rules([a for _ in range(5) for a in host.exec(child, LS)]) == [RAPID]


# Bounds


def test_remembered_events_are_bounded_and_cuts_counted() -> None:
    host = Host(correlator_max_events=5)
    bash, _ = host.run(host.sshd, BASH)
    host.connect(bash)
    for _ in range(4):
        host.run(bash, LS)
    assert host.engine.statistics().partial_matches_cut > 0


def test_owners_are_bounded_and_expire() -> None:
    host = Host(max_processes=64)
    for _ in range(500):
        host.run(host.init, LS)
    statistics = host.engine.statistics()
    assert statistics.windows <= 64
    assert statistics.partial_matches_cut > 0
    host.wait(100)
    host.run(host.init, LS)
    assert host.engine.statistics().windows == 1


@pytest.mark.parametrize(
    ("steps", "count"),
    [
        ((), 1),
        (SEQUENCES[1].steps[:1], 1),
        (SEQUENCES[1].steps, 2),
        (SEQUENCES[1].steps[:1], 21),
    ],
)
def test_a_sequence_that_cannot_work_is_refused(steps: tuple[Step, ...], count: int) -> None:
    wrong = Sequence(id="wrong", label="x", steps=steps, count=count)
    with pytest.raises(RuleError, match="wrong"):
        RuleSet(FilterSettings(), [wrong])
