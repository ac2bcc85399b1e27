import ctypes
import errno
import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from actors.agent import endpoint, privileges
from actors.agent.privileges import Capability
from actors.agent.settings import Settings


def account(name: str) -> pwd.struct_passwd:
    return pwd.struct_passwd((name, "x", 990, 991, "", "/", "/bin/false"))


def test_runs_as_lavender_where_there_is_such_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwd, "getpwnam", account)
    assert privileges.unprivileged_user().pw_name == "lavender"


def test_runs_as_nobody_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> pwd.struct_passwd:
        if name == "lavender":
            raise KeyError(name)
        return account(name)

    monkeypatch.setattr(pwd, "getpwnam", find)
    assert privileges.unprivileged_user().pw_name == "nobody"


def test_does_not_run_as_root_for_want_of_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> pwd.struct_passwd:
        raise KeyError(name)

    monkeypatch.setattr(pwd, "getpwnam", find)
    with pytest.raises(OSError, match="neither a user lavender nor nobody"):
        privileges.unprivileged_user()


def test_a_step_the_kernel_refuses_is_an_error() -> None:
    privileges._check(0, "prctl")
    ctypes.set_errno(1)
    with pytest.raises(PermissionError, match="capset: Operation not permitted"):
        privileges._check(-1, "capset")


class Kernel:
    """Stands in for libc: remembers the calls, knows 41 capabilities."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.mask = b""
        self.refuses = False

    def prctl(self, option: int, number: int, *_: int) -> int:
        self.calls.append((option, number))
        if option != 24 or (number <= 40 and not self.refuses):
            return 0
        ctypes.set_errno(errno.EPERM if self.refuses else errno.EINVAL)
        return -1

    def capset(self, _header: bytes, data: bytes) -> int:
        self.mask = data
        self.calls.append(("capset",))
        return 0


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    found = Kernel()
    monkeypatch.setattr(privileges, "_libc", lambda: found)
    monkeypatch.setattr(pwd, "getpwnam", account)
    for name in ("setgroups", "setresgid", "setresuid"):
        monkeypatch.setattr(os, name, lambda *ids, name=name: found.calls.append((name, ids)))
    return found


def test_privileges_go_in_an_order_that_leaves_no_way_back(kernel: Kernel) -> None:
    assert privileges.drop([Capability.KILL]) == ""
    assert kernel.calls[:42] == [(24, number) for number in range(42)]
    assert kernel.calls[42:] == [
        (8, 1),
        ("setgroups", ([],)),
        ("setresgid", (991, 991, 991)),
        ("setresuid", (990, 990, 990)),
        ("capset",),
        (38, 1),
    ]


def test_only_the_capabilities_named_are_kept(kernel: Kernel) -> None:
    privileges.drop([Capability.KILL])
    words = [int.from_bytes(kernel.mask[at : at + 4], "little") for at in range(0, 24, 4)]
    assert words == [1 << 5, 1 << 5, 0, 0, 0, 0]


def test_a_bounding_set_that_may_not_be_emptied_is_said(kernel: Kernel) -> None:
    kernel.refuses = True
    assert "CAP_SETPCAP" in privileges.drop([])
    assert kernel.calls[-1] == (38, 1)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_what_another_user_may_not_read_is_found(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch(mode=0o600)
    assert privileges.as_unprivileged(lambda: [str(os.access(path, os.R_OK))]) == ["False"]


@pytest.mark.parametrize(
    ("response", "may_kill"), [({"dry_run": True}, False), ({"dry_run": False}, True)]
)
def test_may_kill_only_if_it_is_to(response: dict[str, bool], *, may_kill: bool) -> None:
    assert endpoint._kills(Settings.model_validate({"response": response})) is may_kill


def test_may_not_kill_without_a_responder() -> None:
    table = Settings().model_dump()
    table["response"]["dry_run"] = False
    actors = table["topology"]["agent"]["actors"]
    del actors["responder"]
    actors["correlator"]["to"].remove("responder")
    assert not endpoint._kills(Settings.model_validate(table))


def test_numbers_are_those_of_the_kernel() -> None:
    text = Path("/usr/include/linux/capability.h").read_text()  # make setup installs it
    for capability in Capability:
        assert f"CAP_{capability.name} {capability.value}" in " ".join(text.split())
