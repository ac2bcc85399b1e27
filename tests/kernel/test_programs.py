"""The probes in both forms: with the kernel's cast, and for kernels that have none."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from bpf import programs, syscalls
from bpf.attach import find_bcc_python
from bpf.btf import Btf
from bpf.programs import INSTRUCTION
from bpf.source import ATTACHMENTS

ROOT = Path(__file__).resolve().parents[2]
COMPILED = """
import json, sys
sys.path.insert(0, sys.argv[1])
from bpf import loader, programs
if sys.argv[2] == "without":
    programs.find_cast = lambda btf: None
loader.check_machine()
probes, code = loader.compile_probes()
print(json.dumps({name: code[name].hex() for name in probes.functions}))
"""


def compiled(form: str) -> dict[str, bytes]:
    """Programs as the kernel has accepted them."""
    words = [find_bcc_python(), "-c", COMPILED, str(ROOT), form]
    done = subprocess.run(words, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return {name: bytes.fromhex(code) for name, code in json.loads(done.stdout).items()}


def casts(code: bytes, function: int) -> int:
    """How many calls of the function there are."""
    wanted = INSTRUCTION.pack(0x85, 0x20, 0, function)
    return sum(
        code[position : position + INSTRUCTION.size] == wanted
        for position, *_ in programs.instructions(code)
    )


def test_a_kernel_with_the_cast_is_read_through_it_and_one_without_is_served_too() -> None:
    cast = programs.find_cast(Btf.of_kernel())
    with_it, without = compiled("with"), compiled("without")
    assert with_it.keys() == without.keys() == set(ATTACHMENTS.values())
    if cast is None:  # before 6.12
        assert with_it == without
        return
    assert casts(with_it["tracepoint__syscalls__sys_exit_openat"], cast.function) > 10
    assert not any(casts(code, cast.function) for code in without.values())


def test_a_refusal_ends_with_the_verifiers_words() -> None:
    exits_with_nothing = INSTRUCTION.pack(0x95, 0, 0, 0)
    with pytest.raises(OSError, match=r"(?s)Permission denied \(nothing\): .*R0 !read_ok"):
        syscalls.load_program(exits_with_nothing, name="nothing", raw=False, license_text="GPL")
