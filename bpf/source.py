"""The C text the loader compiles, and the macros it is compiled with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bpf.records import c_declarations

BPF_FOLDER = Path(__file__).resolve().parent
_PARTS = ("common.h", "path.h", "files.h", "fork.c", "exec.c", "exit.c", "open.c", "connect.c")

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
    "inode": ("i_ino", "i_uid", "i_mode", "i_sb"),
    "super_block": ("s_dev",),
    "nsproxy": ("mnt_ns",),
    "mnt_namespace": ("user_ns",),
    "user_namespace": ("ns.inum",),
    "socket": ("sk",),
    "sock_common": ("skc_family", "skc_dport", "skc_daddr", "skc_v6_daddr"),
    "pt_regs": ("di", "si", "dx"),
}
"""Kernel fields the probes read, by struct; the syntax is that of `bpf.btf.read_offsets`."""

TRACEPOINTS = (
    "sched/sched_process_fork",
    "sched/sched_process_exec",
    "sched/sched_process_exit",
    "syscalls/sys_exit_execve",
    "syscalls/sys_exit_execveat",
    "syscalls/sys_exit_openat",
    "syscalls/sys_exit_openat2",
    "syscalls/sys_exit_open",
    "syscalls/sys_exit_creat",
    "syscalls/sys_exit_connect",
)
"""Every tracepoint the probes attach to; without one of them the agent would be blind there."""

EXTRA_ATTACHMENTS: Mapping[str, str] = {
    "syscalls:sys_exit_openat2": "tracepoint__syscalls__sys_exit_openat",
    "syscalls:sys_exit_open": "tracepoint__syscalls__sys_exit_openat",
    "syscalls:sys_exit_creat": "tracepoint__syscalls__sys_exit_openat",
    "syscalls:sys_exit_execveat": "tracepoint__syscalls__sys_exit_execve",
}
"""Tracepoints served by another one's program: the same code is verified once."""


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
        offsets: field offsets, as `bpf.btf.read_offsets` returns them.
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
