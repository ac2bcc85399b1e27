"""The loader: a child process that attaches the probes, hands over the descriptors and exits.

Where an earlier agent of the same name and version has left its probes pinned and running, it takes
those up; else it loads them, compiled by an earlier start (`bpf.cache`) or afresh, and pins them if
it can. It runs under the Python that
has the distribution's bcc, which need not be the agent's, and is the only process of Lavender that
needs the privilege to load programs. The probes live on as long as the agent holds the descriptors
or their pins are there.

Protocol, on the inherited socket named by argv[1]. The agent sends an order: JSON with
``agent_id``, ``version``, ``owner`` (user and group who shall be able to remove the pins) and
``no_bpffs`` (why there is none), beside it a descriptor of bpffs if there is one. Without an order
nothing is attached. The answer is one message: JSON with the SCM_RIGHTS descriptors in the order of
``names``; or JSON ``{"error": …, "kind": …}``. Compiling begins before the order has come: the
agent has its own start to see to meanwhile.
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

from bpf import cache, pins, programs, source, syscalls
from bpf.btf import Btf
from bpf.cache import CacheError, Probes
from bpf.errors import BpfError, LoadError, PinsError, UnsupportedKernel

TRACEFS = Path("/sys/kernel/tracing")
_CLONE_NEWNS = 0x00020000
_MS_PRIVATE_REC = (1 << 18) | (1 << 14)
_ORDER_MAX_BYTES = 65_536


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


def check_machine() -> None:
    """Raise `UnsupportedKernel` with the first thing this machine lacks."""
    if platform.machine() != "x86_64":
        raise UnsupportedKernel(f"the probes are for x86_64; this machine is {platform.machine()}")
    mount_tracefs()
    for name in source.ATTACHMENTS:
        if not (TRACEFS / "events" / name).is_dir():
            raise UnsupportedKernel(
                f"this kernel has no tracepoint {name}; "
                "it needs CONFIG_FTRACE_SYSCALLS=y (syscalls) and CONFIG_TRACEPOINTS=y (sched)"
            )


def load_probes() -> Probes:
    """Load all probes, as the last start has compiled them or afresh. Nothing is attached.

    Raises:
        UnsupportedKernel: the kernel lacks something; named.
        LoadError: the compiler or the verifier refused.
    """
    check_machine()
    try:
        name = cache.key(cpu_count=possible_cpus())
        return cache.load(name)
    except OSError:  # no types: compiling says what that means
        return compile_probes()[0]
    except CacheError:
        probes, code = compile_probes()
        with contextlib.suppress(OSError, CacheError):  # the next start takes longer, that is all
            cache.save(name, probes.maps, code)
        return probes


def compile_probes() -> tuple[Probes, dict[str, bytes]]:
    """Compile and verify all probes; they, and the instructions of each.

    Raises:
        UnsupportedKernel: the kernel lacks something; named.
        LoadError: the compiler or the verifier refused.
    """
    btf = Btf.of_kernel()
    offsets, cast = btf.offsets(source.FIELDS), programs.find_cast(btf)
    os.environ["BCC_KERNEL_SOURCE"] = str(source.BPF_FOLDER)
    from bcc import BPF  # noqa: PLC0415 - dear to import, and of use only once the machine is fit

    class Program(BPF):  # type: ignore[misc] # bcc has no types
        def _trace_autoload(self) -> None:
            """Not load and attach: what bcc attaches cannot be pinned."""

    flags = source.compiler_flags(offsets, cpu_count=possible_cpus())
    if cast is not None:
        flags += [f"-DCAST_TYPE={cast.struct}U", f"-DCAST_CALL={programs.CAST_CALL}"]
    try:
        program = Program(text=source.program_text(), cflags=flags)
        maps = _maps_of(program)
        code = {
            name: programs.with_rings(programs.with_cast(each, cast), maps)
            for name, each in _code_of(program).items()
        }
        functions = programs.load_all(code)
    except Exception as error:  # bcc raises bare Exception for everything
        raise LoadError(f"the probes could not be loaded: {error}") from error
    return Probes(maps, functions, program), code


def _maps_of(program: Any) -> dict[str, int]:
    """Every map of a bcc program, those for the probes' own use too."""
    from bcc.libbcc import lib  # noqa: PLC0415 - as bcc itself

    module = ctypes.c_void_p(program.module)
    lib.bpf_table_name.restype = ctypes.c_char_p  # bcc's Python does not call it
    numbers = map(ctypes.c_size_t, range(lib.bpf_num_tables(module)))
    return {
        lib.bpf_table_name(module, number).decode(): lib.bpf_table_fd_id(module, number)
        for number in numbers
    }


def _code_of(program: Any) -> dict[str, bytes]:
    """The instructions of the probes' functions, with descriptors where they refer to maps."""
    from bcc.libbcc import lib  # noqa: PLC0415 - as bcc itself

    module = program.module
    return {
        name: ctypes.string_at(
            lib.bpf_function_start(module, name.encode()),
            lib.bpf_function_size(module, name.encode()),
        )
        for name in set(source.ATTACHMENTS.values())
    }


def attach(probes: Probes) -> dict[str, int]:
    """Attach every program to its tracepoints; all descriptors the agent holds, by name.

    Raises:
        LoadError: a tracepoint cannot be attached to.
    """
    held = {name: probes.maps[name] for name in source.MAPS}
    for tracepoint, function in source.ATTACHMENTS.items():
        descriptor = probes.functions[function]
        try:
            if source.is_raw(function):
                link = syscalls.open_raw_tracepoint(tracepoint.split("/")[1], descriptor)
            else:
                number = int((TRACEFS / "events" / tracepoint / "id").read_text())
                link = syscalls.link_tracepoint(number, descriptor)
        except OSError as error:
            raise LoadError(
                f"{tracepoint} cannot be attached to: {error.strerror}; "
                "that needs kernel 5.15 or later"
            ) from error
        held[source.link_name(tracepoint)] = link
    return held


Answer = tuple[dict[str, Any], dict[str, int]]
"""The message and the descriptors that go with it, by name."""


def fulfil(order: dict[str, Any], bpffs: int | None, probes: Probes | None) -> Answer:
    """Take up or load the probes, and see to their pins.

    Args:
        order: the agent's.
        bpffs: descriptor of its root; None where there is none.
        probes: loaded already, or None.

    Raises:
        BpfError: as it says; the agent removes what may be pinned then.
    """
    digest = source.digest(order["version"], cpu_count=possible_cpus())
    message: dict[str, Any] = {"cpus": possible_cpus(), "load_id": os.urandom(8).hex()}
    folder, why = None, order["no_bpffs"]
    if bpffs is not None:
        message["bpffs"] = pins.close_to_others(bpffs)
        try:
            folder = pins.Folder(bpffs, order["agent_id"])
            message["others"] = folder.others(order["owner"][0])
        except OSError as error:
            folder, why = None, str(error)
    if folder is None:
        message.update(gap="no bpffs", detail=why)
        return message, attach(probes or load_probes())
    try:
        held, message["load_id"] = folder.take_up(digest)
    except PinsError as error:
        message.update(gap=error.reason, detail=error.detail)
    else:
        folder.give_to(*order["owner"])
        return message, {**held, pins.FOLDER: folder.descriptor}
    held = attach(probes or load_probes())
    try:
        folder.fill(held, digest=digest, load_id=message["load_id"])
    except OSError as error:
        message["detail"] += f"; not pinned: {error}"
        with contextlib.suppress(OSError):
            pins.remove(folder.descriptor)
        return message, held
    folder.give_to(*order["owner"])
    return message, {**held, pins.FOLDER: folder.descriptor}


def _receive_order(channel: socket.socket) -> tuple[dict[str, Any] | None, int | None]:
    raw, descriptors, _, _ = socket.recv_fds(channel, _ORDER_MAX_BYTES, 1)
    return (json.loads(raw) if raw else None), (descriptors[0] if descriptors else None)


def main() -> None:
    """Compile, wait for the order, fulfil it, exit."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    probes, failure = None, None
    try:
        if not pins.any_left():
            probes = load_probes()
    except BpfError as error:
        failure = error
    order, bpffs = _receive_order(channel)
    if order is None:  # the agent has changed its mind
        os._exit(0)
    try:
        if failure is not None:
            raise failure
        message, held = fulfil(order, bpffs, probes)
    except BpfError as error:
        answer = {"error": str(error), "kind": type(error).__name__}
        channel.sendall(json.dumps(answer).encode())
        os._exit(1)
    raw = json.dumps({**message, "names": list(held)}).encode()
    with contextlib.suppress(BrokenPipeError):  # the agent has crashed: the next one finds the pins
        socket.send_fds(channel, [raw], list(held.values()))
    # Not sys.exit: bcc has a clean-up of its own.
    os._exit(0)


if __name__ == "__main__":
    main()
