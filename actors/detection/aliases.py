"""Directories that are links today: rules name the link, the kernel names what it leads to.

A test of a path that the kernel has resolved is asked of both names. Where a name is no link, as
``/bin`` on systems that keep it apart from ``/usr/bin``, the written one still fits.
"""

from __future__ import annotations

import msgspec

from actors.detection.conditions import Test

RESOLVED = frozenset({"exe", "parent.exe", "launcher.exe", "path", "cwd"})
"""Fields that hold a path as the kernel resolved it."""
_LINKS = (
    ("/var/run/", "/run/"),
    ("/var/lock/", "/run/lock/"),
    ("/bin/", "/usr/bin/"),
    ("/sbin/", "/usr/sbin/"),
    ("/lib/", "/usr/lib/"),
    ("/lib64/", "/usr/lib64/"),
)
_FROM_THE_BEGINNING = ("equals", "startswith", "glob")
_ANYWHERE = ("contains", "endswith")


def with_aliases(test: Test) -> Test:
    """Return the test with what its values lead to beside them."""
    if test.field not in RESOLVED or test.op not in (*_FROM_THE_BEGINNING, *_ANYWHERE):
        return test
    more = [
        target + value[len(link) :]
        for value in test.values
        if isinstance(value, str)
        for link, target in _LINKS
        # In the middle of a path `/bin/` is a part of `/usr/bin/` already.
        if value.startswith(link) and (test.op in _FROM_THE_BEGINNING or not target.endswith(link))
    ]
    return msgspec.structs.replace(test, values=(*test.values, *more)) if more else test
