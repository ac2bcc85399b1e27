"""Where a shell takes its commands from."""

from __future__ import annotations

_VALUE_FOLLOWS = frozenset({"-o", "+o", "-O", "+O", "--rcfile", "--init-file"})
_DESCRIPTORS = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")


def reads_commands(argv: tuple[str, ...]) -> bool:
    """Whether a shell with these arguments takes commands from its standard input.

    So it does without ``-c`` and without a script, as at a terminal, in a pipe or on a socket.
    """
    arguments = iter(argv[1:])
    for argument in arguments:
        if argument in {"-", "--"}:
            argument = next(arguments, "")  # noqa: PLW2901 - what follows is no option any more
            return not argument or argument.startswith(_DESCRIPTORS)
        if argument[:1] not in {"-", "+"}:
            return argument.startswith(_DESCRIPTORS)
        if argument in _VALUE_FOLLOWS:
            next(arguments, None)
        elif not argument.startswith("--"):
            if "c" in argument:
                return False
            if "s" in argument:
                return True
    return True
