"""Timers as descriptors, for what waits for descriptors anyway.

A deadline of trio's costs a cancel scope and an exception through every frame each time it passes:
about 0.1 ms from a cold cache, against one system call here. See timerfd_create(2).
"""

from __future__ import annotations

import ctypes
import os
import time

_TFD_NONBLOCK = os.O_NONBLOCK
_TFD_CLOEXEC = os.O_CLOEXEC


class _Spec(ctypes.Structure):
    """``struct itimerspec``."""

    _fields_ = (
        ("interval_secs", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_secs", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class Timer:
    """A timer whose descriptor is readable once it has gone off.

    Watched edge-triggered it need not be read: each time it goes off is an edge.

    Raises:
        OSError: the kernel has none left for us.
    """

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._settime = libc.timerfd_settime
        self._spec = _Spec()
        self._reference = ctypes.byref(self._spec)
        self.descriptor: int = libc.timerfd_create(
            time.CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC
        )
        if self.descriptor < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"timerfd_create: {os.strerror(number)}")

    def after(self, secs: float) -> None:
        """Go off once, so many seconds from now; what was set before is forgotten."""
        spec = self._spec
        spec.value_secs, spec.value_ns = divmod(max(1, int(secs * 1e9)), 1_000_000_000)
        self._settime(self.descriptor, 0, self._reference, None)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.descriptor)
