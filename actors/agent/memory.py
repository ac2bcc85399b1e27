"""What the agent keeps in memory once it watches: what it needs for that, and no more."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from pathlib import Path

_GC_THRESHOLD = 20_000
_MADV_DONTNEED = 4
_SMAPS = Path("/proc/self/smaps")
_READ_ONLY = ("r-xp", "r--p")


def settle() -> None:
    """Give back what only the start needed; call it once, when the rest has been imported.

    What lives for ever is exempted from garbage collection, and the rest is collected less often:
    events and batches form no cycles, reference counting frees them at once.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 20, 50)
    libc = ctypes.CDLL(None)
    libc.malloc_trim(0)
    for begin, end in _clean_files(_SMAPS.read_text()):
        # Failing, it just stays.
        libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _MADV_DONTNEED)


def _clean_files(smaps: str) -> Iterator[tuple[int, int]]:
    """Where programs and libraries lie in memory just as they do on the disk.

    Their code and constants mostly served to read the configuration; a page that is needed again
    comes back from the page cache. Not among them is what the dynamic linker has written into
    before it was protected: that would be lost.
    """
    span = (0, 0)
    for line in smaps.splitlines():
        name, *words = line.split(maxsplit=5)
        if name.endswith(":"):
            if span[1] and name == "Anonymous:":
                if words[0] == "0":
                    yield span
                span = (0, 0)
            continue
        begin, _, end = name.partition("-")
        ours = len(words) == 5 and words[0] in _READ_ONLY and words[4].startswith("/")
        span = (int(begin, 16), int(end, 16)) if ours else (0, 0)
