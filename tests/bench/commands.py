"""Executions as an ordinary server has them: many programs, arguments that seldom repeat."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from actors.detection.events import ExecEvent, SeedEvent

TEMPLATES = (
    *("/usr/bin/dash|sh -c cd /srv/app{n} && ./run --id {n}", "/usr/bin/bash|bash /opt/job{n}.sh"),
    *("/usr/bin/grep|grep -rn token{n} src/lib{n}", "/usr/bin/sed|sed -i s/a{n}/b{n}/ out{n}.txt"),
    *("/usr/bin/cat|cat /var/lib/app/{n}/state", "/usr/bin/ls|ls -l /srv/data/{n}"),
    *("/usr/bin/find|find /srv/{n} -name *.tmp", "/usr/bin/awk|awk {{print $1}} /tmp/{n}.log"),
    *("/usr/bin/git|git -C /srv/repo{n} fetch origin", "/usr/bin/tar|tar xf /tmp/pkg-{n}.tar"),
    *(
        "/usr/bin/cc|cc -O2 -c file{n}.c -o file{n}.o",
        "/usr/bin/as|as -o /tmp/c{n}.o /tmp/c{n}.s",
    ),
    *("/usr/bin/ld|ld -o prog{n} crt1.o file{n}.o -lc", "/usr/bin/make|make -j2 target{n}"),
    *("/usr/bin/python3.11|python3 manage.py task --id={n}", "/usr/bin/perl|perl tool{n}.pl"),
    *("/usr/bin/curl|curl -s http://10.0.0.7/health?{n}", "/usr/bin/ssh|ssh host{n} uptime"),
    *("/usr/bin/systemctl|systemctl is-active app{n}", "/usr/bin/ps|ps -o pid,cmd -p {n}"),
    *("/usr/bin/date|date +%s", "/usr/bin/sleep|sleep 0.{n}", "/usr/bin/mktemp|mktemp /tmp/x{n}"),
    *("/usr/bin/rm|rm -f /tmp/x{n}", "/usr/bin/cp|cp a{n} b{n}", "/usr/bin/mv|mv a{n} b{n}"),
    *("/usr/bin/head|head -n {n} log", "/usr/bin/sort|sort -u list{n}", "/usr/bin/wc|wc -l f{n}"),
    *("/usr/bin/node|node /srv/web/worker.js --shard {n}", "/usr/bin/env|env A={n} ./step"),
    *("/usr/sbin/cron|cron -f", "/usr/lib/git-core/git|git index-pack --stdin --id {n}"),
    *("/usr/bin/dpkg-query|dpkg-query -W pkg{n}", "/usr/bin/gzip|gzip -c /var/log/{n}.log"),
    *("/usr/bin/id|id -u", "/usr/bin/stat|stat -c %s f{n}", "/usr/bin/touch|touch .stamp{n}"),
)


PARENT_START_NS = 10**9
PARENTS = range(900, 950)


def parents() -> list[SeedEvent]:
    """Return the shells and services that start them, each of a session of its own."""
    common: dict[str, Any] = {"time_ns": 2 * PARENT_START_NS, "uid": 1000, "system_exe": True}
    sshd = SeedEvent(
        **common,
        pid=800,
        start_ns=PARENT_START_NS // 2,
        ppid=1,
        parent_start_ns=0,
        comm="sshd",
        exe="/usr/sbin/sshd",
        argv=("sshd",),
    )
    return [
        sshd,
        *(
            SeedEvent(
                **common,
                pid=pid,
                start_ns=PARENT_START_NS,
                ppid=800,
                parent_start_ns=PARENT_START_NS // 2,
                comm="bash",
                exe="/usr/bin/bash",
                argv=("-bash",),
            )
            for pid in PARENTS
        ),
    ]


def executions(
    count: int, *, templates: Sequence[str] = TEMPLATES, seed: int = 1, first_ns: int = 10**12
) -> list[ExecEvent]:
    """Return so many executions, a millisecond apart, the same for the same seed."""
    chance = random.Random(seed)
    made = []
    for index in range(count):
        template = chance.choice(templates)
        exe, _, line = template.partition("|")
        argv = tuple(line.format(n=chance.randrange(10**6)).split(" "))
        time_ns = first_ns + index * 1_000_000
        made.append(
            ExecEvent(
                time_ns=time_ns,
                pid=1000 + index % 30_000,
                start_ns=time_ns // 10_000_000 * 10_000_000,
                ppid=PARENTS[index % len(PARENTS)],
                parent_start_ns=PARENT_START_NS,
                uid=1000,
                login_uid=4_294_967_295,
                cgroup_id=77,
                comm=exe.rpartition("/")[2][:15],
                filename=exe,
                exe=exe,
                system_exe=True,
                argv=argv,
                argv_cut=False,
                cwd="/srv/app",
                user="app",
                error=0,
            )
        )
    return made
