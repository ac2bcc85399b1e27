import ipaddress
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bpf import decode
from bpf.errors import RecordError
from bpf.records import (
    ARGS_MAX_BYTES,
    BUSY_BIT,
    CONNECT,
    DISCARD_BIT,
    EXEC,
    EXIT,
    FLOOD,
    FORK,
    LISTEN,
    MARK_CANDIDATE,
    MARK_RESOLVED,
    OPEN,
    OPEN_SLOT_BYTES,
    PROBES,
    Layout,
)
from tests.bpf.ring_bytes import fixed, framed, open_payload, record, sockaddr_un

Item = tuple[bytes, Any]
"""A record without its header, and the event it should become."""

U16, U32, S32, U64 = (
    st.integers(low, high)
    for low, high in ((0, 2**16 - 1), (0, 2**32 - 1), (-(2**31), 2**31 - 1), (0, 2**64 - 1))
)


def without(forbidden: bytes, *, min_size: int = 0, max_size: int = 40) -> st.SearchStrategy[bytes]:
    """Bytes, often no UTF-8."""
    plain = st.sampled_from([b"etc", b"a b\n", b"caf\xc3\xa9", b"\xff\xfe", b"\xed\xa0\x80"])
    wild = st.binary(min_size=min_size, max_size=max_size)
    return (plain | wild).map(lambda raw: raw.translate(None, forbidden) or b"x" * min_size)


def shown(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


comms = without(b"\0", max_size=15)
names = without(b"\0", max_size=300)
arguments = st.lists(names, max_size=20)
folders = st.lists(without(b"\0/", min_size=1, max_size=255), max_size=8)


def leaf_first(components: list[bytes]) -> bytes:
    return b"".join(name + b"\0" for name in reversed(components))


def path_of(components: list[bytes]) -> str:
    return "/" + "/".join(map(shown, components))


def an_event(*values: Any) -> tuple[Any, ...]:
    return values


@st.composite
def forks(draw: st.DrawFn) -> Item:
    time, start, parent_start, pid, ppid, uid = (draw(s) for s in (U64, U64, U64, U32, U32, U32))
    comm = draw(comms)
    payload = fixed(
        FORK,
        time_ns=time,
        start_ns=start,
        parent_start_ns=parent_start,
        pid=pid,
        ppid=ppid,
        uid=uid,
        comm=comm,
    )
    return payload, (time, pid, start, ppid, parent_start, uid, shown(comm))


@st.composite
def exits(draw: st.DrawFn) -> Item:
    time, start, pid = draw(U64), draw(U64), draw(U32)
    code, signal, dumped = draw(st.integers(0, 255)), draw(st.integers(0, 127)), draw(st.booleans())
    status = code << 8 | dumped << 7 | signal
    payload = fixed(EXIT, time_ns=time, start_ns=start, pid=pid, status=status)
    return payload, (time, pid, start, code, signal)


@st.composite
def floods(draw: st.DrawFn) -> Item:
    time, start, pid, uid, comm = draw(U64), draw(U64), draw(U32), draw(U32), draw(comms)
    throttled, lost, span = draw(U64), draw(U64), draw(U64)
    probe, failed = draw(st.integers(0, 20)), draw(st.booleans())
    payload = fixed(
        FLOOD,
        time_ns=time,
        start_ns=start,
        pid=pid,
        uid=uid,
        throttled=throttled,
        lost=lost,
        span_ns=span,
        probe=probe,
        failed=failed,
        comm=comm,
    )
    name = PROBES[probe] if probe < len(PROBES) else str(probe)
    return payload, (time, pid, start, uid, shown(comm), name, failed, throttled, lost, span)


@st.composite
def listens(draw: st.DrawFn) -> Item:
    time, start, pid, uid, port = (draw(s) for s in (U64, U64, U32, U32, U16))
    comm, family = draw(comms), draw(st.sampled_from([2, 10]))
    address = draw(st.binary(min_size=16, max_size=16))
    payload = fixed(
        LISTEN,
        time_ns=time,
        start_ns=start,
        pid=pid,
        uid=uid,
        family=family,
        port=port,
        address=address,
        comm=comm,
        socket=start >> 1,
    )
    where = address[:4] if family == socket.AF_INET else address
    return payload, (time, pid, start, uid, shown(comm), family, where, port, start >> 1)


@st.composite
def opens(draw: st.DrawFn) -> Item:
    time, start, pid, uid, flags, error = (draw(s) for s in (U64, U64, U32, U32, U32, S32))
    comm, resolved, other_marks = draw(comms), draw(st.booleans()), draw(U16)
    if resolved:
        components = draw(folders)
        raw, name = leaf_first(components), path_of(components)
    else:
        text = draw(names)
        raw, name = text + b"\0", shown(text)
    payload = open_payload(
        raw,
        time_ns=time,
        start_ns=start,
        pid=pid,
        uid=uid,
        flags=flags,
        error=error,
        comm=comm,
        marks=other_marks & ~MARK_RESOLVED | MARK_RESOLVED * resolved,
    )
    return payload, (time, pid, start, uid, shown(comm), name, resolved, flags, error)


@st.composite
def connects(draw: st.DrawFn) -> Item:
    time, start, pid, uid, port, error = (draw(s) for s in (U64, U64, U32, U32, U16, S32))
    comm, family = draw(comms), draw(st.sampled_from([1, 2, 10]))
    address, name = (
        draw(st.binary(min_size=16, max_size=16)),
        draw(without(b"\0", min_size=1, max_size=107)),
    )
    payload = fixed(
        CONNECT,
        time_ns=time,
        start_ns=start,
        pid=pid,
        uid=uid,
        family=family,
        port=port,
        error=error,
        address=address,
        comm=comm,
        socket=start >> 1,
        path_bytes=110 if family == socket.AF_UNIX else 0,
    )
    if family == socket.AF_UNIX:
        payload += sockaddr_un(name)
        where: tuple[Any, ...] = (b"", 0, shown(name))
    else:
        where = (address[:4] if family == socket.AF_INET else address, port, "")
    own = (time, pid, start, uid, shown(comm), family, *where, error)
    return payload, (*own, "", start >> 1)


def a_connect(*values: Any) -> tuple[Any, ...]:
    """The address as bytes: it has several texts, and which one is chosen is tested below."""
    where = values[6]
    return (*values[:6], ipaddress.ip_address(where).packed if where else b"", *values[7:])


@st.composite
def execs(draw: st.DrawFn) -> Item:
    words = {"u64": U64, "u32": U32, "s32": S32, "char16": st.just(b"a program\0\0\0\0\0\0\0")}
    values = {name: draw(words[kind]) for name, kind in EXEC.fields if kind != "u16"}
    filename, exe, cwd, args = draw(names), draw(folders), draw(folders), draw(arguments)
    parts = {
        "filename_bytes": filename + b"\0",
        "exe_bytes": leaf_first(exe),
        "cwd_bytes": leaf_first(cwd),
        "args_bytes": b"".join(arg + b"\0" for arg in args),
    }
    values["args_total"] = len(parts["args_bytes"])
    values |= {name: len(raw) for name, raw in parts.items()}
    ordered = tuple(values[name] for name, _ in EXEC.fields)
    event = (
        ordered,
        shown(filename),
        path_of(exe) if exe else "",
        path_of(cwd),
        tuple(map(shown, args)),
        False,
    )
    return fixed(EXEC, **values) + b"".join(parts.values()), event


@dataclass(frozen=True)
class Kind:
    layout: Layout
    items: st.SearchStrategy[Item]
    decoder: Callable[[memoryview, Callable[..., Any]], tuple[list[Any], int]]
    make: Callable[..., Any] = an_event

    def decode(self, raw: bytes) -> tuple[list[Any], int]:
        return self.decoder(memoryview(raw), self.make)


KINDS = (
    Kind(FORK, forks(), decode.decode_forks),
    Kind(EXIT, exits(), decode.decode_exits),
    Kind(OPEN, opens(), decode.decode_opens),
    Kind(CONNECT, connects(), decode.decode_connects, a_connect),
    Kind(LISTEN, listens(), decode.decode_listens, a_connect),
    Kind(FLOOD, floods(), decode.decode_floods),
    Kind(EXEC, execs(), decode.decode_execs),
)
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.layout.name)
# Drawing a stream takes 10 ms, and many times that on a machine with other work.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def streams(draw: st.DrawFn, kind: Kind) -> list[tuple[bytes, list[Any]]]:
    """Records as they lie in the ring, each with its events: none if it was discarded."""
    drawn = draw(st.lists(st.tuples(kind.items, st.integers(0, 3)), max_size=8))
    return [
        (framed(payload, discarded=dice == 0), [event] if dice else [])
        for (payload, event), dice in drawn
    ]


def joined(stream: list[tuple[bytes, list[Any]]]) -> tuple[bytes, list[Any]]:
    return b"".join(raw for raw, _ in stream), [event for _, events in stream for event in events]


@every_kind
@patient
@given(data=st.data())
def test_what_was_packed_comes_back(kind: Kind, data: st.DataObject) -> None:
    raw, events = joined(data.draw(streams(kind)))
    assert kind.decode(raw) == (events, len(raw))


@every_kind
@patient
@given(data=st.data())
def test_decoding_stops_before_a_busy_record(kind: Kind, data: st.DataObject) -> None:
    before, after = data.draw(streams(kind)), data.draw(streams(kind))
    payload, _ = data.draw(kind.items)
    raw, events = joined(before)
    busy = framed(payload, busy=True, discarded=data.draw(st.booleans()))
    assert kind.decode(raw + busy + joined(after)[0]) == (events, len(raw))


@every_kind
@patient
@given(data=st.data())
def test_a_cut_window_gives_the_whole_records_and_the_rest_follows(
    kind: Kind, data: st.DataObject
) -> None:
    stream = data.draw(streams(kind))
    raw, events = joined(stream)
    cut = data.draw(st.integers(0, len(raw)))
    first, consumed = kind.decode(raw[:cut])
    ends = [0, *accumulate(len(one) for one, _ in stream)]
    assert consumed == max(end for end in ends if end <= cut)
    rest, rest_consumed = kind.decode(raw[consumed:])
    assert first + rest == events
    assert consumed + rest_consumed == len(raw)


def strings_in(value: Any) -> list[str]:
    if isinstance(value, tuple):
        return [text for part in value for text in strings_in(part)]
    return [value] if isinstance(value, str) else []


def is_survived(kind: Kind, raw: bytes) -> None:
    """Decode to the end, as the reader does: progress or a stop, clean text or RecordError."""
    window = memoryview(raw)
    while True:
        try:
            events, consumed = kind.decoder(window, an_event)
        except RecordError:
            return
        assert 0 <= consumed <= len(window)
        for text in strings_in(tuple(events)):
            assert "\0" not in text
            assert text.encode().decode() == text
        if not consumed:
            return
        window = window[consumed:]


headers = st.builds(
    lambda length, bits: (length | bits).to_bytes(4, "little") + b"\0\0\0\0",
    st.integers(0, 400) | st.just(OPEN_SLOT_BYTES - 8) | st.integers(0, 2**30 - 1),
    st.sampled_from([0, 0, 0, BUSY_BIT, DISCARD_BIT, BUSY_BIT | DISCARD_BIT]),
)


@every_kind
@patient
@given(raw=st.binary(max_size=700) | st.lists(headers | st.binary(max_size=300)).map(b"".join))
def test_arbitrary_bytes_raise_nothing_but_record_errors(kind: Kind, raw: bytes) -> None:
    is_survived(kind, raw)


@every_kind
@patient
@given(data=st.data())
def test_arbitrary_payloads_of_a_plausible_length_raise_nothing_else(
    kind: Kind, data: st.DataObject
) -> None:
    seeds = data.draw(st.lists(st.tuples(st.integers(0, 80), U32), max_size=5))
    sizes = [kind.layout.size + 8 * extra for extra, _ in seeds]
    if kind.layout is OPEN:
        sizes = [OPEN_SLOT_BYTES * (1 + extra % 4) - 8 for extra, _ in seeds]
    payloads = [
        random.Random(seed).randbytes(size) for size, (_, seed) in zip(sizes, seeds, strict=True)
    ]
    is_survived(kind, b"".join(map(framed, payloads)))


@every_kind
@patient
@given(data=st.data())
def test_records_with_some_bytes_overwritten_raise_nothing_else(
    kind: Kind, data: st.DataObject
) -> None:
    raw = bytearray(joined(data.draw(streams(kind)))[0])
    for where, byte in data.draw(st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)))):
        if raw:
            raw[where % len(raw)] = byte
    is_survived(kind, bytes(raw))


@pytest.mark.parametrize("kind", [k for k in KINDS if k.layout is not OPEN], ids=lambda k: k.layout)
@given(length=st.integers(1, 111))
def test_a_record_shorter_than_its_fixed_part_is_named(kind: Kind, length: int) -> None:
    length = min(length, kind.layout.size - 1)
    expected = f"{kind.layout.name} record of {length} bytes; expected {kind.layout.size} or more"
    with pytest.raises(RecordError, match=expected):
        kind.decode(framed(bytes(length)))


OPENS, EXECS = KINDS[2], KINDS[-1]


def opened(raw: bytes) -> list[str]:
    events, consumed = OPENS.decode(raw)
    assert consumed == len(raw)
    return [event[5] for event in events]


@pytest.mark.parametrize(("path_bytes", "slots"), [(63, 1), (64, 1), (65, 2), (192, 2), (193, 3)])
def test_an_open_takes_the_slots_its_path_needs(path_bytes: int, slots: int) -> None:
    name = b"n" * (path_bytes - 1)
    raw = framed(open_payload(name + b"\0"))
    assert len(raw) == slots * OPEN_SLOT_BYTES
    assert opened(raw * 3) == [name.decode()] * 3


@pytest.mark.parametrize("resolved", [True, False])
def test_the_longest_path_comes_back(*, resolved: bool) -> None:
    components = [b"d" * 255] * 16
    raw = leaf_first(components) if resolved else b"/".join(components) + b"\0"
    path = open_payload(raw, marks=MARK_RESOLVED * resolved)
    assert opened(framed(path)) == ["/" * resolved + "/".join(["d" * 255] * 16)]


@pytest.mark.parametrize("between", [b"", framed(open_payload(b"d\0"), discarded=True)])
@pytest.mark.parametrize("length", [5, 65, 1000])
def test_marks_other_than_resolved_do_not_change_the_path(length: int, between: bytes) -> None:
    raw = framed(open_payload(b"p" * length + b"\0", marks=0xFFFF & ~MARK_RESOLVED))
    assert opened(raw + between + raw) == ["p" * length] * 2


def test_an_open_outside_whole_slots_is_an_error() -> None:
    with pytest.raises(RecordError, match="open record of 100 bytes; expected whole slots"):
        OPENS.decode(framed(bytes(100)).ljust(OPEN_SLOT_BYTES, b"\0"))


@pytest.mark.parametrize(("length", "claim"), [(120, 65), (248, 193), (248, 0xFFFF)])
def test_an_open_that_claims_more_path_than_it_has_is_an_error(length: int, claim: int) -> None:
    payload = fixed(OPEN, path_bytes=claim).ljust(length, b"p")
    with pytest.raises(
        RecordError, match=f"open record of {length} bytes claims a path of {claim}"
    ):
        OPENS.decode(framed(payload))


@pytest.mark.parametrize("field", ["filename_bytes", "exe_bytes", "cwd_bytes", "args_bytes"])
def test_an_exec_that_claims_more_text_than_it_has_is_an_error(field: str) -> None:
    assert EXECS.decode(record(EXEC, b"12345678", **{field: 8}))[1]
    with pytest.raises(RecordError, match="claims more text than it has"):
        EXECS.decode(record(EXEC, b"12345678", **{field: 9}))


def test_an_exec_without_texts_has_no_executable_and_sits_in_the_root() -> None:
    ((_, filename, exe, cwd, args, cut),), _ = EXECS.decode(record(EXEC))
    assert (filename, exe, cwd, args, cut) == ("", "", "/", (), False)


def ran(args: bytes, total: int | None = None) -> tuple[tuple[str, ...], bool]:
    raw = record(EXEC, args, args_bytes=len(args), args_total=len(args) if total is None else total)
    ((*_, given_args, cut),), _ = EXECS.decode(raw)
    return given_args, cut


def test_a_hundred_thousand_arguments_are_cut_and_said_to_be() -> None:
    area = b"".join(b"%d\0" % number for number in range(100_000))
    args, cut = ran(area[:ARGS_MAX_BYTES], len(area))
    assert cut
    assert args == tuple(map(str, range(256)))


@pytest.mark.parametrize(("count", "cut"), [(255, False), (256, False), (257, True)])
def test_256_arguments_are_kept(count: int, *, cut: bool) -> None:
    args = tuple(f"-{number}" for number in range(count))
    assert ran("".join(f"{arg}\0" for arg in args).encode()) == (args[:256], cut)


def test_a_long_argument_keeps_its_beginning() -> None:
    assert ran(b"sh\0-c\0" + b"x" * 8186, 50_000) == (("sh", "-c", "x" * 8186), True)


def test_a_character_cut_in_half_is_escaped() -> None:
    assert ran(b"echo\0caf\xc3", 11) == (("echo", "caf\\xc3"), True)


@pytest.mark.parametrize(
    ("area", "args"),
    [
        (b"\0", ("",)),
        (b"\0\0", ("", "")),
        (b"sh\0\0x\0", ("sh", "", "x")),
        (b"sh\0\0", ("sh", "")),
        (b"-c\0a\nb\r\0", ("-c", "a\nb\r")),
        (b"unended", ("unended",)),
        (b"\xff\xc3\xa9\0", ("\\xffé",)),
        (b"\0" * 8192, ("",) * 256),
    ],
)
def test_empty_odd_and_multi_line_arguments_are_kept_as_they_are(
    area: bytes, args: tuple[str, ...]
) -> None:
    assert ran(area) == (args, len(area) == 8192)


def test_arguments_that_could_not_be_read_count_as_cut() -> None:
    assert ran(b"", 100) == ((), True)
    assert ran(b"", 0) == ((), False)


def test_a_flood_of_marked_candidates_decodes_in_one_go() -> None:
    raw = framed(open_payload(b"shadow\0etc\0", marks=MARK_RESOLVED | MARK_CANDIDATE)) * 2000
    assert opened(raw) == ["/etc/shadow"] * 2000
