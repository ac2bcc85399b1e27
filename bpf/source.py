"""The C text the loader compiles, and the macros it is compiled with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from bpf.records import RINGS, c_declarations

BPF_FOLDER = Path(__file__).resolve().parent
_PARTS = (
    "common.h",
    "path.h",
    "files.h",
    "floods.h",
    "fork.c",
    "exec.c",
    "exit.c",
    "open.c",
    "connect.c",
    "tcp.c",
)

INITIAL_USER_NS = 0xEFFFFFFD
"""Inode number of the initial user namespace (PROC_USER_INIT_INO)."""
O_WRONLY_CREAT_TRUNC = 0o1101
"""The flags that creat(2) stands for."""

FIELDS: Mapping[str, tuple[str, ...]] = {
    "task_struct": (
        "pid",
        "tgid",
        "group_leader",
        "real_parent",
        "start_boottime",
        "mm",
        "fs",
        "files",
        "nsproxy",
        "signal",
        "exit_code",
        "self_exec_id",
        "comm",
        "loginuid?",
    ),
    "signal_struct": ("live", "nr_threads", "flags", "group_exit_code"),
    "mm_struct": ("exe_file", "arg_start", "arg_end"),
    "linux_binprm": ("filename",),
    "fs_struct": ("pwd", "root"),
    "path": ("mnt", "dentry"),
    "file": ("f_path", "f_inode", "f_flags", "private_data"),
    "files_struct": ("fdt",),
    "fdtable": ("fd",),
    "dentry": ("d_parent", "d_name", "d_inode", "d_shortname|d_iname"),
    "vfsmount": ("mnt_root",),
    "mount": ("mnt", "mnt_parent", "mnt_mountpoint"),
    "inode": ("i_ino", "i_uid", "i_mode", "i_sb", "i_rdev"),
    "super_block": ("s_dev", "s_magic"),
    "nsproxy": ("mnt_ns",),
    "mnt_namespace": ("user_ns",),
    "user_namespace": ("ns.inum",),
    "socket": ("sk", "file"),
    "sock": ("sk_socket", "sk_protocol"),
    "unix_sock": ("peer", "addr"),
    "unix_address": ("len", "name"),
    "sock_common": (
        *("skc_family", "skc_dport", "skc_daddr", "skc_v6_daddr"),
        *("skc_num", "skc_rcv_saddr", "skc_v6_rcv_saddr"),
    ),
    "pt_regs": ("di", "si", "dx"),
}
"""Kernel fields the probes read, by struct; the syntax is that of `bpf.btf.Btf.offsets`."""

ATTACHMENTS: Mapping[str, str] = {
    "sched/sched_process_fork": "raw_tracepoint__sched_process_fork",
    "sched/sched_process_exec": "raw_tracepoint__sched_process_exec",
    "sched/sched_process_exit": "raw_tracepoint__sched_process_exit",
    "syscalls/sys_exit_execve": "tracepoint__syscalls__sys_exit_execve",
    "syscalls/sys_exit_execveat": "tracepoint__syscalls__sys_exit_execve",
    "syscalls/sys_exit_openat": "tracepoint__syscalls__sys_exit_openat",
    "syscalls/sys_exit_openat2": "tracepoint__syscalls__sys_exit_openat",
    "syscalls/sys_exit_open": "tracepoint__syscalls__sys_exit_openat",
    "syscalls/sys_exit_creat": "tracepoint__syscalls__sys_exit_openat",
    "sock/inet_sock_set_state": "raw_tracepoint__inet_sock_set_state",
    "syscalls/sys_enter_connect": "tracepoint__syscalls__sys_enter_connect",
    "syscalls/sys_exit_connect": "tracepoint__syscalls__sys_exit_connect",
}
"""Every tracepoint and the program that serves it: without one of them the agent would be blind
there. Similar calls share a program, which is then verified once."""

SLOW_TO_VERIFY = "raw_tracepoint__sched_process_exec"
"""The verifier takes half a second for it, longer than for all others together."""


def is_raw(function: str) -> bool:
    """Whether a program is for a raw tracepoint."""
    return function.startswith("raw_")


def link_name(tracepoint: str) -> str:
    """What the link of a tracepoint is called, also in bpffs, where names have no dots."""
    return "link_" + tracepoint.replace("/", "_")


MAPS = (*(ring.map_name for ring in RINGS), "CONTROL", "COUNTERS")
"""The maps that the agent holds; the probes have more, for themselves."""
HELD = frozenset((*MAPS, *map(link_name, ATTACHMENTS)))
"""Names of everything the agent holds."""


def digest(version: str, *, cpu_count: int) -> str:
    """What tells one set of probes from another; the kernel is the same until the next boot."""
    flags = compiler_flags({}, cpu_count=cpu_count)
    parts = (version, repr(FIELDS), repr(ATTACHMENTS), repr(flags), program_text())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def program_text() -> str:
    """All probes as one translation unit, with file names for the compiler's messages."""
    chunks = ["#define BPF_LICENSE Dual BSD/GPL\n", c_declarations()]
    for part in _PARTS:
        chunks.append(f'#line 1 "bpf/probes/{part}"\n')
        chunks.append((BPF_FOLDER / "probes" / part).read_text())
    return "".join(chunks)


def compiler_flags(offsets: Mapping[str, int], *, cpu_count: int) -> list[str]:
    """Flags for clang.

    Args:
        offsets: field offsets, as `bpf.btf.Btf.offsets` returns them.
        cpu_count: how many CPUs this kernel can have.
    """
    include = str(BPF_FOLDER / "include")
    flags = ["-I" + include, "-I/usr/include", "-I/usr/include/x86_64-linux-gnu"]
    # Jump tables cannot be had in BPF; bcc's own headers are what the warnings would be about.
    flags += ["-fno-jump-tables", "-Wno-everything"]
    flags += [f"-DOFF_{key.replace('.', '_')}={value}" for key, value in offsets.items()]
    flags += [f"-DCPU_COUNT={cpu_count}", f"-DINITIAL_USER_NS={INITIAL_USER_NS}U"]
    flags.append(f"-DO_WRONLY_CREAT_TRUNC={O_WRONLY_CREAT_TRUNC}")
    login = "LOAD32(task,OFF_task_struct_loginuid)"
    flags.append(
        f"-DLOGIN_UID(task)={login if 'task_struct.loginuid' in offsets else '4294967295U'}"
    )
    return flags
