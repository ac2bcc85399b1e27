"""Writes to the places where intruders stay: told, but for those whose work they are."""

import tomllib
from pathlib import Path

import pytest

from actors.detection.paths import SensitivePaths
from actors.detection.settings import FilterSettings
from actors.detection.testing import Host, rules

FILTERS = tomllib.loads((Path(__file__).parents[2] / "lavender.toml").read_text())["filters"]
O_WRONLY, O_RDWR, O_CREAT = 1, 2, 0o100
PLACES = {
    "/etc/passwd": "account-file-written",
    "/etc/shadow": "account-file-written",
    "/etc/gshadow": "account-file-written",
    "/root/.ssh/authorized_keys": "authorized-keys-written",
    "/home/a/.ssh/authorized_keys2": "authorized-keys-written",
    "/etc/sudoers": "sudoers-written",
    "/etc/sudoers.d/x": "sudoers-written",
    "/etc/crontab": "cron-written",
    "/etc/cron.d/x": "cron-written",
    "/etc/cron.daily/x": "cron-written",
    "/var/spool/cron/crontabs/root": "cron-written",
    "/etc/ld.so.preload": "preload-written",
    "/etc/systemd/system/x.service": "unit-written",
    "/etc/rc.local": "unit-written",
    "/etc/profile.d/x.sh": "login-script-written",
    "/etc/pam.d/common-auth": "pam-written",
}


@pytest.mark.parametrize(("path", "rule"), PLACES.items())
@pytest.mark.parametrize("flags", [O_WRONLY, O_RDWR, O_CREAT | O_WRONLY])
@pytest.mark.parametrize("exe", ["/usr/bin/bash", "/usr/bin/tee", "/usr/bin/python3.11"])
def test_a_write_is_told(path: str, rule: str, flags: int, exe: str) -> None:
    host = Host(**FILTERS)
    writer, _ = host.run(host.bash, exe)
    assert rule in rules(host.open(writer, path, flags=flags))
    assert rule not in rules(host.open(host.run(host.bash, exe)[0], path, flags=0))


@pytest.mark.parametrize("path", PLACES)
def test_the_kernel_delivers_such_a_write(path: str) -> None:
    assert SensitivePaths(FilterSettings(**FILTERS).guarded_files).matches(path)


@pytest.mark.parametrize(
    ("exe", "path"),
    [
        ("/usr/sbin/useradd", "/etc/passwd"),
        ("/usr/sbin/usermod", "/etc/group"),
        ("/usr/bin/passwd", "/etc/shadow"),
        ("/usr/bin/crontab", "/var/spool/cron/crontabs/root"),
        ("/usr/sbin/visudo", "/etc/sudoers"),
        *[("/usr/bin/dpkg", path) for path in PLACES],
    ],
)
def test_the_programs_whose_work_it_is_are_not_told(exe: str, path: str) -> None:
    host = Host(**FILTERS)
    writer, _ = host.run(host.bash, exe)
    assert not host.open(writer, path, flags=O_WRONLY)


def test_a_package_s_script_may_write_and_a_user_tool_s_child_may_not() -> None:
    host = Host(**FILTERS)
    dpkg, _ = host.run(host.bash, "/usr/bin/dpkg")
    script, _ = host.run(dpkg, "/usr/bin/dash", "/var/lib/dpkg/info/x.postinst")
    assert not host.open(host.run(script, "/usr/bin/tee")[0], "/etc/cron.d/x", flags=O_WRONLY)
    useradd, _ = host.run(host.bash, "/usr/sbin/useradd")
    child, _ = host.run(useradd, "/usr/bin/tee")
    assert rules(host.open(child, "/etc/passwd", flags=O_WRONLY)) == ["account-file-written"]


def test_a_copy_of_a_trusted_writer_is_told() -> None:
    host = Host(**FILTERS)
    copy, _ = host.run(host.bash, "/tmp/useradd", system=False)
    assert "account-file-written" in rules(host.open(copy, "/etc/passwd", flags=O_WRONLY))


def test_a_home_among_temporary_files_has_no_keys_that_may_log_in() -> None:
    host = Host(**FILTERS)
    assert not host.open(host.bash, "/tmp/x/.ssh/authorized_keys", flags=O_CREAT | O_WRONLY)
