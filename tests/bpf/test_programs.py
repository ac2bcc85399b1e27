import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpf import programs, source, syscalls
from bpf.btf import Btf
from bpf.programs import CAST_CALL, INSTRUCTION, Cast
from tests.bpf.test_btf import INT, STRUCT, Blob

FUNC = 12
CAST = Cast(function=65_486, struct=157)
STAND_IN = INSTRUCTION.pack(0x85, 0, 0, CAST_CALL)
CALL = INSTRUCTION.pack(0x85, 0x20, 0, CAST.function)
NUMBER = INSTRUCTION.pack(0x18, 1, 0, 7) + STAND_IN
"""A number of 64 bits; its second half may look like anything."""

other = st.binary(min_size=8, max_size=8).filter(lambda code: code[0] != 0x18 and code != STAND_IN)


@given(st.lists(st.one_of(other, st.just(STAND_IN), st.just(NUMBER))))
def test_what_stands_for_the_function_becomes_its_call_and_nothing_else_changes(
    parts: list[bytes],
) -> None:
    expected = b"".join(CALL if part == STAND_IN else part for part in parts)
    assert programs.with_cast(b"".join(parts), CAST) == expected


def test_without_the_function_nothing_changes() -> None:
    assert programs.with_cast(NUMBER, None) == NUMBER


def test_a_call_of_the_kernels_own_is_left_alone() -> None:
    call = INSTRUCTION.pack(0x85, 0x20, 0, CAST_CALL)
    assert programs.with_cast(call, CAST) == call


def a_kernel(*, function: bool = True, plain: bool = True) -> Btf:
    blob = Blob()
    number = blob.add(INT, "s64", size=8, extra=bytes(4))
    if plain:
        blob.compound(STRUCT, "timespec64", ("tv_sec", number, 0), ("tv_nsec", number, 64))
    if function:
        blob.add(FUNC, "bpf_rdonly_cast", size=number)
    return Btf(blob.bytes())


def test_a_kernel_without_the_function_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(syscalls, "load_program")
    assert programs.find_cast(a_kernel(function=False)) is None
    assert programs.find_cast(a_kernel(plain=False)) is None


@pytest.mark.parametrize("refused", [{True}, {False}])
def test_a_kernel_that_refuses_the_call_to_one_kind_of_program_has_no_cast(
    monkeypatch: pytest.MonkeyPatch, refused: set[bool]
) -> None:
    def load_program(code: bytes, *, raw: bool, **_: object) -> int:
        assert INSTRUCTION.pack(0x85, 0x20, 0, 3) in code
        if raw in refused:
            raise PermissionError
        return os.open("/dev/null", os.O_RDONLY)

    monkeypatch.setattr(syscalls, "load_program", load_program)
    assert programs.find_cast(a_kernel()) is None
    refused.clear()
    assert programs.find_cast(a_kernel()) == Cast(function=3, struct=2)


def test_of_programs_of_which_one_is_refused_none_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    descriptors: list[int] = []

    def load_program(code: bytes, *, name: str, **_: object) -> int:
        if name == source.SLOW_TO_VERIFY:
            raise PermissionError(name)
        descriptors.append(os.open("/dev/null", os.O_RDONLY))
        return descriptors[-1]

    monkeypatch.setattr(syscalls, "load_program", load_program)
    with pytest.raises(PermissionError, match=source.SLOW_TO_VERIFY):
        programs.load_all(dict.fromkeys(source.ATTACHMENTS.values(), b""))
    assert len(descriptors) == len(set(source.ATTACHMENTS.values())) - 1
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
