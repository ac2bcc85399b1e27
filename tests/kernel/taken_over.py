"""The agent with code of a test's own in its process: what an attacker would try from there.

``python -m tests.kernel.taken_over`` is the agent, started as any other, but that its heartbeat, in
the midst of its work, does what ``TAKEN_OVER`` asks for and logs what became of it.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from actors.agent import __main__ as agent
from actors.agent import heartbeat

SAID = "taken over"
_libc = ctypes.CDLL(None, use_errno=True)


def call(number: int, *arguments: Any) -> None:
    """A system call; as the errors of Python's own."""
    if _libc.syscall(ctypes.c_long(number), *arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def read(path: str) -> None:
    with open(path, "rb") as file:  # noqa: PTH123 - as plainly as can be
        file.read(1)


def write(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))


def write_into(pid: int, address: int) -> None:
    local = ctypes.create_string_buffer(b"owned")
    ours = (ctypes.c_ulong * 2)(ctypes.addressof(local), 5)
    theirs = (ctypes.c_ulong * 2)(address, 5)
    call(311, pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)


def read_from(pid: int, address: int) -> None:
    local = ctypes.create_string_buffer(5)
    ours = (ctypes.c_ulong * 2)(ctypes.addressof(local), 5)
    theirs = (ctypes.c_ulong * 2)(address, 5)
    call(310, pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)


def write_memory_file(pid: int, address: int) -> None:
    memory = os.open(f"/proc/{pid}/mem", os.O_RDWR)
    os.pwrite(memory, b"owned", address)


def read_memory_file(pid: int, address: int) -> None:
    os.pread(os.open(f"/proc/{pid}/mem", os.O_RDONLY), 5, address)


def attach_to(pid: int) -> None:
    call(101, ctypes.c_long(16), ctypes.c_long(pid), None, None)  # PTRACE_ATTACH


def signal_to(pid: int) -> None:
    os.kill(pid, 0)


def pidfd_signal_to(pid: int) -> None:
    call(424, os.pidfd_open(pid), 0, None, 0)


def limit(pid: int) -> None:
    call(302, pid, 7, None, ctypes.create_string_buffer(16))  # prlimit64


def run(path: str) -> None:
    os.execv(path, [path])  # noqa: S606 - what must not work


def run_in_a_child(path: str) -> None:
    if not os.fork():
        os._exit(0)


def run_from_memory(path: str) -> None:
    made = os.memfd_create("x")
    os.write(made, b"#!/bin/sh\n")
    os.execve(made, [path], {})  # noqa: S606 - what must not work


def connect(host: str, port: int) -> None:
    socket.create_connection((host, port), timeout=2).close()


def send_datagram(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.sendto(b"x", (host, port))


def connect_by_mptcp(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262) as made:
        made.connect((host, port))


def connect_fast(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as made:
        made.sendto(b"x", 0x20000000, (host, port))


def connect_unix(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        made.connect(path)


def make_socket(family: int, kind: int) -> None:
    socket.socket(family, kind).close()


def listen(host: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as made:
        made.bind((host, 0))
        made.listen()


def map_to_write_and_run() -> None:
    import mmap  # noqa: PLC0415 - as the attacker

    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)


def make_runnable() -> None:
    import mmap  # noqa: PLC0415 - as the attacker

    made = mmap.mmap(-1, 4096)
    call(10, ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(made))), 4096, 5)


def change_mode(path: str) -> None:
    os.chmod(path, 0o777)  # noqa: PTH101, S103 - what must not work


_ZEROS = ctypes.create_string_buffer(256)
ACTS: dict[str, Callable[..., None]] = {
    name: act
    for name, act in list(globals().items())
    if callable(act) and getattr(act, "__module__", "") == __name__
}
ACTS |= {
    "bpf": lambda: call(321, 0, _ZEROS, 72),
    "perf_event_open": lambda: call(298, _ZEROS, 0, -1, -1, 0),
    "userfaultfd": lambda: call(323, 1),
    "io_uring_setup": lambda: call(425, 1, _ZEROS),
    "keyctl": lambda: call(250, 0, 0),
    "add_key": lambda: call(248, b"user", b"x", b"x", 1, -2),
    "mount": lambda: call(165, b"none", b"/tmp", b"tmpfs", 0, None),
    "unshare": lambda: call(272, 0x10000000),
    "setns": lambda: call(308, 0, 0),
    "memfd_create": lambda: call(319, b"x", 0),
    "process_madvise": lambda: call(440, 0, None, 0, 0, 0),
    "pidfd_getfd": lambda: call(438, 0, 0, 0),
    "clone_of_a_process": lambda: call(56, 17, None, None, None, 0),
    "clone3": lambda: call(435, _ZEROS, 88),
    "prctl_dumpable": lambda: call(157, 4, 1, 0, 0, 0),
    "personality": lambda: call(135, 0x40000),
    "setuid": lambda: call(105, 0),
    "chroot": lambda: call(161, b"/tmp"),
    "kexec_load": lambda: call(246, 0, 0, None, 0),
    "x32_getpid": lambda: call(39 + 0x80000000),
    "another_filter": lambda: call(317, 1, 0, None),
}


def attempt(name: str, *arguments: Any) -> str:
    try:
        ACTS[name](*arguments)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "done"


class Heartbeat(heartbeat.Heartbeat):
    """Does it once, from its own thread and from another one."""

    _did = False

    async def tick(self) -> None:
        await super().tick()
        if Heartbeat._did:
            return
        Heartbeat._did = True
        orders = json.loads(os.environ["TAKEN_OVER"])
        results: dict[str, list[str]] = {}

        def all_of_them() -> None:
            for order in orders:
                key = " ".join(map(str, order))
                results.setdefault(key, []).append(attempt(*order))

        all_of_them()
        other = threading.Thread(target=all_of_them)
        other.start()
        other.join()
        self.context.log.info(SAID, results=results)


def main() -> int:
    from actors.agent import kinds  # noqa: PLC0415 - after the loader has begun, as the agent

    kinds.Heartbeat = Heartbeat  # type: ignore[attr-defined] # the test's own in its place
    return agent.main()


if __name__ == "__main__":
    sys.exit(main())
