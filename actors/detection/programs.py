"""The program a process runs: what it is called, and whether that name can be believed."""

from __future__ import annotations

import msgspec

from actors.detection.text import digest, is_short, memory_bytes, printable, shortened

_MAX_INTERNED = 4096
_MAX_SHOWN = 64


class Program(msgspec.Struct, frozen=True, eq=False, gc=False):
    """What a process runs, shared by every process that runs it.

    ``comm`` and ``filename`` are words of the watched process; ``exe`` is the kernel's word for
    the file that runs, and ``system_exe`` says that nobody but root could have put it there.
    """

    comm: str
    exe: str
    """Path of the file that runs; empty for a kernel thread and for a process known only from
    an event that does not name its program."""
    filename: str
    """The path given to execve; for a script, the script. Empty when unknown."""
    system_exe: bool
    exe_name: str
    """Last component of ``exe``."""
    filename_name: str
    """Last component of ``filename``."""
    shown: str
    """The name as an ancestry shows it: printable, bounded, without an arrow of its own."""
    digest: bytes
    """16 bytes that stand for `key` where programs are counted."""
    text_bytes: int
    """What its words take of memory, at most."""
    short: bool
    """Whether its words are short enough to be remembered as they are."""

    @property
    def name(self) -> str:
        """The name shown to people: the executable's, or comm where it is unknown."""
        return self.exe_name or self.comm

    @property
    def key(self) -> str:
        """What counts as the same program: the executable's path, or comm where it is unknown."""
        return self.exe or self.comm

    @property
    def names(self) -> tuple[str, str, str]:
        """Every name it goes by, the most trustworthy first; some may be empty."""
        return (self.exe_name, self.filename_name, self.comm)


class Programs:
    """Shares equal programs, so that a thousand shells cost one.

    A cache only: forgetting it changes nothing but memory. A program of long words is not kept:
    what is to be remembered of it is its `kept` form.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str, bool], Program] = {}

    def get(self, comm: str, exe: str = "", filename: str = "", *, system: bool = False) -> Program:
        """Return the program with these words; without an exe it is never trusted."""
        key = (comm, exe, filename, system)
        program = self._known.get(key)
        if program is None:
            if filename == exe:
                filename = exe  # one object
            exe_name = exe.rpartition("/")[2]
            shown = printable(exe_name or comm, limit=_MAX_SHOWN) or "?"
            program = Program(
                comm=comm,
                exe=exe,
                filename=filename,
                system_exe=system and bool(exe),
                exe_name=exe_name,
                filename_name=filename.rpartition("/")[2],
                shown=shown.replace("=>", "=\\x3e"),
                digest=digest(shortened(exe or comm)),
                text_bytes=sum(map(memory_bytes, (comm, exe, filename))),
                short=is_short(comm) and is_short(exe) and is_short(filename),
            )
            if program.short:
                if len(self._known) >= _MAX_INTERNED:
                    self._known.clear()
                self._known[key] = program
        return program

    def kept(self, program: Program) -> Program:
        """Return the program as it may be remembered: the middle of long words is left out.

        Nobody believes such words: a path that is not whole is not the system's.
        """
        if program.short:
            return program
        words = (program.comm, program.exe, program.filename)
        return self.get(*map(shortened, words))
