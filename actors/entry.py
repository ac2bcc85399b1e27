"""The outermost frame of every program: what ends it is one line and an exit code, no traceback.

Import it before all else of ours: until `run` is reached, Ctrl+C ends the program at once, by the
signal itself, instead of with a traceback out of some import.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from actors import stdio

OUTPUT_FAILED = 1
CONFIG_ERROR = 2
INTERRUPTED = 130
"""128 + SIGINT, as shells say it."""

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored: nohup, &
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(main: Callable[[], int]) -> NoReturn:
    """Run a program and exit with its code.

    Args:
        main: the program; returns the exit code.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = main()
    except KeyboardInterrupt:
        stdio.say("interrupted before it ran")
        code = INTERRUPTED
    except stdio.OutputError as error:
        if not isinstance(error.__cause__, BrokenPipeError):  # a reader that has seen enough
            stdio.say(str(error))
        code = OUTPUT_FAILED
    except FileNotFoundError:
        if _has_working_directory():
            raise
        stdio.say("the working directory has been removed; change into another one")
        code = CONFIG_ERROR
    sys.exit(code)


def _has_working_directory() -> bool:
    try:
        os.getcwd()  # noqa: PTH109 - asked whether it is there, nothing else
    except OSError:
        return False
    return True
