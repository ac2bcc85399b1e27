"""Which program an execution means where the file that runs only carries it.

The dynamic loader runs the program that its arguments name (``ld-linux-x86-64.so.2 /bin/bash``),
and busybox is the program that it is told to be (``busybox sh``). What the loader runs is named by
its caller, so the name is good for detecting and never for trusting.
"""

from __future__ import annotations

import posixpath
import re

from actors.detection.events import ExecEvent

_LOADER = re.compile(r"ld(?:64|-linux[\w.-]*|-musl-[\w-]+|-[\d.]+)?\.so(?:\.\d+)?")
_TAKES_A_VALUE = frozenset(
    f"--{option}"
    for option in (
        *("library-path", "preload", "audit", "argv0", "inhibit-rpath"),
        *("glibc-hwcaps-prepend", "glibc-hwcaps-mask"),
    )
)
_MANY_PROGRAMS = ("busybox", "toybox")
_CARRIERS = ("ld", *_MANY_PROGRAMS)
"""What the names of all of them begin with; asked of every execution."""


def loaded_by(exe: str, argv: tuple[str, ...], cwd: str = "") -> str:
    """Return the path of the program that the dynamic loader is told to run.

    Empty where the file is not a loader, or is told to run none. A loader is known by its name.
    """
    name = exe.rpartition("/")[2]
    if not name.startswith("ld") or not _LOADER.fullmatch(name):
        return ""
    arguments = iter(argv[1:])
    for argument in arguments:
        if not argument.startswith("--"):
            return posixpath.normpath(posixpath.join(cwd or "/", argument)) if argument else ""
        if argument in _TAKES_A_VALUE:
            next(arguments, None)
    return ""


def applet_of(exe: str, argv: tuple[str, ...]) -> str:
    """Return which of its programs a busybox is told to be, empty for any other program."""
    if not exe.rpartition("/")[2].startswith(_MANY_PROGRAMS):
        return ""
    for argument in argv[:2]:
        name = argument.rpartition("/")[2]
        if not name.startswith(_MANY_PROGRAMS):
            return name
    return ""


def named_words(event: ExecEvent) -> tuple[str, str, bool]:
    """Return the exe, the filename and the trust of the program that an execution means."""
    exe = event.exe
    if not exe.startswith(_CARRIERS, exe.rfind("/") + 1):
        return exe, event.filename, event.system_exe
    if target := loaded_by(exe, event.argv, event.cwd):
        return target, event.filename, False
    if applet := applet_of(exe, event.argv):
        return exe, applet, event.system_exe
    return exe, event.filename, event.system_exe
