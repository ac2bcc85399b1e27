"""Imports go one way, and what the whole tree keeps to."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("actors", "bpf", "services", "transport")
LINES_MAX = 500
IMPURE = {
    *("asyncio", "concurrent", "multiprocessing", "threading", "trio"),
    *("fcntl", "io", "mmap", "os", "pathlib", "pty", "select", "selectors", "shutil", "signal"),
    *("socket", "ssl", "subprocess", "sys", "tempfile"),
    *("datetime", "random", "secrets", "time", "uuid"),
    *("logging", "structlog"),
}
"""What detection may not import: it has no clock, no chance, no I/O."""


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything a file imports, `from a import b` as ``a.b``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: a relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def is_ours(name: str) -> bool:
    return any(is_within(name, package) for package in (*PRODUCT, "tests"))


def offences(folder: str, *, allowed: tuple[str, ...]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(folder)
        for line, name in imports(path)
        if is_ours(name) and not any(is_within(name, package) for package in allowed)
    ]


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("bpf", ("bpf",)),
        ("actors/runtime", ("actors.runtime",)),
        ("actors/detection", ("actors.detection",)),
        (
            "actors/agent",
            (
                *("actors.agent", "actors.config", "actors.detection", "actors.runtime"),
                *("actors.version", "actors.logs", "actors.notify", "actors.stdio", "actors.usage"),
                "actors.entry",
                *("bpf", "transport"),
                *(
                    "actors.recordings",
                    "actors.rule_folders",
                    "actors.rulebook",
                    "actors.rulefiles",
                    "actors.alerting",
                ),
            ),
        ),
        ("transport", ("transport", "actors.runtime", "actors.detection.events")),
        ("actors", ("actors", "bpf", "transport")),
        (
            "services",
            (
                *("services", "transport", "actors.runtime", "actors.detection"),
                *("actors.config", "actors.logs", "actors.notify", "actors.stdio"),
                *("actors.version", "actors.usage", "actors.entry"),
                *(
                    "actors.recordings",
                    "actors.rule_folders",
                    "actors.rulebook",
                    "actors.rulefiles",
                    "actors.alerting",
                ),
            ),
        ),
    ],
)
def test_imports_go_one_way(folder: str, allowed: tuple[str, ...]) -> None:
    assert offences(folder, allowed=allowed) == []


def test_services_never_import_the_agent() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources("services")
        for line, name in imports(path)
        if is_within(name, "actors.agent") or is_within(name, "bpf")
    ]
    assert found == []


@pytest.mark.parametrize("path", sources("actors/detection"), ids=lambda path: path.name)
def test_detection_is_pure(path: Path) -> None:
    tree = ast.parse(path.read_text())
    waits = [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef | ast.Await)]
    assert waits == []
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    called = {function.id for function in calls if isinstance(function, ast.Name)}
    assert not called & {"open", "print", "input", "exec", "eval", "breakpoint"}
    impure = [(line, name) for line, name in imports(path) if name.partition(".")[0] in IMPURE]
    assert impure == []


def _is_attribute_of(node: ast.AST, name: str) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == name
    )


def everything() -> list[Path]:
    return [path for folder in (*PRODUCT, "tests") for path in sources(folder)]


def test_only_transport_crosses_over_to_asyncio() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for folder in PRODUCT
        for path in sources(folder)
        if path.relative_to(ROOT).parts[0] != "transport"
        for line, name in imports(path)
        if is_within(name, "asyncio") or is_within(name, "trio_asyncio")
    ]
    assert found == []


def test_trio_is_imported_whole() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in everything()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and is_within(node.module or "", "trio")
    ]
    assert found == []


def test_product_code_never_sleeps_in_its_thread() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {ast.unparse(node)}"
        for folder in PRODUCT
        for path in sources(folder)
        for node in ast.walk(ast.parse(path.read_text()))
        if (_is_attribute_of(node, "time") and getattr(node, "attr", "") == "sleep")
        or (isinstance(node, ast.ImportFrom) and node.module == "time" and _names(node, "sleep"))
    ]
    assert found == []


def _names(node: ast.ImportFrom, name: str) -> bool:
    return any(alias.name == name for alias in node.names)


def test_no_file_is_too_long_to_read() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in everything()
        if (lines := len(path.read_text().splitlines())) > LINES_MAX
    }
    assert long == {}


def test_no_module_is_a_heap_of_leftovers() -> None:
    heaps = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}
    assert [path for path in everything() if path.name in heaps] == []
