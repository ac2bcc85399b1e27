import os
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpf.decode import decode_opens
from bpf.records import BUSY_BIT
from bpf.ring import PAGE, Ring
from tests.bpf.ring_bytes import framed, open_payload

SIZE = 2 * PAGE


class Kernel:
    """The producer's end, played on a file: consumer page, producer page, data.

    The real map shows the data twice in a row; the reader maps it once.
    """

    def __init__(self, size: int = SIZE) -> None:
        self.size = size
        self.produced = 0
        self.descriptor = os.memfd_create("ring")
        os.truncate(self.descriptor, 2 * PAGE + size)

    def close(self) -> None:
        os.close(self.descriptor)

    @property
    def consumed(self) -> int:
        return int(struct.unpack("<Q", os.pread(self.descriptor, 8, 0))[0])

    def start_at(self, position: int) -> None:
        os.pwrite(self.descriptor, struct.pack("<Q", position), 0)
        os.pwrite(self.descriptor, struct.pack("<Q", position), PAGE)
        self.produced = position

    def poke(self, position: int, raw: bytes) -> None:
        for index, byte in enumerate(raw):
            at = 2 * PAGE + (position + index) % self.size
            os.pwrite(self.descriptor, bytes([byte]), at)

    def produce(self, raw: bytes) -> None:
        assert self.produced + len(raw) - self.consumed <= self.size
        self.poke(self.produced, raw)
        self.produced += len(raw)
        os.pwrite(self.descriptor, struct.pack("<Q", self.produced), PAGE)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    yield made
    made.close()


@pytest.fixture
def ring(kernel: Kernel) -> Iterator[Ring]:
    made = Ring(kernel.descriptor, SIZE)
    yield made
    made.close()


def test_an_empty_ring_has_an_empty_window(ring: Ring) -> None:
    assert ring.pending_bytes() == 0
    assert bytes(ring.window(1000)) == b""


def test_what_was_produced_waits_until_it_is_given_back(kernel: Kernel, ring: Ring) -> None:
    kernel.produce(b"a" * 24)
    kernel.produce(b"b" * 16)
    assert ring.pending_bytes() == 40
    assert ring.window(1 << 20) == b"a" * 24 + b"b" * 16
    assert ring.window(1 << 20) == b"a" * 24 + b"b" * 16, "looking moves nothing"
    ring.advance(24)
    assert kernel.consumed == 0, "kept, should the reader crash"
    assert ring.pending_bytes() == 16
    assert ring.window(1 << 20) == b"b" * 16
    ring.release(24)
    assert kernel.consumed == 24
    assert ring.pending_bytes() == 16


def test_a_window_is_never_longer_than_asked_for(kernel: Kernel, ring: Ring) -> None:
    kernel.produce(b"abcdefgh" * 4)
    assert bytes(ring.window(8)) == b"abcdefgh"
    assert bytes(ring.window(0)) == b""


@pytest.mark.parametrize("limit", [8, 16, 24, 100])
def test_records_that_wrap_round_the_end_come_in_one_piece(
    kernel: Kernel, ring: Ring, limit: int
) -> None:
    kernel.start_at(5 * SIZE - 16)
    assert ring.resume(5 * SIZE - 16)
    kernel.produce(b"abcdefghABCDEFGH12345678")
    assert ring.window(limit) == b"abcdefghABCDEFGH12345678"[:limit]
    ring.advance(24)
    ring.release(ring.read_position)
    assert kernel.consumed == 5 * SIZE + 8
    assert ring.pending_bytes() == 0


@pytest.mark.parametrize("start", [0, 8, SIZE - 8])
def test_a_full_ring_is_seen_whole(kernel: Kernel, ring: Ring, start: int) -> None:
    kernel.start_at(start)
    assert ring.resume(start)
    kernel.produce(bytes(range(256)) * (SIZE // 256))
    assert ring.pending_bytes() == SIZE
    assert ring.window(1 << 30) == bytes(range(256)) * (SIZE // 256)


def test_a_ring_much_longer_than_what_is_mapped_is_read_to_its_end_and_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bpf.ring.STRETCH_BYTES", PAGE)
    kernel = Kernel(8 * PAGE)
    ring = Ring(kernel.descriptor, 8 * PAGE)
    made = b"".join(struct.pack("<Q", number) for number in range(3 * PAGE))
    got = b""
    for begin in range(0, len(made), 5 * PAGE // 2):
        kernel.produce(made[begin : begin + 5 * PAGE // 2])
        for limit in (1000, PAGE, 3 * PAGE):
            raw = bytes(ring.window(limit))
            got += raw
            ring.advance(len(raw))
            ring.release(ring.read_position)
    ring.close()
    kernel.close()
    assert got == made


@pytest.mark.parametrize("start", [0, SIZE - 8])
def test_a_window_cannot_be_written(kernel: Kernel, ring: Ring, start: int) -> None:
    kernel.start_at(start)
    assert ring.resume(start)
    kernel.produce(b"x" * 16)
    assert ring.window(16).readonly


def test_a_window_shows_a_busy_record_once_it_is_committed(kernel: Kernel, ring: Ring) -> None:
    raw = framed(open_payload(b"shadow\0etc\0", marks=2))
    kernel.start_at(SIZE - 64)
    assert ring.resume(SIZE - 64)
    kernel.produce(framed(open_payload(b"shadow\0etc\0", marks=2), busy=True))
    kernel.produce(raw)
    assert decode_opens(ring.window(SIZE), lambda *values: values[5]) == ([], 0)
    kernel.poke(SIZE - 64, struct.pack("<I", struct.unpack_from("<I", raw)[0] & ~BUSY_BIT))
    assert decode_opens(ring.window(SIZE), lambda *values: values[5]) == (["/etc/shadow"] * 2, 256)


@given(
    start=st.integers(0, 2**40).map(lambda n: n * 8),
    paths=st.lists(st.integers(0, 400), max_size=60),
    limit=st.integers(512, 2 * SIZE),
)
def test_every_record_comes_once_and_in_order(start: int, paths: list[int], limit: int) -> None:
    kernel = Kernel(PAGE)
    kernel.start_at(start)
    ring = Ring(kernel.descriptor, PAGE)
    names = [f"{index}-{'p' * size}" for index, size in enumerate(paths)]
    got: list[str] = []

    def read() -> None:
        events, consumed = decode_opens(ring.window(limit), lambda *values: values[5])
        assert consumed or not ring.pending_bytes()
        got.extend(events)
        ring.advance(consumed)
        ring.release(ring.read_position)

    for name in names:
        raw = framed(open_payload(name.encode() + b"\0"))
        while ring.pending_bytes() + len(raw) > PAGE:
            read()
        kernel.produce(raw)
    while ring.pending_bytes():
        read()
    ring.close()
    assert kernel.consumed == kernel.produced
    kernel.close()
    assert got == names


positions = st.integers(-2 * SIZE, 3 * SIZE).map(lambda n: n // 8 * 8)


@given(
    start=st.integers(0, 2**40).map(lambda n: n * 8),
    steps=st.lists(
        st.tuples(st.just("produce"), st.integers(1, 40))
        | st.tuples(st.just("read"), st.integers(0, 40))
        | st.tuples(st.just("release"), positions)
        | st.just(("crash", 0)),
        max_size=40,
    ),
)
def test_a_new_reader_gets_what_was_not_released_and_nothing_twice(
    start: int, steps: list[tuple[str, int]]
) -> None:
    kernel, made = Kernel(), start
    kernel.start_at(start)
    ring = Ring(kernel.descriptor, SIZE)
    released = read = start
    for what, size in steps:
        if what == "produce" and made + 8 * size - released <= SIZE:
            kernel.produce(b"".join(struct.pack("<Q", made + 8 * n) for n in range(size)))
            made += 8 * size
        elif what == "read":
            raw = bytes(ring.window(8 * size))
            words = [word for (word,) in struct.iter_unpack("<Q", raw)]
            assert words == list(range(read, min(read + 8 * size, made), 8))
            ring.advance(len(raw))
            read += len(raw)
        elif what == "release":
            ring.release(start + size)
            released = max(released, min(start + size, read))
        elif what == "crash":
            ring.close()
            ring = Ring(kernel.descriptor, SIZE)
            read = released
        assert kernel.consumed == released <= ring.read_position == read
        assert ring.pending_bytes() == made - read
    ring.close()
    kernel.close()


@given(
    start=st.integers(0, 2**40).map(lambda n: n * 8),
    held=st.integers(0, SIZE // 8),
    offset=st.integers(-SIZE, 2 * SIZE),
)
def test_reading_resumes_only_where_the_ring_still_holds_it(
    start: int, held: int, offset: int
) -> None:
    kernel = Kernel()
    kernel.start_at(start)
    kernel.produce(bytes(8 * held))
    ring = Ring(kernel.descriptor, SIZE)
    possible = 0 <= offset <= 8 * held and offset % 8 == 0
    assert ring.resume(start + offset) is possible
    moved = offset if possible else 0
    assert (ring.read_position, kernel.consumed) == (start + moved, start + moved)
    assert ring.pending_bytes() == 8 * held - moved
    ring.close()
    kernel.close()


def test_closing_leaves_the_descriptor_to_its_owner(kernel: Kernel) -> None:
    ring = Ring(kernel.descriptor, SIZE)
    kernel.produce(b"x" * 8)
    with ring.window(8):
        pass
    ring.close()
    os.fstat(kernel.descriptor)
