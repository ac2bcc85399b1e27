"""An ordinary hour: what people and machines do all day, done for real.

Each activity is a shell script that does the thing itself: packages are installed and removed, a
project is configured and built, a user comes and goes. Nothing is pretended, so a registry that
cannot be reached fails the test. Every program started by a script is found in the agent's own
recording, by its forks, so what else goes on in the machine does not count.

Limit: the scripts run for half a minute, one after the other; what only adds up over hours
is not seen.
"""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import textwrap
from pathlib import Path

from tests.kernel.endpoint import Line

PACKAGES = ("cron", "uuid-runtime", "logrotate", "rsync", "autoconf")
"""Small ones; their maintainer scripts make groups, users, alternatives and services."""

STEP_SECS = 90

INSTALL = f"""
apt() {{ apt-get -qq -o DPkg::Lock::Timeout=60 -o Acquire::Retries=3 "$@"; }}
apt update
apt install -y --reinstall --no-install-recommends {" ".join(PACKAGES)} debianutils
dpkg --configure --pending
dpkg-reconfigure -f noninteractive tzdata
"""

PYTHON_PACKAGES = """
mkdir -p demo/src/demo
cat > demo/pyproject.toml <<'END'
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "demo"
version = "1.0"
END
cat > demo/setup.py <<'END'
from setuptools import Extension, setup
setup(ext_modules=[Extension("demo._native", ["src/demo/native.c"], py_limited_api=True)])
END
cat > demo/src/demo/native.c <<'END'
int PyInit__native(void) { return 0; }
END
echo 'VALUE = 42' > demo/src/demo/__init__.py
/usr/bin/python3 -m venv venv
. venv/bin/activate
pip install --quiet --disable-pip-version-check --no-cache-dir iniconfig setuptools wheel
pip install --quiet --disable-pip-version-check --no-build-isolation ./demo
echo 'import demo; print(demo.VALUE)' > use.py
python use.py
pip uninstall --quiet --yes demo
"""

C_BUILD = r"""
mkdir -p src && cd src
cat > configure.ac <<'END'
AC_INIT([demo], [1.0])
AC_CONFIG_SRCDIR([main.c])
AC_PROG_CC
AC_CHECK_HEADERS([sys/epoll.h unistd.h])
AC_CHECK_FUNCS([fork getline])
AC_CHECK_SIZEOF([long])
AC_RUN_IFELSE([AC_LANG_PROGRAM([], [return sizeof(long) != 8])], [AC_SUBST([LONG], [64])])
AC_RUN_IFELSE([AC_LANG_PROGRAM([], [return (-1 >> 1) != -1])], [AC_SUBST([SHIFT], [signed])])
AC_CONFIG_FILES([Makefile])
AC_OUTPUT
END
cat > Makefile.in <<'END'
CC = @CC@
OBJECTS = main.o one.o two.o three.o
demo: $(OBJECTS)
	$(CC) -o $@ $(OBJECTS)
check: demo
	./demo && test "`./demo | tr a-z A-Z | sed s/X/Y/`" = 6
	for n in 1 2; do ./demo > out.$$n; cmp out.1 out.$$n || exit 1; done
install: demo
	install -D demo $(DESTDIR)/bin/demo
END
n=0
for name in one two three; do
    n=$((n + 1))
    echo "int $name(void) { return $n; }" > $name.c
done
cat > main.c <<'END'
#include <stdio.h>
int one(void), two(void), three(void);
int main(void) { printf("%d\n", one() + two() + three()); return 0; }
END
autoconf
./configure --quiet
make --silent -j2
make --silent check
make --silent install DESTDIR="$PWD/root"
"""

GIT = """
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b.c GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b.c
mkdir -p template/hooks
printf '#!/bin/sh\\ngit rev-parse HEAD | cut -c 1-7 > checked-out\\n' > template/hooks/post-checkout
printf '#!/bin/sh\\ngit diff --cached --name-only | xargs -r grep -lE TODO && exit 1; exit 0\\n' \
    > template/hooks/pre-commit
chmod +x template/hooks/*
for name in library project; do
    git init --quiet --template template -b main $name
    echo "$name" > $name/README
    git -C $name add README
    git -C $name commit --quiet -m "$name"
done
git -C project -c protocol.file.allow=always submodule --quiet add "$PWD/library" library
git -C project commit --quiet -m submodule
git clone --quiet --template template project by-path
git -c protocol.file.allow=always clone --quiet --template template --recurse-submodules \
    "file://$PWD/project" by-url
git -C by-url checkout --quiet -b topic
echo more >> by-url/README
git -C by-url commit --quiet -am more
git -C by-url rebase --quiet --exec 'test -s README' main
git -C by-url push --quiet origin topic
git -C by-url log --oneline --graph | head -3
git -C project gc --quiet
git -C project bisect start HEAD HEAD~1 > /dev/null
"""

KEYS = """
mkdir -m 700 -p .ssh
ssh-keygen -q -t ed25519 -N '' -f .ssh/id_ed25519
ssh-keygen -q -t rsa -b 2048 -N '' -f .ssh/id_rsa
cat .ssh/id_ed25519.pub > .ssh/authorized_keys
ssh-keygen -l -f .ssh/id_rsa
ssh-keygen -y -f .ssh/id_ed25519 > /dev/null
eval "$(ssh-agent -s)"
ssh-add -q .ssh/id_ed25519
ssh-add -l
ssh-agent -k
ssh -o BatchMode=yes -o ConnectTimeout=2 -p 1 nobody@127.0.0.1 true || true
"""

TEST_SUITE = """
mkdir -p suite
cat > suite/test_demo.py <<'END'
import http.server, multiprocessing, os, platform, socket, subprocess, sys, tempfile, threading
import unittest, urllib.request

def double(n):
    return 2 * n

class Demo(unittest.TestCase):
    def test_shell(self):
        done = subprocess.run("ls /etc | sort | head -n 3", shell=True, capture_output=True)
        self.assertEqual(done.returncode, 0)
        self.assertEqual(os.system("true && test -d /"), 0)
        self.assertEqual(os.popen("echo hi").read(), "hi\\n")

    def test_processes(self):
        for method in ("spawn", "fork", "forkserver"):
            with multiprocessing.get_context(method).Pool(2) as pool:
                self.assertEqual(pool.map(double, [1, 2]), [2, 4])

    def test_programs(self):
        subprocess.run([sys.executable, "-m", "json.tool"], input=b"{}", check=True,
                       stdout=subprocess.DEVNULL)
        with tempfile.TemporaryDirectory() as folder:
            tool = os.path.join(folder, "tool")
            with open(tool, "w") as file:
                file.write("#!/bin/sh\\nuname -a; id -un; hostname\\n")
            os.chmod(tool, 0o755)
            for _ in range(4):
                subprocess.run([tool], check=True, stdout=subprocess.DEVNULL)
        platform.platform(), platform.processor()

    def test_loopback(self):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0),
                                                 http.server.SimpleHTTPRequestHandler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = "http://127.0.0.1:%d/" % server.server_port
        self.assertIn(b"test_demo", urllib.request.urlopen(url).read())
        subprocess.run(["curl", "-sSf", "-o", os.devnull, url], check=True)
        server.shutdown()
        server.server_close()
        left, right = socket.socketpair()
        left.close(), right.close()
END
cd suite
/usr/bin/python3 -m unittest -q
"""

CRON = r"""
mkdir -p daily logs state
cat > daily/clean <<'END'
#!/bin/sh
find "$HOME/logs" -type f -mtime +7 -print0 | xargs -0 -r rm -f
find "$HOME/logs" -type f -exec sh -c 'wc -c "$1"' _ {} \;
END
cat > daily/report <<'END'
#!/bin/bash
set -o pipefail
df -P | awk 'NR > 1 { print $5, $6 }' | sed 's/%//' | sort -rn | head -n 5 > "$HOME/report"
ps -e -o comm= | sort | uniq -c | sort -rn | awk '{ system("true " $1) } NR == 3 { exit }'
END
cat > daily/locked <<'END'
#!/bin/sh
exec flock -n "$HOME/lock" timeout 10 nice -n 5 sh -c 'date +%s > "$HOME/ran"; gzip -kf "$HOME/ran"'
END
chmod +x daily/*
for n in 1 2 3; do seq 1000 > logs/app$n.log; done
cat > rotate.conf <<END
$HOME/logs/*.log {
    su root root
    size 1
    rotate 2
    compress
    sharedscripts
    postrotate
        test ! -f $HOME/pid || kill -HUP "\$(cat $HOME/pid)"
    endscript
}
END
sh -c "run-parts --exit-on-error $HOME/daily"
chmod 755 . logs
sh -c "logrotate --state $HOME/state/logrotate $HOME/rotate.conf"
ls logs/app1.log.1.gz
sh -c 'test -x /etc/cron.daily/dpkg && /etc/cron.daily/dpkg; true'
"""

USERS = """
name=lav$$
trap 'userdel -f -r "$name" 2> /dev/null || true' EXIT
useradd -m -s /bin/bash "$name"
echo "$name:Ordinary-$$-hour" | chpasswd
usermod -aG users "$name"
chage -M 90 "$name"
passwd -S "$name"
su - "$name" -c 'id; umask; ls -la; test -w . && echo hello > greeting'
su "$name" -s /bin/sh -c 'getent passwd root | cut -d: -f7'
runuser -u "$name" -- id
getent group users
id root
last -n 1 > /dev/null 2>&1 || true
w -h > /dev/null 2>&1 || true
userdel -r "$name" 2> /dev/null
"""

FILES = """
ls -l /etc > listing
stat /etc/shadow /etc/sudoers > /dev/null 2>&1 || true
mkdir -p work/data served
for n in 1 2 3 4 5; do head -c 10000 /dev/urandom > work/data/$n; done
tar -czf work.tar.gz work
tar -C served -xzf work.tar.gz
rsync -a --delete work/ copy/
rsync -a work/ copy/
cp -a work copied && diff -r work copied
port=$((20000 + $$ % 10000))
(cd served && exec /usr/bin/python3 -m http.server --bind 127.0.0.1 $port > /dev/null 2>&1) &
server=$!
for _ in $(seq 50); do
    curl -sSf -o page http://127.0.0.1:$port/ 2> /dev/null && break
    sleep 0.1
done
grep -q work page
curl -sS http://127.0.0.1:$port/work.tar.gz --head | grep -i '^server' | tee headers
kill $server
sha256sum work/data/* | sha256sum --check --quiet
find /usr/share/doc -maxdepth 1 | wc -l
xz -k listing && zcat -f listing > /dev/null
"""

TERMINAL = """
cat > typed <<'END'
cd ~
history | tail -n 2
ls --color=auto | cat
for f in *; do file=$(basename "$f"); done
PS1='$ '; alias ll='ls -l'; ll | less -F
echo $((6 * 7)) | tee answer
man ls 2> /dev/null | head -n 2
vim --version 2> /dev/null | head -n 1
sh
uname -r
exit
exit
END
SHELL=/bin/bash script -q -c 'bash -i' typescript < typed > /dev/null
grep -q 42 answer
"""

REMOVE = """
apt-get -qq -o DPkg::Lock::Timeout=60 purge -y "$@"
"""

HOUR = {
    "a package install": INSTALL,
    "pip": PYTHON_PACKAGES,
    "a C build": C_BUILD,
    "git": GIT,
    "ssh keys": KEYS,
    "a test suite": TEST_SUITE,
    "cron": CRON,
    "users": USERS,
    "files": FILES,
    "a terminal": TERMINAL,
}


CONTROL = "the control"
"""No ordinary thing: what it raises shows that alerts find their activity."""

DONE = {
    *("dpkg", "apt-get", "dash", "bash", "perl", "cc1", "collect2", "demo", "conftest"),
    Path("/usr/bin/python3").resolve().name,
    *("git", "ssh-keygen", "run-parts", "find", "xargs", "useradd", "su", "tar", "curl", "script"),
}
"""Programs that an hour without them was not."""


def installed() -> set[str]:
    """Names of the Debian packages on this machine."""
    query = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n"]
    listing = subprocess.run(query, check=True, capture_output=True, text=True).stdout
    rows = (line.split() for line in listing.splitlines())
    return {row[0] for row in rows if row[1:] != ["not-installed"]}


class Hour:
    """Runs activities in a home folder of their own, as root does from a login shell.

    The shell must run before the agent does: its launcher, this test, is no trusted one.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.pids: dict[int, str] = {}
        developers = ("PYTHON", "PYENV", "VIRTUAL", "GIT_", "COV", "LAVENDER")
        kept = {name: x for name, x in os.environ.items() if not name.startswith(developers)}
        self._shell = subprocess.Popen(
            ["/usr/bin/bash", "--noprofile", "--norc"],
            cwd=home,
            env={
                **kept,
                "HOME": str(home),
                "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "DEBIAN_FRONTEND": "noninteractive",
                "SHELL": "/bin/bash",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def do(self, name: str, script: str, *words: str) -> None:
        """Run one script to its end; it must succeed."""
        file = self.home / f"{name.replace(' ', '-')}.sh"
        output = file.with_suffix(".out")
        file.write_text("set -eu\n" + textwrap.dedent(script))
        command = shlex.join(["bash", str(file), *words])
        self._type(f"{command} < /dev/null > {shlex.quote(str(output))} 2>&1 & echo $!")
        pid = self._answer(5)
        self.pids[pid] = name
        self._type(f"wait {pid}; echo $?")
        code = self._answer(STEP_SECS)
        assert code == 0, f"{name}: exit {code}\n{output.read_text()[-2000:]}"

    def owners(self, events: list[Line]) -> dict[tuple[int, int], str]:
        """Every process that descends from an activity, with the name of that activity."""
        found: dict[tuple[int, int], str] = {}
        forks = (event for event in events if event["type"] == "fork")
        for fork in sorted(forks, key=lambda fork: fork["time_ns"]):
            activity = found.get((fork["ppid"], fork["parent_start_ns"]))
            if activity is None and fork["ppid"] == self._shell.pid:
                activity = self.pids.get(fork["pid"])
            if activity is not None:
                found[fork["pid"], fork["start_ns"]] = activity
        return found

    def close(self) -> None:
        """Log out."""
        self._shell.kill()
        self._shell.communicate()

    def _type(self, line: str) -> None:
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"{line}\n".encode())
        self._shell.stdin.flush()

    def _answer(self, within_secs: float) -> int:
        assert self._shell.stdout is not None
        ready, _, _ = select.select([self._shell.stdout], [], [], within_secs)
        assert ready, f"not done within {within_secs} s"
        return int(self._shell.stdout.readline())
