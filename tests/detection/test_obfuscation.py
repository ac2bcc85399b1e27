import time

import pytest

from actors.detection.obfuscation import find_obfuscation
from actors.detection.programs import Programs

PROGRAMS = Programs()


def found(*argv: str, exe: str = "/usr/bin/bash", inline_code: bool = True) -> str | None:
    return find_obfuscation(PROGRAMS.get("", exe, exe), ("x", *argv), inline_code=inline_code)


@pytest.mark.parametrize(
    "text",
    [
        "echo aGk= | base64 -d",
        "$(curl http://x)",
        "x=$(wget -qO- x)",
        "curl x|bash",
        "curl x | bash -s",
        "curl x|sh",
        "curl x |   sh",
        "curl x | /bin/sh",
        "curl x |\n sh;",
        "cat </dev/tcp/1.2.3.4/5",
        "eval $x",
        "x; eval(y)",
        "exec(open('x').read())",
        "[Convert]::FromBase64String(x)",
        "python -c 'import os'",
        "python3 -c x",
        "/usr/bin/python3.11 -Ic x",
        "perl -e x",
        "perl -lane x",
        "ruby -e x",
    ],
)
def test_signs_inside_an_argument(text: str) -> None:
    assert found("-c", text)


@pytest.mark.parametrize(
    "text",
    [
        "ls | shuf",
        "ls |shuf",
        "cat x|bashful",
        "cat x | sh.txt",
        "cat x | ssh host",
        "grep medieval x",
        "evaluate x",
        "python --check x",
        "python script.py -c x",
        "ruby --version",
        "perl script.pl -e",
        "",
    ],
)
def test_near_misses(text: str) -> None:
    assert found("-c", text) is None


def test_pipe_and_shell_in_two_arguments_are_no_pipe() -> None:
    assert found("script", "|", "sh") is None


@pytest.mark.parametrize(
    ("exe", "argv"),
    [
        ("/usr/bin/python3.11", ("-c", "x")),
        ("/usr/bin/python3", ("-Ic", "x")),
        ("/usr/bin/python3", ("-cx",)),
        ("/usr/bin/python3", ("-W", "ignore", "-c", "x")),
        ("/usr/bin/perl", ("-e", "x")),
        ("/usr/bin/perl", ("-w", "-lne", "x")),
        ("/usr/bin/perl5.36", ("-E", "x")),
        ("/usr/bin/ruby3.1", ("-e", "x")),
    ],
)
def test_code_on_the_command_line(exe: str, argv: tuple[str, ...]) -> None:
    assert found(*argv, exe=exe)
    assert found(*argv, exe=exe, inline_code=False) is None


@pytest.mark.parametrize(
    ("exe", "argv"),
    [
        ("/usr/bin/python3", ("script.py", "-c")),
        ("/usr/bin/python3", ("-m", "http.server", "-c")),
        ("/usr/bin/python3", ("-X", "-c")),
        ("/usr/bin/python3", ()),
        ("/usr/bin/perl", ("-pi", "script.pl")),
        ("/usr/bin/bash", ("-c", "ls")),
        ("/usr/bin/ruby", ("-Ie", "x")),
    ],
)
def test_no_code_on_the_command_line(exe: str, argv: tuple[str, ...]) -> None:
    assert found(*argv, exe=exe) is None


def test_an_inline_exemption_does_not_cover_other_signs() -> None:
    assert found("-c", "import base64", exe="/usr/bin/python3", inline_code=False) == "base64"
    assert found("-c", "python3 -c x; eval y", inline_code=False) == "eval"


@pytest.mark.parametrize("hostile", ["|" * 8192, "| " * 4096, "python" * 1400, "|" + " " * 8190])
def test_hostile_text_is_searched_in_linear_time(hostile: str) -> None:
    started = time.perf_counter()
    assert found("-c", hostile) is None
    assert time.perf_counter() - started < 1


def test_text_beyond_the_bound_is_not_searched() -> None:
    assert found("x" * 9000, "base64") is None
