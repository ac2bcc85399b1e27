from typing import Any

import pytest

from actors.detection.loaders import applet_of, loaded_by
from actors.detection.testing import Host, rules

LOADER = "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
SHELL = "unexpected-shell-spawn"


@pytest.mark.parametrize(
    ("words", "program"),
    [
        (["/bin/bash"], "/bin/bash"),
        (["/bin/bash", "--norc", "/tmp/x"], "/bin/bash"),
        (["--preload", "/tmp/x.so", "/bin/bash"], "/bin/bash"),
        (["--library-path", "/a:/b", "--inhibit-cache", "/bin/bash"], "/bin/bash"),
        (["--argv0", "sshd", "/bin/bash"], "/bin/bash"),
        (["./x"], "/work/x"),
        (["../x"], "/x"),
        (["--list", "/bin/ls"], "/bin/ls"),
        (["--help"], ""),
        (["--argv0"], ""),
        ([""], ""),
        ([], ""),
    ],
)
def test_the_loader_s_argument_is_the_program(words: list[str], program: str) -> None:
    assert loaded_by(LOADER, ("ld.so", *words), "/work") == program


@pytest.mark.parametrize(
    "name",
    [
        *("ld-linux-x86-64.so.2", "ld-linux.so.2", "ld-linux-aarch64.so.1", "ld64.so.2"),
        *("ld-musl-x86_64.so.1", "ld-2.31.so", "ld.so", "ld.so.1"),
    ],
)
def test_a_loader_is_known_by_its_name(name: str) -> None:
    assert loaded_by(f"/lib/{name}", ("x", "/bin/sh")) == "/bin/sh"


@pytest.mark.parametrize("exe", ["/usr/bin/ld", "/usr/bin/ldd", "/usr/bin/ld.bfd", "/x/ld.so/cat"])
def test_what_is_no_loader_is_itself(exe: str) -> None:
    assert not loaded_by(exe, ("x", "/bin/sh"))


@pytest.mark.parametrize(
    ("argv", "applet"),
    [
        (("busybox", "sh"), "sh"),
        (("/bin/busybox", "/bin/sh", "-c", "id"), "sh"),
        (("sh", "-c", "id"), "sh"),
        (("busybox",), ""),
    ],
)
def test_a_busybox_is_what_it_is_told_to_be(argv: tuple[str, ...], applet: str) -> None:
    assert applet_of("/usr/bin/busybox", argv) == applet
    assert not applet_of("/usr/bin/cat", argv)


def foothold(**filters: Any) -> tuple[Host, Any]:
    host = Host(**filters)
    return host, host.run(host.init, "/tmp/foothold", system=False)[0]


def test_a_shell_that_the_loader_runs_is_a_shell() -> None:
    host, process = foothold()
    assert SHELL in rules(host.run(process, LOADER, "/bin/bash")[1])


def test_a_shell_that_busybox_is_told_to_be_is_a_shell() -> None:
    host, process = foothold(pass_through=["busybox"])
    assert SHELL in rules(host.run(process, "/usr/bin/busybox", "sh")[1])
    assert not rules(host.run(host.bash, "/usr/bin/busybox", "sh")[1])


def test_a_program_that_the_loader_runs_is_trusted_with_nothing() -> None:
    host = Host()
    sudo, _ = host.run(host.bash, LOADER, "/usr/bin/sudo")
    assert "sensitive-file-read" in rules(host.open(sudo, "/etc/shadow"))
    assert SHELL in rules(host.run(sudo, "/usr/bin/bash")[1])


def test_a_process_that_runs_by_the_loader_at_the_start_is_known_by_its_program() -> None:
    host = Host()
    seed = host.seed(host.init, LOADER)
    process = host.engine.table.get(seed)
    assert process is not None
    assert process.program.exe == LOADER  # it names no program
