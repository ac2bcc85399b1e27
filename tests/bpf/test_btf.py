import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpf.btf import BTF_PATH, Btf
from bpf.errors import MissingBtf, UnsupportedKernel
from bpf.source import FIELDS

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT = range(1, 12)
FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(12, 20)

Member = tuple[str, int, int]
"""Name, type id, offset in bits."""


class Blob:
    """Writes BTF: each method appends a type and returns its id."""

    def __init__(self) -> None:
        self.strings = b"\0"
        self.types = b""
        self.count = 0

    def name(self, text: str) -> int:
        if not text:
            return 0
        self.strings += text.encode() + b"\0"
        return len(self.strings) - len(text.encode()) - 1

    def add(
        self,
        kind: int,
        name: str = "",
        *,
        vlen: int = 0,
        flag: int = 0,
        size: int = 0,
        extra: bytes = b"",
    ) -> int:
        info = flag << 31 | kind << 24 | vlen
        self.types += struct.pack("<III", self.name(name), info, size) + extra
        self.count += 1
        return self.count

    def compound(self, kind: int, name: str, *members: Member, flag: int = 0) -> int:
        extra = b"".join(struct.pack("<III", self.name(n), t, bits) for n, t, bits in members)
        return self.add(kind, name, vlen=len(members), flag=flag, extra=extra)

    def bytes(self) -> bytes:
        header = struct.pack(
            "<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(self.strings)
        )
        return header + self.types + self.strings


def a_kernel() -> bytes:
    """One type of every kind, and a `task` that uses them."""
    blob = Blob()
    u32 = blob.add(INT, "u32", size=4, extra=bytes(4))
    pointer = blob.add(PTR, size=u32)
    blob.add(ARRAY, extra=struct.pack("<III", u32, u32, 4))
    blob.add(ENUM, "colour", vlen=2, size=4, extra=bytes(16))
    blob.add(FWD, "task")
    proto = blob.add(FUNC_PROTO, vlen=3, extra=bytes(24))
    blob.add(FUNC, "task", size=proto)
    blob.add(VAR, "variable", size=u32, extra=bytes(4))
    blob.add(DATASEC, ".data", vlen=1, extra=bytes(12))
    blob.add(FLOAT, "double", size=8)
    blob.add(DECL_TAG, "tag", size=u32, extra=bytes(4))
    blob.add(ENUM64, "wide", vlen=2, size=8, extra=bytes(24))
    blob.compound(UNION, "task", ("wrong_kind", u32, 8 * 99))
    inner = blob.compound(STRUCT, "inner", ("x", u32, 0), ("y", u32, 32))
    wrapped = inner
    for kind in (TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG):
        wrapped = blob.add(kind, "wrapped" if kind == TYPEDEF else "", size=wrapped)
    deep = blob.compound(STRUCT, "", ("deep", u32, 64), ("deep_inner", wrapped, 96))
    union = blob.compound(UNION, "", ("one", u32, 0), ("", blob.add(CONST, size=deep), 0))
    blob.compound(
        STRUCT,
        "task",
        ("pid", u32, 0),
        ("", union, 64),
        ("where", wrapped, 256),
        ("there", pointer, 320),
    )
    # With the kind flag an offset holds the bit-field's width in its upper byte.
    blob.compound(
        STRUCT,
        "bits",
        ("plain", u32, 32),
        ("", u32, 3 << 24 | 64),
        ("few", u32, 5 << 24 | 67),
        flag=1,
    )
    blob.compound(STRUCT, "long_task", ("pid", u32, 128))
    return blob.bytes()


KERNEL = a_kernel()


def offset(struct_name: str, field: str) -> int | None:
    btf = Btf(KERNEL)
    return btf.member_offset(btf.structs([struct_name])[struct_name], field)


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("task.pid", 0),
        ("task.one", 8),
        ("task.deep", 16),
        ("task.deep_inner", 20),
        ("task.deep_inner.y", 24),
        ("task.where", 32),
        ("task.where.x", 32),
        ("task.where.y", 36),
        ("task.there", 40),
        ("long_task.pid", 16),
        ("bits.plain", 4),
        ("bits.few", 8),
        ("task.where.z", None),
        ("task.pid.x", None),
        ("task.there.x", None),
        ("task.wrong_kind", None),
        ("task.nothing", None),
    ],
)
def test_members_are_found_where_the_compiler_put_them(field: str, expected: int | None) -> None:
    struct_name, _, member = field.partition(".")
    assert offset(struct_name, member) == expected


def test_a_struct_whose_name_is_the_tail_of_anothers_is_found() -> None:
    blob = Blob()
    blob.compound(STRUCT, "long_task", ("pid", 0, 64))
    blob.types += struct.pack("<III", blob.strings.index(b"task\0"), STRUCT << 24, 0)
    assert Btf(blob.bytes()).structs(["task", "long_task"]) == {"long_task": 1, "task": 2}


def test_structs_the_kernel_does_not_have_are_left_out() -> None:
    assert Btf(KERNEL).structs(["inner", "colour", "absent"]).keys() == {"inner"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "vmlinux"
    file.write_bytes(KERNEL)
    return file


def test_offsets_are_keyed_by_struct_and_field(path: Path) -> None:
    wanted = {"task": ("pid", "where.y"), "inner": ["y"]}
    assert Btf.of_kernel(path).offsets(wanted) == {"task.pid": 0, "task.where.y": 36, "inner.y": 4}


def test_of_several_names_the_first_that_exists_counts(path: Path) -> None:
    wanted = {"task": ("new|pid", "deep|pid", "absent?", "never|one?")}
    assert Btf.of_kernel(path).offsets(wanted) == {"task.new": 0, "task.deep": 16, "task.never": 8}


def test_a_missing_file_is_said_to_be_a_kernel_without_btf(tmp_path: Path) -> None:
    with pytest.raises(MissingBtf, match=r"has no BTF .*absent: No such file.*DEBUG_INFO_BTF=y"):
        Btf.of_kernel(tmp_path / "absent")


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ({"absent": ["x"]}, "this kernel's BTF has no struct absent"),
        ({"task": ["nothing"]}, "this kernel's struct task has no field nothing"),
        ({"task": ["new|old"]}, "this kernel's struct task has no field new or old"),
    ],
)
def test_what_the_kernel_lacks_is_named(
    path: Path, wanted: dict[str, list[str]], text: str
) -> None:
    with pytest.raises(UnsupportedKernel, match=f"^{text}$"):
        Btf.of_kernel(path).offsets(wanted)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", "is not BTF: it has only 0 bytes"),
        (KERNEL[:23], "is not BTF: it has only 23 bytes"),
        (b"\x7fELF" + KERNEL[4:], "is not BTF: its magic is 0x457f"),
        (KERNEL[:2][::-1] + KERNEL[2:], "is not BTF: its magic is 0x9feb"),
        (KERNEL[:-1], "is cut short"),
    ],
)
def test_what_is_not_btf_is_refused(raw: bytes, text: str) -> None:
    with pytest.raises(UnsupportedKernel, match=re.escape(f"{BTF_PATH} {text}")):
        Btf(raw)


@given(st.integers(0, len(KERNEL) - 1))
def test_a_blob_cut_anywhere_is_refused(cut: int) -> None:
    with pytest.raises(UnsupportedKernel):
        Btf(KERNEL[:cut])


def damaged(*members: Member, kind: int = STRUCT) -> Btf:
    blob = Blob()
    blob.compound(kind, "task", *members)
    return Btf(blob.bytes())


def test_a_kind_of_type_from_the_future_is_refused() -> None:
    blob = Blob()
    blob.add(20)
    with pytest.raises(UnsupportedKernel, match="a kind that Lavender does not know: 20"):
        Btf(blob.bytes())


def test_a_type_section_that_ends_inside_a_type_is_refused() -> None:
    blob = Blob()
    blob.add(STRUCT, "task", vlen=2, extra=bytes(12))
    with pytest.raises(UnsupportedKernel, match="its last type is cut"):
        Btf(blob.bytes())


def test_a_type_that_is_not_there_is_refused() -> None:
    btf = damaged(("", 77, 0))
    with pytest.raises(UnsupportedKernel, match="it has no type 77"):
        btf.member_offset(1, "x")


def test_a_struct_that_contains_itself_is_refused() -> None:
    btf = damaged(("", 1, 0))
    with pytest.raises(UnsupportedKernel, match="a struct contains itself"):
        btf.member_offset(1, "x")


def test_a_typedef_of_itself_is_refused() -> None:
    blob = Blob()
    blob.add(TYPEDEF, "loop", size=1)
    with pytest.raises(UnsupportedKernel, match="type 1 leads to itself"):
        Btf(blob.bytes()).member_offset(1, "x")


def test_a_member_without_type_has_no_members() -> None:
    assert damaged(("nothing", 0, 0)).member_offset(1, "nothing.x") is None


def test_a_name_outside_the_strings_is_refused() -> None:
    blob = Blob()
    blob.add(STRUCT, "task", vlen=1, extra=struct.pack("<III", 5000, 0, 0))
    with pytest.raises(UnsupportedKernel, match="a name lies outside it"):
        Btf(blob.bytes()).member_offset(1, "x")


@given(st.lists(st.tuples(st.integers(0, len(KERNEL) - 1), st.integers(0, 255)), max_size=6))
def test_damage_raises_nothing_but_unsupported_kernel(damage: list[tuple[int, int]]) -> None:
    raw = bytearray(KERNEL)
    for position, byte in damage:
        raw[position] = byte
    try:
        btf = Btf(bytes(raw))
        for type_id in btf.structs(["task", "bits", "inner"]).values():
            for field in ("pid", "where.y", "deep_inner.x", "nothing"):
                btf.member_offset(type_id, field)
    except UnsupportedKernel:
        pass


@pytest.mark.skipif(not BTF_PATH.exists(), reason="this kernel has no BTF")
def test_the_running_kernel_has_what_the_probes_read() -> None:
    offsets = Btf.of_kernel().offsets(FIELDS)
    assert offsets["task_struct.tgid"] == offsets["task_struct.pid"] + 4
    assert offsets["sock_common.skc_daddr"] == 0
    required = {
        f"{name}.{field.split('|')[0]}"
        for name, fields in FIELDS.items()
        for field in fields
        if not field.endswith("?")
    }
    assert required <= offsets.keys()
    # `struct dentry_part` of bpf/probes/path.h reads these in one piece.
    parent = offsets["dentry.d_parent"]
    parts = [offsets[f"dentry.{name}"] - parent for name in ("d_name", "d_inode", "d_shortname")]
    assert parts == [8, 24, 32]
