import subprocess
import sys

from actors.agent.memory import _clean_files
from tests.agent.cast import ROOT

SMAPS = """\
00400000-00407000 r--p 00000000 fe:00 123                                /usr/bin/python3.11
Size:                 28 kB
Rss:                  28 kB
Anonymous:             0 kB
VmFlags: rd mr mw me
00407000-006ba000 r-xp 00007000 fe:00 123                                /usr/bin/python3.11
Size:               2764 kB
Anonymous:             0 kB
THPeligible:           0
00a20000-00a30000 r--p 0061f000 fe:00 123                                /usr/bin/python3.11
Rss:                  64 kB
Anonymous:            64 kB
00a30000-00a85000 rw-p 0062f000 fe:00 123                                /usr/bin/python3.11
Anonymous:             0 kB
7f0000000000-7f0000001000 r--s 00000000 00:0e 7                          anon_inode:bpf-map
Anonymous:             0 kB
7f0000100000-7f0000200000 r--p 00000000 fe:00 9                          /opt/a b (deleted)
Anonymous:             0 kB
7f0000300000-7f0000400000 rw-p 00000000 00:00 0
Anonymous:          1024 kB
7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0                          [vdso]
Anonymous:             0 kB
"""


def test_only_what_is_as_on_the_disk_is_given_back() -> None:
    assert list(_clean_files(SMAPS)) == [
        (0x400000, 0x407000),
        (0x407000, 0x6BA000),
        (0x7F0000100000, 0x7F0000200000),
    ]


def test_what_was_given_back_comes_back() -> None:
    lines = (
        "import asyncio, ssl",
        "import pydantic",
        "from actors.agent import memory",
        "memory.settle()",
        "class Model(pydantic.BaseModel): number: int",
        "assert Model.model_validate({'number': '7'}).number == 7",
        "assert ssl.create_default_context().cert_store_stats() is not None",
        "asyncio.run(asyncio.sleep(0))",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], check=False, cwd=ROOT)
    assert done.returncode == 0
