"""Record layouts: what the probes write into the rings, defined once.

Each layout is a list of (name, C type) pairs. From it come both the C struct that the probes
fill (`c_declarations`, compiled in front of them together with static assertions) and the
``struct.Struct`` that decodes it, so the two cannot drift apart.

A record in a ring is preceded by the kernel's 8-byte header (``struct bpf_ringbuf_hdr``: u32
length with busy bit 31 and discard bit 30, u32 page offset).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

HEADER_BYTES = 8
BUSY_BIT = 1 << 31
DISCARD_BIT = 1 << 30

OPEN_SLOT_BYTES = 128
"""Open records take a whole number of slots of this size, ring header included."""
UNIX_ADDRESS_BYTES = 112
"""Bytes of a unix socket's address behind a connect record: ``struct sockaddr_un``, rounded up."""
ARGS_MAX_BYTES = 8192
PATH_MAX_BYTES = 4096

# Bits of `marks`.
MARK_CUT = 1  # a path or name did not fit and was cut
MARK_RESOLVED = 2  # the path is the kernel's (components, leaf first), not the caller's text
MARK_CANDIDATE = 4  # a component is on the sensitive list
MARK_HOST_NAMESPACE = 8  # the mount namespace belongs to the initial user namespace

# Types of a descriptor's file beside those of i_mode: an anonymous pipe, a socket of this machine
# alone (AF_UNIX), an inode without a type.
TYPE_PIPE = 3
TYPE_UNIX = 13
TYPE_NONE = 15

_C_TYPES: dict[str, tuple[str, str, int]] = {
    # our word: (C declaration with %s for the name, struct code, bytes)
    "u64": ("u64 %s", "Q", 8),
    "u32": ("u32 %s", "I", 4),
    "s32": ("s32 %s", "i", 4),
    "u16": ("u16 %s", "H", 2),
    "char16": ("char %s[16]", "16s", 16),
    "u8x16": ("u8 %s[16]", "16s", 16),
}


@dataclass(frozen=True)
class Layout:
    """The fixed part of one kind of record: C struct ``<name>_record`` and its decoder."""

    name: str
    fields: tuple[tuple[str, str], ...]

    @property
    def code(self) -> str:
        """Format of the fixed part for the ``struct`` module, without byte-order prefix."""
        return "".join(_C_TYPES[kind][1] for _, kind in self.fields)

    @property
    def size(self) -> int:
        """Bytes of the fixed part, ring header excluded."""
        return struct.calcsize("<" + self.code)

    def c_struct(self) -> str:
        """C declaration with static assertions of every offset and of the size."""
        body, checks, offset = [], [], 0
        for name, kind in self.fields:
            declaration, _, width = _C_TYPES[kind]
            body.append(f"  {declaration % name};")
            checks.append(
                f"_Static_assert(__builtin_offsetof(struct {self.name}_record, {name}) "
                f'== {offset}, "{self.name}.{name}");'
            )
            offset += width
        lines = [f"struct {self.name}_record {{", *body, "};", *checks]
        lines.append(
            f'_Static_assert(sizeof(struct {self.name}_record) == {offset}, "{self.name} size");'
        )
        return "\n".join(lines)


_PROCESS = (("time_ns", "u64"), ("start_ns", "u64"), ("pid", "u32"), ("uid", "u32"))

FORK = Layout(
    "fork",
    (*_PROCESS, ("parent_start_ns", "u64"), ("ppid", "u32"), ("marks", "u32"), ("comm", "char16")),
)
EXIT = Layout("exit", (*_PROCESS, ("status", "u32"), ("marks", "u32")))
OPEN = Layout(
    "open",
    (
        *_PROCESS,
        ("flags", "u32"),
        ("error", "s32"),
        ("path_bytes", "u16"),
        ("marks", "u16"),
        ("origin_bytes", "u32"),
        ("comm", "char16"),
    ),
)
CONNECT = Layout(
    "connect",
    (
        *_PROCESS,
        ("family", "u16"),
        ("port", "u16"),
        ("error", "s32"),
        ("address", "u8x16"),
        ("comm", "char16"),
        ("socket", "u64"),
        ("claimed_family", "u16"),
        ("claimed_port", "u16"),
        ("path_bytes", "u16"),
        ("claimed_bytes", "u16"),
        ("claimed_address", "u8x16"),
    ),
)
LISTEN = Layout(
    "listen",
    (
        *_PROCESS,
        ("family", "u16"),
        ("port", "u16"),
        ("marks", "u32"),
        ("address", "u8x16"),
        ("comm", "char16"),
        ("socket", "u64"),
    ),
)
EXEC = Layout(
    "exec",
    (
        *_PROCESS,
        ("parent_start_ns", "u64"),
        ("cgroup_id", "u64"),
        ("exe_inode", "u64"),
        ("exe_device", "u32"),
        ("exe_uid", "u32"),
        ("exe_mode", "u32"),
        ("ppid", "u32"),
        ("login_uid", "u32"),
        ("error", "s32"),
        ("args_total", "u32"),
        ("args_bytes", "u16"),
        ("filename_bytes", "u16"),
        ("exe_bytes", "u16"),
        ("cwd_bytes", "u16"),
        ("marks", "u32"),
        ("comm", "char16"),
        ("standard_input", "u64"),
        ("standard_output", "u64"),
        ("standard_error", "u64"),
        ("exec_id", "u32"),
        ("spare", "u32"),
    ),
)
FLOOD = Layout(
    "flood",
    (
        *_PROCESS,
        ("throttled", "u64"),
        ("lost", "u64"),
        ("span_ns", "u64"),
        ("probe", "u32"),
        ("failed", "u32"),
        ("comm", "char16"),
    ),
)
LAYOUTS = (FORK, EXEC, EXIT, OPEN, CONNECT, LISTEN, FLOOD)

PROBES = tuple(layout.name for layout in LAYOUTS)
"""Names of the probes in the order of their counters."""

COUNTERS = ("seen", "delivered", "filtered", "suppressed", "throttled", "lost")
"""What each probe counts; ``seen`` is the sum of the others."""
COUNTER_STRIDE_BYTES = 64
"""Bytes of one probe's counters on one CPU: a cache line."""


@dataclass(frozen=True)
class Ring:
    """One ring buffer: its map's name in C, the probe that fills it, its size."""

    map_name: str
    probe: str
    size_bytes: int


RINGS = (
    Ring("FORK_EVENTS", "fork", 1 << 20),
    Ring("EXEC_EVENTS", "exec", 1 << 21),
    Ring("EXIT_EVENTS", "exit", 1 << 19),
    Ring("OPEN_EVENTS", "open", 1 << 22),
    Ring("CONN_EVENTS", "connect", 1 << 20),
    Ring("LISTEN_EVENTS", "listen", 1 << 17),
    # What fails, and connections that need nobody at the other end (bpf/probes/floods.h).
    Ring("EXEC_MINOR", "exec", 1 << 20),
    Ring("OPEN_MINOR", "open", 1 << 20),
    Ring("CONN_MINOR", "connect", 1 << 20),
    Ring("FLOOD_EVENTS", "flood", 1 << 17),
)
RING_NUMBER = 0x7FFE_0000
"""Stands for the first ring's descriptor in the probes' source; the next ones follow on it."""

# struct control, shared memory between agent and probes (bpf/control.py writes it).
NAME_WORDS = 64
IGNORED_SLOTS = 1024
TICK_NS = 10_000_000
"""Start times are rounded down to /proc's resolution (USER_HZ), so that a process has one
identity whether the kernel or /proc tells of it."""


def c_declarations() -> str:
    """The C text that stands in front of the probes: structs, sizes and marks."""
    constants = {
        "OPEN_SLOT_BYTES": OPEN_SLOT_BYTES,
        "UNIX_ADDRESS_BYTES": UNIX_ADDRESS_BYTES,
        "ARGS_MAX_BYTES": ARGS_MAX_BYTES,
        "PATH_MAX_BYTES": PATH_MAX_BYTES,
        "HEADER_BYTES": HEADER_BYTES,
        "MARK_CUT": MARK_CUT,
        "MARK_RESOLVED": MARK_RESOLVED,
        "MARK_CANDIDATE": MARK_CANDIDATE,
        "MARK_HOST_NAMESPACE": MARK_HOST_NAMESPACE,
        "TYPE_PIPE": TYPE_PIPE,
        "TYPE_UNIX": TYPE_UNIX,
        "TYPE_NONE": TYPE_NONE,
        "NAME_WORDS": NAME_WORDS,
        "IGNORED_SLOTS": IGNORED_SLOTS,
        "TICK_NS": f"{TICK_NS}ULL",
        "PROBE_COUNT": len(PROBES),
        **{f"PROBE_{name.upper()}": index for index, name in enumerate(PROBES)},
        **{f"{ring.map_name}_PAGES": ring.size_bytes // 4096 for ring in RINGS},
        **{f"{ring.map_name}_BYTES": ring.size_bytes for ring in RINGS},
        **{f"{ring.map_name}_NUMBER": RING_NUMBER + index for index, ring in enumerate(RINGS)},
    }
    lines = [f"#define {name} {value}" for name, value in constants.items()]
    counters = " ".join(f"u64 {name};" for name in COUNTERS)
    spare = COUNTER_STRIDE_BYTES // 8 - len(COUNTERS)
    lines.append(f"struct counters {{ {counters} u64 spare[{spare}]; }};")
    lines += [layout.c_struct() for layout in LAYOUTS]
    return "\n".join(lines) + "\n"
