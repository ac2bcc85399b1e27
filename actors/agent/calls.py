"""The system calls that the agent's work needs once it has started (x86-64)."""

from __future__ import annotations

import errno
import os
import signal
import socket

from actors.agent.seccomp import ALWAYS, Refused, Rule, Test, equals, without

_PROT_WRITE, _PROT_EXEC = 2, 4
_CLONE_THREAD = 0x10000
_PR_SET_NAME = 15
_MSG_FASTOPEN = 0x20000000
_SOCKET_KIND = 0xF
_TERMINAL_AND_MODE = (0x5401, 0x5421, 0x5450, 0x5451, 0x541B)
"""ioctl(2): TCGETS, FIONBIO, FIONCLEX, FIOCLEX, FIONREAD."""

_MEMORY = {
    "mprotect": (10, without(2, _PROT_EXEC)),
    "munmap": (11, ALWAYS),
    "brk": (12, ALWAYS),
    "mremap": (25, ALWAYS),
    "madvise": (28, ALWAYS),
    # Libraries are mapped to run; what can be written is not.
    "mmap": (9, [*without(2, _PROT_WRITE), *without(2, _PROT_EXEC)]),
}
_THREADS = {
    "rt_sigaction": (13, ALWAYS),
    "rt_sigprocmask": (14, ALWAYS),
    "rt_sigreturn": (15, ALWAYS),
    "sigaltstack": (131, ALWAYS),
    "sched_yield": (24, ALWAYS),
    "sched_getaffinity": (204, ALWAYS),
    "clone": (56, [[Test(0, _CLONE_THREAD, _CLONE_THREAD)]]),
    "exit": (60, ALWAYS),
    "exit_group": (231, ALWAYS),
    "gettid": (186, ALWAYS),
    "futex": (202, ALWAYS),
    "set_robust_list": (273, ALWAYS),
    "rseq": (334, ALWAYS),
    "membarrier": (324, ALWAYS),
    "restart_syscall": (219, ALWAYS),
    "prctl": (157, equals(0, _PR_SET_NAME)),
}
_ABOUT = {
    "getpid": (39, ALWAYS),
    "getuid": (102, ALWAYS),
    "getgid": (104, ALWAYS),
    "geteuid": (107, ALWAYS),
    "getegid": (108, ALWAYS),
    "uname": (63, ALWAYS),
    "sysinfo": (99, ALWAYS),
    "getrusage": (98, ALWAYS),
    "prlimit64": (302, equals(0, 0)),  # of ourselves
    "gettimeofday": (96, ALWAYS),
    "time": (201, ALWAYS),
    "clock_gettime": (228, ALWAYS),
    "clock_getres": (229, ALWAYS),
    "getrandom": (318, ALWAYS),
}
_WAITING = {
    "poll": (7, ALWAYS),
    "ppoll": (271, ALWAYS),
    "select": (23, ALWAYS),
    "pselect6": (270, ALWAYS),
    "nanosleep": (35, ALWAYS),
    "clock_nanosleep": (230, ALWAYS),
    "epoll_wait": (232, ALWAYS),
    "epoll_pwait": (281, ALWAYS),
    "epoll_ctl": (233, ALWAYS),
    "timerfd_settime": (286, ALWAYS),
}
_FILES = {
    "read": (0, ALWAYS),
    "write": (1, ALWAYS),
    "close": (3, ALWAYS),
    "stat": (4, ALWAYS),
    "fstat": (5, ALWAYS),
    "lstat": (6, ALWAYS),
    "lseek": (8, ALWAYS),
    "ioctl": (16, equals(1, *_TERMINAL_AND_MODE)),
    "pread64": (17, ALWAYS),
    "pwrite64": (18, ALWAYS),
    "readv": (19, ALWAYS),
    "writev": (20, ALWAYS),
    "access": (21, ALWAYS),
    "dup": (32, ALWAYS),
    "fcntl": (72, ALWAYS),
    "flock": (73, ALWAYS),
    "fsync": (74, ALWAYS),
    "fdatasync": (75, ALWAYS),
    "truncate": (76, ALWAYS),
    "ftruncate": (77, ALWAYS),
    "getcwd": (79, ALWAYS),
    "rename": (82, ALWAYS),
    "mkdir": (83, ALWAYS),
    "mkdirat": (258, ALWAYS),
    "rmdir": (84, ALWAYS),
    "open": (2, ALWAYS),
    "unlink": (87, ALWAYS),
    "readlink": (89, ALWAYS),
    "chmod": (90, ALWAYS),
    "fchmod": (91, ALWAYS),
    "fchmodat": (268, ALWAYS),
    "fchown": (93, ALWAYS),
    "umask": (95, ALWAYS),
    "statfs": (137, ALWAYS),
    "fstatfs": (138, ALWAYS),
    "getdents64": (217, ALWAYS),
    "fadvise64": (221, ALWAYS),
    "openat": (257, ALWAYS),
    "newfstatat": (262, ALWAYS),
    "unlinkat": (263, ALWAYS),
    "renameat": (264, ALWAYS),
    "renameat2": (316, ALWAYS),
    "readlinkat": (267, ALWAYS),
    "faccessat": (269, ALWAYS),
    "faccessat2": (439, ALWAYS),
    "statx": (332, ALWAYS),
    "fanotify_mark": (301, ALWAYS),
}
_CONNECTED = {
    "connect": (42, ALWAYS),
    "sendto": (44, without(3, _MSG_FASTOPEN)),  # it would connect past whoever watches connect
    "recvfrom": (45, ALWAYS),
    "sendmsg": (46, without(2, _MSG_FASTOPEN)),
    "recvmsg": (47, ALWAYS),
    "shutdown": (48, ALWAYS),
    "getsockname": (51, ALWAYS),
    "getpeername": (52, ALWAYS),
    "setsockopt": (54, ALWAYS),
    "getsockopt": (55, ALWAYS),
}
_ANSWER_WITH = [
    Refused(435, errno.ENOSYS),  # clone3: its flags cannot be seen; the C library takes clone
]


def _sockets(*, names: bool) -> Rule:
    """TCP over IPv4 and IPv6; UDP where names are looked up. No other protocol: MPTCP is one."""
    kinds = [(socket.SOCK_STREAM, (0, socket.IPPROTO_TCP))]
    if names:
        kinds.append((socket.SOCK_DGRAM, (0, socket.IPPROTO_UDP)))
    return [
        [
            Test(0, 0xFFFFFFFF, family),
            Test(1, _SOCKET_KIND, kind),
            Test(2, 0xFFFFFFFF, protocol),
        ]
        for family in (socket.AF_INET, socket.AF_INET6)
        for kind, protocols in kinds
        for protocol in protocols
    ]


def rules(*, connects: bool, names: bool, kills: bool) -> dict[int, Rule]:
    """What is allowed, by number.

    Args:
        connects: there is a broker to connect to.
        names: its name has to be looked up.
        kills: processes may be killed.
    """
    found = {**_MEMORY, **_THREADS, **_ABOUT, **_WAITING, **_FILES, **_CONNECTED}
    found["tgkill"] = (234, equals(0, os.getpid()))  # abort(3)
    if connects:
        found["socket"] = (41, _sockets(names=names))
        found["sendmmsg"] = (307, without(3, _MSG_FASTOPEN))
    if kills:
        found["pidfd_open"] = (434, ALWAYS)
        found["pidfd_send_signal"] = (424, equals(1, signal.SIGKILL))
    return dict(found.values())


def refused() -> list[Refused]:
    """What fails with something else than EPERM."""
    return _ANSWER_WITH
