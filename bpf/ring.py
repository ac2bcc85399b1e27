"""A BPF ring buffer, read straight from its mapped pages.

The kernel maps a ring as one page that holds the consumer position (writable), one that holds the
producer position, and the data (kernel/bpf/ringbuf.c). Positions are byte counts that only grow.
The kernel would map the data twice in a row, so that a record which wraps round the end is
contiguous; but each mapped page counts as resident memory, so only the stretch being read is
mapped, and the rare wrap is joined here.

Limits: x86-64. A weaker memory model would need a load barrier between reading the producer
position and reading the records, which Python cannot express.
"""

from __future__ import annotations

import mmap

PAGE = mmap.PAGESIZE
STRETCH_BYTES = 1 << 18
"""How much of the data is mapped at a time, unless a window is longer."""


class Ring:
    """The consumer's end of one ring.

    There must be no other consumer: the positions are ours alone to move. Two of them: what lies
    before the read position has been read; what lies before the consumer position the kernel may
    write over. What lies between is kept for whoever reads the ring should we crash: a new `Ring`
    reads on from the consumer position.

    Args:
        descriptor: of the ring's map; it becomes readable when records wait.
        size_bytes: of the data area; a power of two.
    """

    def __init__(self, descriptor: int, size_bytes: int) -> None:
        self.descriptor = descriptor
        self.size_bytes = size_bytes
        self._consumer_page = mmap.mmap(descriptor, PAGE, mmap.MAP_SHARED)
        self._producer_page = mmap.mmap(
            descriptor, PAGE, mmap.MAP_SHARED, mmap.PROT_READ, offset=PAGE
        )
        # One aligned 8-byte access each, so that the kernel never sees half a position.
        self._consumer = memoryview(self._consumer_page)[:8].cast("Q")
        self._producer = memoryview(self._producer_page)[:8].cast("Q")
        self.read_position = self._consumer[0]
        self._map(self.read_position & (size_bytes - 1), 0)

    def pending_bytes(self) -> int:
        """Bytes that wait to be read, records still being written included."""
        return self._producer[0] - self.read_position

    def window(self, limit_bytes: int) -> memoryview:
        """What waits, oldest first, at most ``limit_bytes``; valid until `advance`.

        A view of the ring itself, or a copy where the records wrap round its end.

        The last record may be still busy or cut by the limit: the decoder stops there.
        """
        position = self.read_position
        start = position & (self.size_bytes - 1)
        end = start + min(self._producer[0] - position, limit_bytes)
        if end <= self.size_bytes:
            return self._show(start, end)
        wrapped = bytearray(self._show(start, self.size_bytes))
        wrapped += self._show(0, end - self.size_bytes)
        return memoryview(wrapped).toreadonly()

    def advance(self, size: int) -> None:
        """Take ``size`` bytes, whole records, for read; they are kept until `release`."""
        self.read_position += size

    def release(self, position: int) -> None:
        """Give what lies before ``position`` back to the kernel, as far as it has been read."""
        self._consumer[0] = max(self._consumer[0], min(position, self.read_position))

    def resume(self, position: int) -> bool:
        """Read on from an earlier reader's position, if the ring holds that still."""
        if position % 8 or not self._consumer[0] <= position <= self._producer[0]:
            return False
        self.read_position = self._consumer[0] = position
        return True

    def close(self) -> None:
        """Unmap; the descriptor stays the caller's."""
        for view in (self._consumer, self._producer, self._stretch):
            view.release()
        self._consumer_page.close()
        self._producer_page.close()

    def _show(self, start: int, end: int) -> memoryview:
        """Bytes of the data area."""
        if not self._begin <= start <= end <= self._begin + len(self._stretch):
            self._map(start, end)
        return self._stretch[start - self._begin : end - self._begin]

    def _map(self, start: int, end: int) -> None:
        """Map the stretch from the page of ``start`` on, to ``end`` at least.

        The one before is unmapped as soon as nobody holds a window of it.
        """
        self._begin = start & -PAGE
        size = min(max(end - self._begin, STRETCH_BYTES), self.size_bytes - self._begin)
        self._stretch = memoryview(
            mmap.mmap(
                self.descriptor,
                size,
                mmap.MAP_SHARED,
                mmap.PROT_READ,
                offset=2 * PAGE + self._begin,
            )
        )
