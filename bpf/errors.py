"""What can go wrong on the kernel side, split by who can mend it.

BpfError
 +-- UnsupportedKernel   this kernel or machine lacks something the probes need
 |    +-- MissingBcc     the distribution's bcc is not installed
 |    +-- MissingBtf     the kernel has no BTF type information
 +-- LoadError           the loader ran and failed: compiler, verifier, permissions
 +-- PinsError           what is pinned in bpffs cannot be taken up
 +-- RecordError         a record in a ring is not of the agreed layout
"""

from __future__ import annotations


class BpfError(Exception):
    """Root of the kernel side's errors."""


class UnsupportedKernel(BpfError):  # noqa: N818 - names a state of the machine, as "Closed" does
    """This kernel or machine lacks something; the text names it and says what to do."""


class MissingBcc(UnsupportedKernel):
    """No Python on this machine can import the distribution's bcc."""


class MissingBtf(UnsupportedKernel):
    """The kernel does not describe its types."""


class LoadError(BpfError):
    """The loader child failed; the text says at which step and what would help."""


class PinsError(BpfError):
    """What an earlier agent left pinned is not to be taken up.

    Args:
        reason: in a few fixed words, for counting: ``no pins``, ``not ours``, ``incomplete`` or
            ``another version``.
        detail: for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class RecordError(BpfError):
    """Bytes in a ring that no probe of ours wrote: a layout mismatch or corruption."""
