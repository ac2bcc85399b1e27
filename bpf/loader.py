"""The loader: a child process that attaches the probes, hands over the descriptors and exits.

It compiles the probes first. It runs under the Python that has the distribution's bcc, which need
not be the agent's, and is the only process of Lavender that needs the privilege to load programs.
The probes live on as long as the agent holds the descriptors.

Protocol, on the inherited socket named by argv[1]: one message, JSON with the SCM_RIGHTS
descriptors in the order of ``names``; or JSON ``{"error": …, "kind": …}``.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import socket
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run by path, so that no PYTHONPATH reaches the privileged child
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bpf import source
from bpf.btf import read_offsets
from bpf.errors import LoadError, UnsupportedKernel
from bpf.records import RINGS

TRACEFS = Path("/sys/kernel/tracing")
_CLONE_NEWNS = 0x00020000
_MS_PRIVATE_REC = (1 << 18) | (1 << 14)


def possible_cpus() -> int:
    """How many CPUs this kernel can ever have: the length of its per-CPU arrays."""
    text = Path("/sys/devices/system/cpu/possible").read_text().strip()
    return int(text.replace(",", "-").split("-")[-1]) + 1


def mount_tracefs() -> None:
    """Make tracefs visible to this process alone where the machine has not mounted it."""
    if (TRACEFS / "events").is_dir():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if (
        libc.unshare(_CLONE_NEWNS)
        or libc.mount(b"none", b"/", None, _MS_PRIVATE_REC, None)
        or libc.mount(b"tracefs", os.fsencode(TRACEFS), b"tracefs", 0, None)
    ):
        reason = os.strerror(ctypes.get_errno())
        raise UnsupportedKernel(f"tracefs cannot be mounted on {TRACEFS}: {reason}")


def has_tracepoint(name: str) -> bool:
    """Whether this kernel has the tracepoint ``group/name``."""
    return (TRACEFS / "events" / name).is_dir()


def check_machine() -> None:
    """Raise `UnsupportedKernel` with the first thing this machine lacks."""
    if platform.machine() != "x86_64":
        raise UnsupportedKernel(f"the probes are for x86_64; this machine is {platform.machine()}")
    mount_tracefs()
    for name in source.TRACEPOINTS:
        if not has_tracepoint(name):
            raise UnsupportedKernel(
                f"this kernel has no tracepoint {name}; "
                "it needs CONFIG_FTRACE_SYSCALLS=y (syscalls) and CONFIG_TRACEPOINTS=y (sched)"
            )


def load() -> Any:
    """Compile, verify and attach all probes; the bcc object that holds them.

    Raises:
        UnsupportedKernel: the kernel lacks something; named.
        LoadError: the compiler or the verifier refused.
    """
    check_machine()
    offsets = read_offsets(source.FIELDS)
    os.environ["BCC_KERNEL_SOURCE"] = str(source.BPF_FOLDER)
    from bcc import BPF  # noqa: PLC0415 - dear to import, and of use only once the machine is fit

    flags = source.compiler_flags(offsets, cpu_count=possible_cpus())
    try:
        program = BPF(text=source.program_text(), cflags=flags)
        for tracepoint, function in source.EXTRA_ATTACHMENTS.items():
            program.attach_tracepoint(tp=tracepoint, fn_name=function)
    except Exception as error:  # bcc raises bare Exception for everything
        raise LoadError(f"the probes could not be loaded: {error}") from error
    return program


def descriptors(program: Any) -> dict[str, int]:
    """Every descriptor the agent must hold or map, by name."""
    held = {ring.map_name: program[ring.map_name].map_fd for ring in RINGS}
    held["CONTROL"] = program["CONTROL"].map_fd
    held["COUNTERS"] = program["COUNTERS"].map_fd
    links = {**program.tracepoint_fds, **program.raw_tracepoint_fds}
    for name, link in links.items():
        held[f"link:{name.decode() if isinstance(name, bytes) else name}"] = link
    return held


def main() -> None:
    """Load, send, exit."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    try:
        held = descriptors(load())
    except (UnsupportedKernel, LoadError) as error:
        message = {"error": str(error), "kind": type(error).__name__}
        channel.sendall(json.dumps(message).encode())
        os._exit(1)
    payload = {"names": list(held), "cpus": possible_cpus()}
    with contextlib.suppress(BrokenPipeError):  # the agent has gone: nothing is left to do
        socket.send_fds(channel, [json.dumps(payload).encode()], list(held.values()))
    # Not sys.exit: bcc's clean-up would switch off the perf events it opened.
    os._exit(0)


if __name__ == "__main__":
    main()
