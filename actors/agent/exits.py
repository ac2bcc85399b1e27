"""Exit codes of the agent, and the errors that carry them."""

from __future__ import annotations

from enum import IntEnum

from bpf.errors import BpfError, LoadError, MissingBcc, MissingBtf, UnsupportedKernel


class ExitCode(IntEnum):
    """Why the agent did not start; what a run ends with is `actors.runtime.ExitReason`."""

    CONFIG = 2
    NO_BCC = 3
    NO_BTF = 4
    KERNEL = 5
    """A tracepoint or a field of a kernel struct is missing, or it is another machine."""
    LOAD = 6
    """Compiler or verifier refused the probes."""
    ALREADY_RUNNING = 7
    RECORDING = 8
    """The recording cannot be read or written."""
    NOT_ROOT = 77
    """EX_NOPERM of sysexits.h."""


class StartError(Exception):
    """The agent cannot start.

    Args:
        code: the exit code.
        message: what is wrong and what to do, for the operator.
    """

    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.code = code


_CODES: tuple[tuple[type[BpfError], ExitCode], ...] = (
    (MissingBcc, ExitCode.NO_BCC),
    (MissingBtf, ExitCode.NO_BTF),
    (UnsupportedKernel, ExitCode.KERNEL),
    (LoadError, ExitCode.LOAD),
)


def start_error(error: BpfError) -> StartError:
    """The kernel side's error with its exit code."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.LOAD)
    return StartError(code, str(error))
