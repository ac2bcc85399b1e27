import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from bpf import source
from bpf.records import (
    COUNTER_STRIDE_BYTES,
    COUNTERS,
    HEADER_BYTES,
    LAYOUTS,
    NAME_WORDS,
    OPEN,
    OPEN_SLOT_BYTES,
    PROBES,
    RINGS,
    Layout,
    c_declarations,
)

TYPES = """
typedef unsigned long long u64; typedef long long s64; typedef unsigned u32; typedef int s32;
typedef unsigned short u16; typedef short s16; typedef unsigned char u8; typedef signed char s8;
"""
every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="`make setup` installs gcc")


def complaints(text: str) -> str:
    done = subprocess.run(
        ["gcc", "-fsyntax-only", "-Wall", "-Werror", "-Wpadded", "-x", "c", "-"],  # noqa: S607 - the PATH's gcc is the one wanted
        input=TYPES + text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert bool(done.returncode) == bool(done.stderr)
    return done.stderr


@needs_gcc
def test_the_compiler_lays_records_out_as_the_decoders_do() -> None:
    sizes = "".join(
        f'_Static_assert(sizeof(struct {layout.name}_record) == {layout.size}, "");\n'
        for layout in LAYOUTS
    )
    stride = f'_Static_assert(sizeof(struct counters) == {COUNTER_STRIDE_BYTES}, "");\n'
    assert complaints(c_declarations() + sizes + stride) == ""


@needs_gcc
def test_a_layout_with_a_hole_does_not_compile() -> None:
    holed = Layout("holed", (("small", "u16"), ("big", "u64")))
    assert "holed.big" in complaints(holed.c_struct())
    assert "ended size" in complaints(Layout("ended", (("big", "u64"), ("end", "u16"))).c_struct())


@every_layout
def test_records_begin_with_when_and_who(layout: Layout) -> None:
    names = [name for name, _ in layout.fields]
    assert names[:4] == ["time_ns", "start_ns", "pid", "uid"]
    assert len(set(names)) == len(names)


@every_layout
def test_the_code_has_one_item_per_field(layout: Layout) -> None:
    assert len(struct.unpack("<" + layout.code, bytes(layout.size))) == len(layout.fields)


def test_every_probe_has_a_ring_the_kernel_accepts() -> None:
    assert {ring.probe for ring in RINGS} == set(PROBES)
    assert len({ring.map_name for ring in RINGS}) == len(RINGS)
    for ring in RINGS:
        assert ring.size_bytes >= 4096
        assert ring.size_bytes & (ring.size_bytes - 1) == 0


def test_a_ring_holds_whole_open_slots() -> None:
    rings = [ring for ring in RINGS if ring.probe == OPEN.name]
    assert rings
    assert all(ring.size_bytes % OPEN_SLOT_BYTES == 0 for ring in rings)
    assert OPEN.size + HEADER_BYTES < OPEN_SLOT_BYTES


def test_the_filter_has_as_many_words_as_its_hash_reaches() -> None:
    assert NAME_WORDS * 64 == 4096


def test_the_constants_of_the_probes_are_those_of_the_reader() -> None:
    defined = dict(re.findall(r"^#define (\w+) (\w+)$", c_declarations(), re.MULTILINE))
    numbers = [defined[f"PROBE_{name.upper()}"] for name in PROBES]
    assert numbers == list(map(str, range(len(PROBES))))
    assert defined["PROBE_COUNT"] == str(len(PROBES))
    assert defined["TICK_NS"] == "10000000ULL"
    for ring in RINGS:
        assert int(defined[f"{ring.map_name}_PAGES"]) * 4096 == ring.size_bytes
    assert f"u64 {'; u64 '.join(COUNTERS)};" in c_declarations()


def macro(key: str) -> str:
    return "OFF_" + key.partition("|")[0].removesuffix("?").replace(".", "_")


WANTED = {f"{name}.{field}" for name, fields in source.FIELDS.items() for field in fields}


def test_the_fields_read_from_btf_are_those_the_probes_use() -> None:
    flags = source.compiler_flags({"task_struct.loginuid": 1}, cpu_count=1)
    text = source.program_text() + " ".join(flags)
    used = set(re.findall(r"OFF_[a-z]\w+", text))
    # These three are read at fixed places behind d_parent (test_btf.py checks them).
    assumed = {"OFF_dentry_d_name", "OFF_dentry_d_inode", "OFF_dentry_d_shortname"}
    assert used | assumed == {macro(key) for key in WANTED}


def test_the_program_names_the_file_of_each_part() -> None:
    text = source.program_text()
    assert text.startswith("#define BPF_LICENSE Dual BSD/GPL\n")
    parts = re.findall(r'^#line 1 "(.+)"$', text, re.MULTILINE)
    assert sorted(parts) == sorted(
        f"bpf/probes/{path.name}" for path in Path(source.BPF_FOLDER, "probes").iterdir()
    )
    for probe in PROBES:
        assert f"PROBE_{probe.upper()}" in text


def test_offsets_become_macros() -> None:
    flags = source.compiler_flags({"task_struct.pid": 8, "user_namespace.ns.inum": 16}, cpu_count=3)
    assert {"-DOFF_task_struct_pid=8", "-DOFF_user_namespace_ns_inum=16", "-DCPU_COUNT=3"} <= {
        *flags
    }


@pytest.mark.parametrize(
    ("offsets", "login"),
    [
        ({}, "4294967295U"),
        ({"task_struct.loginuid": 4}, "LOAD32(task,OFF_task_struct_loginuid)"),
    ],
)
def test_without_audit_the_login_user_is_unknown(offsets: dict[str, int], login: str) -> None:
    assert f"-DLOGIN_UID(task)={login}" in source.compiler_flags(offsets, cpu_count=1)


def test_every_attachment_has_its_program_and_every_program_its_attachment() -> None:
    text = source.program_text()
    raw = {
        f"raw_tracepoint__{name}"
        for name in re.findall(r"^RAW_TRACEPOINT_PROBE\((\w+)\)", text, re.MULTILINE)
    }
    cooked = {
        f"tracepoint__{group}__{name}"
        for group, name in re.findall(r"^TRACEPOINT_PROBE\((\w+), (\w+)\)", text, re.MULTILINE)
    }
    assert set(source.ATTACHMENTS.values()) == raw | cooked
    assert {function for function in raw | cooked if source.is_raw(function)} == raw
    assert source.SLOW_TO_VERIFY in raw | cooked


def test_what_the_agent_holds_has_names_that_bpffs_takes() -> None:
    assert len(source.HELD) == len(source.MAPS) + len(source.ATTACHMENTS)
    assert all(re.fullmatch(r"\w+", name) for name in source.HELD)


def test_another_version_layout_or_machine_is_another_digest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digests = {source.digest("1", cpu_count=2), source.digest("2", cpu_count=2)}
    digests.add(source.digest("1", cpu_count=3))
    assert source.digest("1", cpu_count=2) in digests
    monkeypatch.setattr(source, "c_declarations", lambda: "struct other;")
    digests.add(source.digest("1", cpu_count=2))
    assert len(digests) == 4
