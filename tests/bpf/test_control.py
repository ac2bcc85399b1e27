import os
import re
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpf.control import Control, Counters, name_filter, name_hash
from bpf.records import COUNTER_STRIDE_BYTES, COUNTERS, IGNORED_SLOTS, NAME_WORDS, PROBES

U64 = 2**64 - 1
COMMON = Path(__file__).parents[2] / "bpf" / "probes" / "common.h"
C_TYPES = {"u32": ("I", 4), "u64": ("Q", 8)}
names = st.binary(max_size=255) | st.binary(min_size=29, max_size=34)


def fields_of_control() -> dict[str, tuple[int, int, str]]:
    """(offset, items, code) of each member of struct control, from its C text."""
    body = re.search(r"struct control \{(.*?)\};", COMMON.read_text(), re.DOTALL)
    assert body
    fields, offset = {}, 0
    lengths = {"NAME_WORDS": NAME_WORDS, "IGNORED_SLOTS": IGNORED_SLOTS, "": 1}
    for kind, name, count in re.findall(
        r"^\s*(u32|u64) (\w+)(?:\[(\w+)\])?;", body[1], re.MULTILINE
    ):
        code, width = C_TYPES[kind]
        assert offset % width == 0, "the compiler would leave a hole"
        fields[name] = (offset, lengths[count], code)
        offset += width * lengths[count]
    return fields


FIELDS = fields_of_control()
CONTROL_BYTES = 40 + 2 * 8 * NAME_WORDS + 8 * IGNORED_SLOTS


def a_map(size: int) -> int:
    """A descriptor of shared memory as large as the kernel maps an array of this size."""
    descriptor = os.memfd_create("map")
    os.truncate(descriptor, -(-size // 4096) * 4096)
    return descriptor


@pytest.fixture
def descriptor() -> Iterator[int]:
    opened = a_map(CONTROL_BYTES)
    yield opened
    os.close(opened)


@pytest.fixture
def control(descriptor: int) -> Iterator[Control]:
    with closing(Control(descriptor)) as mapped:
        yield mapped


def seen(descriptor: int) -> dict[str, tuple[int, ...]]:
    """Struct control as the probes see it."""
    raw = os.pread(descriptor, CONTROL_BYTES, 0)
    assert os.fstat(descriptor).st_size == -(-CONTROL_BYTES // 4096) * 4096
    return {
        name: struct.unpack_from(f"<{items}{code}", raw, offset)
        for name, (offset, items, code) in FIELDS.items()
    }


NOTHING = {name: (0,) * items for name, (_, items, _) in FIELDS.items()}


def test_the_c_struct_has_the_members_the_agent_writes() -> None:
    assert list(FIELDS) == [
        "agent_tgid",
        "opens",
        "suppress_ns",
        "name_lengths",
        "names",
        "agent_start",
        "waiting",
        "ignored",
        "read_names",
    ]
    offset, items, _ = FIELDS["read_names"]
    assert offset + 8 * items == CONTROL_BYTES


def test_the_agent_is_written_where_the_probes_look(control: Control, descriptor: int) -> None:
    control.set_agent(4_000_000, 50_000_000)
    assert seen(descriptor) == NOTHING | {"agent_tgid": (4_000_000,), "agent_start": (5,)}


def test_whether_the_agent_waits_is_written_where_the_probes_look(
    control: Control, descriptor: int
) -> None:
    control.set_waiting(True)
    assert seen(descriptor) == NOTHING | {"waiting": (1,)}
    control.set_waiting(False)
    assert seen(descriptor) == NOTHING


def test_what_an_earlier_agent_ignored_is_forgotten(control: Control, descriptor: int) -> None:
    control.set_agent(77, 0)
    before = seen(descriptor)
    for pid in (0, 9, IGNORED_SLOTS - 1, 2 * IGNORED_SLOTS):
        control.ignore(pid, 50_000_000, 1)
    control.watch_all()
    assert seen(descriptor) == before


def test_the_policy_for_opens_is_written_where_the_probes_look(
    control: Control, descriptor: int
) -> None:
    control.set_agent(77, 50_000_000)
    control.ignore(9, 50_000_000, 1)
    before = seen(descriptor)
    chosen = ["shadow", "id_rsa", "n" * 63, "n" * 200, "caf\udce9"]
    control.set_opens(chosen, opens="all", suppress_ns=2**40)
    lengths = 1 << 6 | 1 << 63 | 1 << 4
    encoded = [b"shadow", b"id_rsa", b"n" * 63, b"n" * 200, b"caf\xe9"]
    policy = {
        "opens": (1,),
        "suppress_ns": (2**40,),
        "name_lengths": (lengths,),
        "names": tuple(name_filter(encoded)),
        "read_names": tuple(name_filter(encoded)),
    }
    assert seen(descriptor) == before | policy


def test_of_guarded_names_reads_are_not_wanted(control: Control, descriptor: int) -> None:
    control.set_opens(["shadow"], guarded=["passwd", "n" * 99], opens="sensitive", suppress_ns=0)
    policy = {
        "name_lengths": (1 << 6 | 1 << 63,),
        "names": tuple(name_filter([b"shadow", b"passwd", b"n" * 99])),
        "read_names": tuple(name_filter([b"shadow"])),
    }
    assert seen(descriptor) == NOTHING | policy


def test_a_new_policy_leaves_nothing_of_the_old(control: Control, descriptor: int) -> None:
    control.set_opens(["shadow", "n" * 99], opens="all", suppress_ns=5)
    control.set_opens(["passwd"], opens="sensitive", suppress_ns=0)
    names = tuple(name_filter([b"passwd"]))
    policy = {"name_lengths": (1 << 6,), "names": names, "read_names": names}
    assert seen(descriptor) == NOTHING | policy
    control.set_opens([], opens="sensitive", suppress_ns=0)
    assert seen(descriptor) == NOTHING


def test_while_the_policy_changes_a_candidate_of_either_stays_one(
    control: Control, descriptor: int
) -> None:
    """Look at the map after every store that `set_opens` makes."""

    class Watched:
        def __init__(self, words: memoryview) -> None:
            self.words = words

        def __getitem__(self, index: int) -> int:
            return int(self.words[index])

        def __setitem__(self, index: int, value: int) -> None:
            self.words[index] = value
            filters.append(seen(descriptor))

        def release(self) -> None:
            self.words.release()

    filters: list[dict[str, tuple[int, ...]]] = []
    control.set_opens(["shadow", "both"], opens="sensitive", suppress_ns=0)
    control._words = Watched(control._words)  # type: ignore[assignment] # looks on at each store
    control._halves = Watched(control._halves)  # type: ignore[assignment] # same
    control.set_opens(["id_ed25519", "both"], opens="sensitive", suppress_ns=0)
    assert len(filters) > 2 * NAME_WORDS
    passed = [
        {name for name in (b"shadow", b"both", b"id_ed25519") if is_listed(moment, name)}
        for moment in filters
    ]
    assert all(b"both" in names for names in passed)
    assert all(b"shadow" in names or b"id_ed25519" in names for names in passed)
    assert passed[-1] == {b"both", b"id_ed25519"}


@given(pid=st.integers(1, 2**22 - 1), start_ns=st.integers(0, 2**62), exec_id=st.integers(0, 9))
def test_an_ignored_program_is_found_by_the_probes_and_no_other(
    pid: int, start_ns: int, exec_id: int
) -> None:
    descriptor = a_map(CONTROL_BYTES)
    try:
        with closing(Control(descriptor)) as control:
            control.ignore(pid, start_ns, exec_id)
        ignored = seen(descriptor)["ignored"]
    finally:
        os.close(descriptor)
    # is_ignored of common.h: the start is rounded down to a tick.
    expected = [0] * 1024
    process = (start_ns // 10_000_000) << 22 | pid
    expected[pid & 1023] = (process ^ exec_id * 0x9E3779B97F4A7C15) & U64
    assert list(ignored) == expected


def test_a_later_process_takes_the_slot_of_an_earlier_one(
    control: Control, descriptor: int
) -> None:
    control.ignore(5, 20_000_000, 0)
    control.ignore(5 + 1024, 30_000_000, 0)
    assert [word for word in seen(descriptor)["ignored"] if word] == [3 << 22 | 1029]


def c_name_hash(first: int, length: int) -> int:
    """``name_hash`` of common.h, line by line."""
    if length < 8:
        first &= (1 << (length * 8)) - 1
    if length > 31:
        first = 0
    return ((first ^ (length << 56)) * 0x9E3779B97F4A7C15) & U64


def is_listed(
    control: dict[str, tuple[int, ...]], name: bytes, behind: bytes = b"\xee" * 8
) -> bool:
    """``is_listed`` of common.h; behind a short name lie bytes of whatever was there."""
    first, length = struct.unpack("<Q", (name + behind)[:8])[0], len(name)
    (lengths,) = control["name_lengths"]
    if not lengths >> min(length, 63) & 1:
        return False
    value = c_name_hash(first, length)
    a, b = value >> 52, value >> 40 & 4095
    words = control["names"]
    return bool(words[a >> 6] >> (a & 63) & 1 and words[b >> 6] >> (b & 63) & 1)


@given(name=names, behind=st.binary(min_size=8, max_size=8))
def test_the_hash_is_the_one_the_probes_compute(name: bytes, behind: bytes) -> None:
    (first,) = struct.unpack("<Q", (name + behind)[:8])
    assert name_hash(name) == c_name_hash(first, len(name))


def test_the_hash_has_the_values_it_always_had() -> None:
    assert name_hash(b"") == 0
    assert name_hash(b"n" * 32) == name_hash(b"m" * 32) != name_hash(b"n" * 33)
    assert name_hash(b"n" * 31) != name_hash(b"m" * 31)
    assert name_hash(b"12345678a") == name_hash(b"12345678b")


@given(chosen=st.lists(names, max_size=40), behind=st.binary(min_size=8, max_size=8))
def test_a_listed_name_always_passes(chosen: list[bytes], behind: bytes) -> None:
    descriptor = a_map(CONTROL_BYTES)
    try:
        with closing(Control(descriptor)) as control:
            texts = [os.fsdecode(name) for name in chosen]
            control.set_opens(texts, opens="sensitive", suppress_ns=0)
        policy = seen(descriptor)
    finally:
        os.close(descriptor)
    assert all(is_listed(policy, name, behind) for name in chosen)


def test_few_other_names_pass() -> None:
    sensitive = [b"shadow", b"sudoers", b"id_rsa", b".ssh", b"credentials", b"authorized_keys"]
    lengths = sum(1 << length for length in {len(name) for name in sensitive})
    policy = {"name_lengths": (lengths,), "names": tuple(name_filter(sensitive))}
    others = [b"%06d" % number for number in range(20_000)]
    assert sum(is_listed(policy, name) for name in others) < 20


@pytest.mark.parametrize("cpus", [1, 2, 7, 64])
def test_counters_are_summed_over_cpus(cpus: int) -> None:
    stride = COUNTER_STRIDE_BYTES // 8
    words = [0] * (cpus * len(PROBES) * stride)
    for cpu in range(cpus):
        for probe in range(len(PROBES)):
            at = (cpu * len(PROBES) + probe) * stride
            words[at : at + stride] = [10**9, *(10 * probe + n for n in range(1, 6)), 7, 7]
    descriptor = a_map(8 * len(words))
    try:
        os.pwrite(descriptor, struct.pack(f"<{len(words)}Q", *words), 0)
        with closing(Counters(descriptor, cpus)) as counters:
            expected = {
                probe: dict(
                    zip(
                        COUNTERS,
                        [cpus * 10**9, *(cpus * (10 * at + n) for n in range(1, 6))],
                        strict=True,
                    )
                )
                for at, probe in enumerate(PROBES)
            }
            assert counters.read() == expected
            os.pwrite(descriptor, struct.pack("<Q", 10**9 + 5), 0)
            assert counters.read()["fork"]["seen"] == cpus * 10**9 + 5
    finally:
        os.close(descriptor)
