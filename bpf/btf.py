"""Field offsets of kernel structs, read from the running kernel's BTF.

The format is the kernel's Documentation/bpf/btf.rst: a header, a type section of 12-byte
``struct btf_type`` records each followed by kind-specific data, and a string section.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

from bpf.errors import MissingBtf, UnsupportedKernel

BTF_PATH = Path("/sys/kernel/btf/vmlinux")

_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")
_MEMBER = struct.Struct("<III")
_MAGIC = 0xEB9F
_KIND_STRUCT = 4
_KIND_UNION = 5
_KIND_FUNCTION = 12
# Bytes that follow a type record: a fixed part and a part per entry (vlen), by kind. Every kind
# must be here: past one of unknown size nothing can be read.
_EXTRA: dict[int, tuple[int, int]] = {
    1: (4, 0),  # INT
    2: (0, 0),  # PTR
    3: (12, 0),  # ARRAY
    4: (0, 12),  # STRUCT
    5: (0, 12),  # UNION
    6: (0, 8),  # ENUM
    7: (0, 0),  # FWD
    8: (0, 0),  # TYPEDEF
    9: (0, 0),  # VOLATILE
    10: (0, 0),  # CONST
    11: (0, 0),  # RESTRICT
    12: (0, 0),  # FUNC
    13: (0, 8),  # FUNC_PROTO
    14: (4, 0),  # VAR
    15: (0, 12),  # DATASEC
    16: (0, 0),  # FLOAT
    17: (4, 0),  # DECL_TAG
    18: (0, 0),  # TYPE_TAG
    19: (0, 12),  # ENUM64
}
_MODIFIERS = {8, 9, 10, 11, 18}  # TYPEDEF VOLATILE CONST RESTRICT TYPE_TAG: lead to another type
_NESTING_MAX = 32  # the kernel's own limit (MAX_RESOLVE_DEPTH of kernel/bpf/btf.c)

Wanted = Mapping[str, Iterable[str]]


class Btf:
    """Type information of one kernel image.

    Args:
        raw: the whole of ``/sys/kernel/btf/vmlinux``.

    Raises:
        UnsupportedKernel: the bytes are not BTF, or cut, or of a version with unknown kinds. So
            does every method where one type refers to another that is not there.
    """

    def __init__(self, raw: bytes) -> None:
        if len(raw) < _HEADER.size:
            raise UnsupportedKernel(f"{BTF_PATH} is not BTF: it has only {len(raw)} bytes")
        header = _HEADER.unpack_from(raw)
        magic, _version, _flags, hdr_len, type_off, type_len, str_off, str_len = header
        if magic != _MAGIC:
            raise UnsupportedKernel(f"{BTF_PATH} is not BTF: its magic is {magic:#x}")
        types_end, strings_at = hdr_len + type_off + type_len, hdr_len + str_off
        if max(types_end, strings_at + str_len) > len(raw):
            raise UnsupportedKernel(f"{BTF_PATH} is cut short: it has only {len(raw)} bytes")
        self._raw = raw
        self._strings = raw[strings_at : strings_at + str_len]
        self._positions = [0]  # type ids count from 1; 0 is void
        self._walk(hdr_len + type_off, types_end)

    def _walk(self, position: int, end: int) -> None:
        raw, positions, unpack = self._raw, self._positions, _TYPE.unpack_from
        while position + _TYPE.size <= end:
            positions.append(position)
            info = unpack(raw, position)[1]
            extra = _EXTRA.get(info >> 24 & 0x1F)
            if extra is None:
                raise UnsupportedKernel(
                    f"{BTF_PATH} has types of a kind that Lavender does not know: "
                    f"{info >> 24 & 0x1F}"
                )
            position += _TYPE.size + extra[0] + extra[1] * (info & 0xFFFF)
        if position != end:
            raise UnsupportedKernel(f"{BTF_PATH} is damaged: its last type is cut")

    def _name_at(self, offset: int) -> bytes:
        end = self._strings.find(b"\0", offset)
        if end < 0:
            raise UnsupportedKernel(f"{BTF_PATH} is damaged: a name lies outside it")
        return self._strings[offset:end]

    @classmethod
    def of_kernel(cls, path: Path = BTF_PATH) -> Btf:
        """The running kernel's.

        Raises:
            MissingBtf: it has none.
            UnsupportedKernel: as for the class.
        """
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise MissingBtf(
                f"this kernel has no BTF type information ({path}: {error.strerror}); "
                "Lavender needs a kernel built with CONFIG_DEBUG_INFO_BTF=y"
            ) from error
        return cls(raw)

    def structs(self, names: Iterable[str]) -> dict[str, int]:
        """Type ids of the named structs; a name the kernel does not have is left out."""
        return self._ids(names, _KIND_STRUCT)

    def functions(self, names: Iterable[str]) -> dict[str, int]:
        """Type ids of the named functions; a name the kernel does not have is left out."""
        return self._ids(names, _KIND_FUNCTION)

    def _ids(self, names: Iterable[str], kind: int) -> dict[str, int]:
        strings = self._strings
        offsets = {}
        for name in names:
            # A name may also stand as another's suffix (the linker merges tails): take every hit.
            needle, start = name.encode() + b"\0", 0
            while (hit := strings.find(needle, start)) >= 0:
                offsets[hit] = name
                start = hit + 1
        found: dict[str, int] = {}
        raw, unpack = self._raw, _TYPE.unpack_from
        for type_id in range(1, len(self._positions)):
            name_off, info, _size = unpack(raw, self._positions[type_id])
            if name_off in offsets and info >> 24 & 0x1F == kind:
                found.setdefault(offsets[name_off], type_id)
        return found

    def member_offset(self, type_id: int, field: str) -> int | None:
        """Byte offset of a member, also one inside unnamed structs and unions; None if absent.

        ``a.b`` descends into the struct that is the type of ``a``.
        """
        head, _, rest = field.partition(".")
        found = self._find(type_id, head.encode())
        if found is None or not rest:
            return None if found is None else found[0]
        inner = self.member_offset(found[1], rest)
        return None if inner is None else found[0] + inner

    def _find(self, type_id: int, field: bytes, depth: int = 0) -> tuple[int, int] | None:
        position, info = self._resolve(type_id)
        if info >> 24 & 0x1F not in (_KIND_STRUCT, _KIND_UNION):
            return None
        if depth > _NESTING_MAX:
            raise UnsupportedKernel(f"{BTF_PATH} is damaged: a struct contains itself")
        for index in range(info & 0xFFFF):
            name_off, member_type, bits = _MEMBER.unpack_from(self._raw, position + 12 + 12 * index)
            if info >> 31:  # kind_flag: the upper byte is a bit-field's width
                bits &= 0xFFFFFF
            name = self._name_at(name_off)
            if name == field:
                return bits // 8, member_type
            if not name and (inner := self._find(member_type, field, depth + 1)) is not None:
                return bits // 8 + inner[0], inner[1]
        return None

    def _resolve(self, type_id: int) -> tuple[int, int]:
        """Position and info word of the type behind typedefs and qualifiers; info 0 for void."""
        for _ in range(_NESTING_MAX):
            if type_id == 0:
                return 0, 0
            if type_id >= len(self._positions):
                raise UnsupportedKernel(f"{BTF_PATH} is damaged: it has no type {type_id}")
            position = self._positions[type_id]
            _name, info, target = _TYPE.unpack_from(self._raw, position)
            if info >> 24 & 0x1F not in _MODIFIERS:
                return position, info
            type_id = target
        raise UnsupportedKernel(f"{BTF_PATH} is damaged: type {type_id} leads to itself")

    def offsets(self, wanted: Wanted) -> dict[str, int]:
        """Offsets in bytes, keyed ``struct.field``, of the wanted fields.

        A field may be written ``new|old``: the first name this kernel has counts, under the key of
        the first name. One that ends in ``?`` is left out where the kernel has none.

        Raises:
            UnsupportedKernel: a struct or field is missing; the text names it.
        """
        ids = self.structs(wanted)
        offsets: dict[str, int] = {}
        for struct_name, fields in wanted.items():
            if struct_name not in ids:
                raise UnsupportedKernel(f"this kernel's BTF has no struct {struct_name}")
            for field in fields:
                names = field.removesuffix("?").split("|")
                hits = (self.member_offset(ids[struct_name], name) for name in names)
                offset = next((hit for hit in hits if hit is not None), None)
                if offset is None and field.endswith("?"):
                    continue
                if offset is None:
                    raise UnsupportedKernel(
                        f"this kernel's struct {struct_name} has no field {' or '.join(names)}"
                    )
                offsets[f"{struct_name}.{names[0]}"] = offset
        return offsets
