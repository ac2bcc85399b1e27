"""Memory shared with the probes: policy written by the agent, counters written by the kernel.

Both are BPF arrays mapped into the agent (``BPF_F_MMAPABLE``), so neither needs a system call or a
capability once mapped. The layouts are ``struct control`` and ``struct counters`` of
``bpf/probes/common.h`` and `bpf.records`.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

from bpf.records import (
    COUNTER_STRIDE_BYTES,
    COUNTERS,
    IGNORED_SLOTS,
    NAME_WORDS,
    PROBES,
    TICK_NS,
)

_CONTROL = struct.Struct(f"<IIQQ{NAME_WORDS}QQQ{IGNORED_SLOTS}Q{NAME_WORDS}Q")
_AGENT_AT, _OPENS_AT, _SUPPRESS_AT, _LENGTHS_AT, _NAMES_AT = 0, 4, 8, 16, 24
_AGENT_START_AT = _NAMES_AT + 8 * NAME_WORDS
_WAITING_AT = _AGENT_START_AT + 8
_IGNORED_AT = _WAITING_AT + 8
_READ_NAMES_AT = _IGNORED_AT + 8 * IGNORED_SLOTS
Opens: TypeAlias = Literal["sensitive", "written", "all"]
"""Candidates; those and whatever is opened to be written or created; every open."""
_OPENS: Mapping[Opens, int] = {"sensitive": 0, "all": 1, "written": 2}

_HASH_FACTOR = 0x9E3779B97F4A7C15
_U64 = (1 << 64) - 1
_INLINE_NAME_MAX = 31


def _pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def name_hash(name: bytes) -> int:
    """Hash of one path component; the twin of ``name_hash`` in ``bpf/probes/common.h``."""
    first = int.from_bytes(name[:8], "little") if len(name) <= _INLINE_NAME_MAX else 0
    return ((first ^ (len(name) << 56 & _U64)) * _HASH_FACTOR) & _U64


def name_filter(names: Iterable[bytes]) -> list[int]:
    """The Bloom filter over component names, as 64-bit words."""
    words = [0] * NAME_WORDS
    for name in names:
        value = name_hash(name)
        for bit in (value >> 52, value >> 40 & 4095):
            words[bit >> 6] |= 1 << (bit & 63)
    return words


class Control:
    """The probes' policy; every change takes effect with the next event.

    Args:
        descriptor: of the CONTROL map.
    """

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, _pages(_CONTROL.size), mmap.MAP_SHARED)
        # Each item is stored whole. struct.pack_into zeroes what it is about to write and then
        # writes byte by byte: the probes would see policies that nobody made.
        self._halves = memoryview(self._memory).cast("I")
        self._words = memoryview(self._memory).cast("Q")

    def set_agent(self, pid: int, start_ns: int) -> None:
        """Filter the agent's own events, so that watching causes nothing to watch."""
        self._words[_AGENT_START_AT // 8] = start_ns // TICK_NS
        self._halves[_AGENT_AT // 4] = pid

    def set_waiting(self, waiting: bool) -> None:  # noqa: FBT001 - hot: twice a sweep
        """Say whether executions and connections must wake the agent."""
        self._words[_WAITING_AT // 8] = waiting

    def set_opens(
        self,
        names: Iterable[str],
        *,
        opens: Opens,
        suppress_ns: int,
        guarded: Iterable[str] = (),
    ) -> None:
        """Choose which opens are delivered.

        While the policy changes, a candidate under the old or the new one is a candidate.

        Args:
            names: components of sensitive paths; an open is a candidate if its path has one.
            opens: deliver those.
            suppress_ns: how long the same open by the same process is suppressed; 0 for never.
            guarded: components of paths of which an open to write or create is a candidate.
        """
        read = [name.encode("utf-8", "surrogateescape") for name in names]
        listed = [*read, *(name.encode("utf-8", "surrogateescape") for name in guarded)]
        lengths = 0
        for name in listed:
            lengths |= 1 << min(len(name), 63)
        wanted = [
            *enumerate((lengths, *name_filter(listed)), _LENGTHS_AT // 8),
            *enumerate(name_filter(read), _READ_NAMES_AT // 8),
        ]
        for index, word in wanted:
            self._words[index] |= word
        self._halves[_OPENS_AT // 4] = _OPENS[opens]
        self._words[_SUPPRESS_AT // 8] = suppress_ns
        for index, word in wanted:
            self._words[index] = word

    def ignore(self, pid: int, start_ns: int, exec_id: int) -> None:
        """Filter the opens and connects of a process until it runs another program.

        A later process that falls on the same slot takes its place: then the earlier one is
        watched again, which costs events and hides nothing.

        Args:
            pid: of the process.
            start_ns: its start time.
            exec_id: the kernel's number of the program within it, from the record of its exec.
        """
        key = ((start_ns // TICK_NS) << 22 | pid) ^ (exec_id * _HASH_FACTOR)
        self._words[_IGNORED_AT // 8 + pid % IGNORED_SLOTS] = key & _U64

    def watch_all(self) -> None:
        """Forget what was ignored: an earlier agent's choice is not this one's."""
        for index in range(_IGNORED_AT // 8, _IGNORED_AT // 8 + IGNORED_SLOTS):
            self._words[index] = 0

    def close(self) -> None:
        """Unmap."""
        self._halves.release()
        self._words.release()
        self._memory.close()


class Counters:
    """The probes' counters, summed over CPUs.

    Args:
        descriptor: of the COUNTERS map.
        cpus: possible CPUs of this kernel, as the loader counted them.
    """

    def __init__(self, descriptor: int, cpus: int) -> None:
        self._cpus = cpus
        size = _pages(cpus * len(PROBES) * COUNTER_STRIDE_BYTES)
        self._memory = mmap.mmap(descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ)
        self._words = memoryview(self._memory).cast("Q")

    def read(self) -> dict[str, dict[str, int]]:
        """``{probe: {counter: events}}``; not one instant's picture while events flow."""
        words, stride = self._words, COUNTER_STRIDE_BYTES // 8
        return {
            probe: {
                counter: sum(
                    words[(cpu * len(PROBES) + index) * stride + field] for cpu in range(self._cpus)
                )
                for field, counter in enumerate(COUNTERS)
            }
            for index, probe in enumerate(PROBES)
        }

    def close(self) -> None:
        """Unmap."""
        self._words.release()
        self._memory.close()
