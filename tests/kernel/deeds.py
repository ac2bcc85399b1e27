"""What is done to fire rules, by real processes, each beneath a launcher of its own."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tests.kernel.sigma_cases import BORE, RAN, WROTE
from tests.kernel.workload import ADDRESS, Island, copy_as

BOUNDARY = ("/usr/sbin/runuser", "-u", "root", "--")
"""A session of its own, so what it starts is a lineage of its own."""
OUTSIDE = "203.0.113.9"
"""An address that belongs to nobody; here, to the island."""
PRIVATE = """
set -eu
/bin/mount -t tmpfs mine "$1"
test "$(/usr/bin/stat -f -c %T "$1")" = tmpfs
/bin/mkdir -p "${2%/*}"
exec "$0" "$2"
"""
"""Runs a program on a file beneath a folder that is another one for it alone."""


class Done(msgspec.Struct, frozen=True):
    """What was done to fire a rule."""

    rule_id: str
    process: str
    """Name of the program that the alert must be about."""
    parents: tuple[str, ...]
    """Its ancestors' names, oldest first; the first is `boundary`."""
    boundary: int
    """A process that nobody else descends from."""


def table(text: str) -> list[tuple[str, list[str]]]:
    """The lines of a table: which rule, and the words."""
    lines = (line.partition(" ") for line in text.strip().splitlines())
    return [(rule, shlex.split(words)) for rule, _, words in lines]


class Stage:
    """Where things are done, each beneath a boundary of its own.

    Args:
        folder: for programs, in which rules have no interest.
        tmp: a folder beneath /tmp, in which they have.
        doer: the tests' program that does what it is told.
        island: a network of our own.
    """

    def __init__(self, folder: Path, tmp: Path, doer: Path, island: Island) -> None:
        self._bin = folder / "bin"
        self._here = folder / "files"
        self._here.mkdir()
        self._tmp = tmp
        self._doer = doer
        self._island = island
        self.done: list[Done] = []

    def _named(self, program: str | Path, name: str, *, folder: Path | None = None) -> Path:
        """A copy of a program; the same kind and name are one file."""
        kind = Path(program).name
        target = (folder or self._bin / kind / "bin") / name
        if not target.exists():
            copy_as(Path(program), target.parent, name)
        return target

    def _play(
        self,
        rule: str,
        name: str,
        words: Sequence[object],
        parents: tuple[str, ...] = (),
        *,
        prefix: tuple[str, ...] = (),
    ) -> None:
        """Do it and note who did."""
        process = subprocess.Popen(
            [*prefix, *BOUNDARY, *map(str, words)],
            cwd=self._here,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": f"{self._bin / 'true' / 'bin'}:/usr/bin:/bin:/usr/sbin:/sbin"},
        )
        process.wait(30)
        self.done.append(Done(rule, name, ("runuser", *parents), process.pid))

    def everything(self) -> None:
        """All of it."""
        for rule, (name, *words) in table(RAN):
            self._named("/usr/bin/true", name)
            self._play(rule, name, [name, *words])
        for rule, words in table(BORE):
            cut = words.index(":")
            parent, child = words[:cut], words[cut + 1 :]
            beneath = self._named("/usr/bin/true", child[0])
            above = self._named(self._doer, parent[0])
            run = ["run", beneath, *child[1:], "+"]
            self._play(rule, child[0], [above, *parent[1:], *run], (parent[0],))
        for rule, (name, path) in table(WROTE):
            self._write(rule, self._named("/usr/bin/touch", name), path)
        self._from_odd_places()
        self._connect()
        self._for_the_built_in_rules()

    def _write(self, rule: str, program: Path, path: str) -> None:
        if path.startswith("HERE"):
            file = self._here / path.removeprefix("HERE/")
            file.parent.mkdir(parents=True, exist_ok=True)
            self._play(rule, program.name, [program, file])
            return
        top = f"/{path.split('/')[1]}"
        private = ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", PRIVATE, program, top, path]
        self._play(rule, program.name, private)

    def _from_odd_places(self) -> None:
        self._play("2953194b", "dd", ["/usr/bin/dd", "if=/dev/null", f"of={self._here / 'zeros'}"])
        tool = self._named("/usr/bin/true", "tool", folder=self._tmp / "bin")
        self._play("312b42b1", "tool", [tool])
        self._play("a39d7fa7", "tool", [tool])
        above = self._named(self._doer, "dropper", folder=self._tmp / "bin")
        shell = self._named("/usr/bin/true", "sh")
        self._play("2fade0b6", "sh", [above, "run", shell, "+"], ("dropper",))
        with tempfile.TemporaryDirectory(dir="/dev/shm") as shared:
            tool = self._named("/usr/bin/true", "tool", folder=Path(shared))
            self._play("5cd16c8f", "tool", [tool])

    def _connect(self) -> None:
        for rule, name, port in (("dbfc7c98", "beacon", "4444"), ("83dcd9f6", "bash", "80")):
            program = self._named(self._doer, name)
            words = [program, "udp", OUTSIDE, port]
            self._play(rule, name, [*words], prefix=self._island.enter)

    def _for_the_built_in_rules(self) -> None:
        enter = self._island.enter
        secret = self._here / "home" / ".ssh" / "id_rsa"
        secret.parent.mkdir(parents=True)
        secret.touch()

        def named(name: str) -> Path:
            return self._named(self._doer, name)

        shell = ["run", "/bin/bash", "-c", "", "+"]
        opens = ["open", secret]
        self._play("unexpected-shell-spawn", "bash", [named("server"), *shell], ("server",))
        self._play("sensitive-file-read", "reader", [named("reader"), *opens])
        self._play("suspicious-port", "caller", [named("caller"), "connect", "127.0.0.1", "4444"])
        dial = [f"exec 3<>/dev/tcp/{ADDRESS}/8080; exec /bin/sh -c true"]
        self._play("shell-outbound-connection", "bash", ["/bin/bash", "-c", *dial], prefix=enter)
        self._play("reverse-shell", "dash", ["/bin/bash", "-c", *dial], prefix=enter)
        newcomer = [named("newcomer"), "connect", ADDRESS, "8080"]
        self._play("first-network-caller", "newcomer", [*newcomer], prefix=enter)
        self._play("obfuscated-command", "perl", ["/usr/bin/perl", "-e", "1"])
        thief = [named("thief"), *opens, "exec", "/usr/bin/true"]
        self._play("credential-access-execution", "true", [*thief])
        often = ["run", self._named("/usr/bin/true", "step"), "+"] * 5
        self._play("rapid-spawning", "step", [named("burst"), *often], ("burst",))
