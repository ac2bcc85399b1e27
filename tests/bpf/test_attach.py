import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bpf import attach, pins
from bpf.attach import Attached, Loading, Order
from bpf.errors import BpfError, LoadError, MissingBcc, MissingBtf, UnsupportedKernel
from bpf.records import RINGS

HEAD = """
import json, os, socket, sys, time
channel = socket.socket(fileno=int(sys.argv[1]))
def send(message, descriptors=()):
    raw = message if isinstance(message, bytes) else json.dumps(message).encode()
    socket.send_fds(channel, [raw], list(descriptors))
def pipes(count):
    return [end for _ in range(count) for end in os.pipe()]
"""
ORDER = Order("tests-of-attach", "1", (1, 2))


def no_bpffs(*, mount: bool) -> int:
    raise OSError(1, f"there is no bpffs in these tests, mount={mount}")


def listed() -> set[str]:
    """Open descriptors, each with what it stands for."""
    links = list(Path("/proc/self/fd").iterdir())
    return {f"{link.name} {link.readlink()}" for link in links if link.is_symlink()}


@pytest.fixture
def loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Loading]]:
    """Start a loader of our own; afterwards nothing of it may be left."""
    pids: list[int] = []
    monkeypatch.setattr(attach, "find_bcc_python", lambda: sys.executable)
    monkeypatch.setattr(attach, "LOADER", tmp_path / "loader.py")
    monkeypatch.setattr(pins, "open_bpffs", no_bpffs)

    def start(script: str) -> Loading:
        (tmp_path / "loader.py").write_text(HEAD + textwrap.dedent(script))
        loading = Loading()
        pids.append(loading._child.pid)
        return loading

    before = listed()
    yield start
    assert listed() == before
    for pid in pids:
        assert not Path(f"/proc/{pid}").exists(), "running still, or not waited for"


def test_descriptors_come_under_their_names(loader: Callable[[str], Loading]) -> None:
    attached = loader(
        """
        read, write = os.pipe()
        os.write(write, b"from the loader")
        send({"names": ["OPEN_EVENTS", "link_x"], "cpus": 3}, [read, write])
        """
    ).finish(ORDER)
    assert attached.cpus == 3
    assert list(attached.descriptors) == ["OPEN_EVENTS", "link_x"]
    assert os.read(attached.descriptors["OPEN_EVENTS"], 99) == b"from the loader"
    attached.detach()


def test_the_order_reaches_the_loader_with_why_there_is_no_bpffs(
    loader: Callable[[str], Loading],
) -> None:
    attached = loader(
        """
        raw, descriptors, _, _ = socket.recv_fds(channel, 65536, 1)
        assert not descriptors
        order = json.loads(raw)
        assert order.pop("no_bpffs") == "there is no bpffs in these tests, mount=True"
        send({"names": [], "cpus": 1, "load_id": "ab", "gap": "no pins", "detail": str(order)})
        """
    ).finish(ORDER)
    assert attached == Attached(
        {},
        1,
        load_id="ab",
        gap="no pins",
        detail="{'agent_id': 'tests-of-attach', 'version': '1', 'owner': [1, 2]}",
    )
    assert not attached.taken_over


def test_the_order_comes_with_a_descriptor_of_bpffs(
    loader: Callable[[str], Loading], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def a_folder(*, mount: bool) -> int:
        assert mount
        return os.open(tmp_path, os.O_RDONLY)

    monkeypatch.setattr(pins, "open_bpffs", a_folder)
    (tmp_path / "a").mkdir()
    attached = loader(
        """
        raw, descriptors, _, _ = socket.recv_fds(channel, 65536, 1)
        assert json.loads(raw)["no_bpffs"] == ""
        folder = os.open("a", os.O_RDONLY, dir_fd=descriptors[0])
        send({"names": ["FOLDER"], "cpus": 1, "gap": None, "others": ["b"]}, [folder])
        """
    ).finish(ORDER)
    assert attached.taken_over
    assert attached.others == ("b",)
    assert attached.descriptors == {}
    assert attached.folder is not None
    (tmp_path / "a" / "pin").touch()
    assert attached.detach() == []
    assert not (tmp_path / "a").exists()


def test_pins_that_cannot_be_removed_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: int) -> list[str]:
        raise OSError(f"no room in {folder}")

    monkeypatch.setattr("bpf.pins.remove", refuse)
    folder = os.open(tmp_path, os.O_RDONLY)
    (why,) = Attached({}, 1, folder=folder).detach()
    assert "no room" in why
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(folder)


def test_a_loader_that_gets_no_order_is_stopped(loader: Callable[[str], Loading]) -> None:
    loader("time.sleep(60)").abandon()


def test_after_the_finish_there_is_nothing_to_stop(loader: Callable[[str], Loading]) -> None:
    loading = loader('send({"names": [], "cpus": 1})')
    loading.finish(ORDER)
    loading.abandon()


def test_a_failed_start_leaves_no_pins(
    loader: Callable[[str], Loading], monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned: list[str] = []
    monkeypatch.setattr(pins, "detach", cleaned.append)
    with pytest.raises(LoadError):
        loader('send({"error": "late", "kind": "LoadError"})').finish(ORDER)
    monkeypatch.setattr(attach, "_TIMEOUT_SECS", 0.3)
    with pytest.raises(LoadError):
        loader("time.sleep(60)").finish(ORDER)
    assert cleaned == [ORDER.agent_id] * 2


def test_what_the_agent_runs_does_not_inherit_the_descriptors(
    loader: Callable[[str], Loading],
) -> None:
    attached = loader('send({"names": ["a", "b"], "cpus": 1}, pipes(1))').finish(ORDER)
    assert not any(map(os.get_inheritable, attached.descriptors.values()))
    attached.detach()


def test_as_many_descriptors_as_the_probes_have_arrive(loader: Callable[[str], Loading]) -> None:
    attached = loader(
        'send({"names": [f"link_{n}" for n in range(60)], "cpus": 1}, pipes(30))'
    ).finish(ORDER)
    assert len(set(attached.descriptors.values())) == 60
    attached.detach()


@pytest.mark.parametrize(("named", "sent"), [(3, 2), (1, 2), (2, 0), (66, 66)])
def test_a_name_without_descriptor_is_an_error(
    loader: Callable[[str], Loading], named: int, sent: int
) -> None:
    loading = loader(
        f"""
        send({{"names": [str(n) for n in range({named})], "cpus": 1}}, pipes({sent} // 2))
        """
    )
    arrived = min(sent, attach._DESCRIPTORS_MAX)
    text = f"the loader named {named} descriptors and sent {arrived}"
    with pytest.raises(LoadError, match=f"^{text}$"):
        loading.finish(ORDER)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("UnsupportedKernel", UnsupportedKernel),
        ("MissingBtf", MissingBtf),
        ("LoadError", LoadError),
        ("NeverHeardOf", LoadError),
    ],
)
def test_the_loaders_error_is_raised_here(
    loader: Callable[[str], Loading], kind: str, error: type[BpfError]
) -> None:
    loading = loader(
        f"""
        print("the verifier's words", file=sys.stderr)
        send({{"error": "no such thing", "kind": "{kind}"}})
        os._exit(1)
        """
    )
    with pytest.raises(BpfError, match=r"^no such thing") as caught:
        loading.finish(ORDER)
    assert type(caught.value) is error
    assert ("the verifier's words" in str(caught.value)) == (error is LoadError)


def test_descriptors_beside_an_error_are_closed(loader: Callable[[str], Loading]) -> None:
    loading = loader('send({"error": "too late", "kind": "LoadError"}, pipes(2))')
    with pytest.raises(LoadError, match="too late"):
        loading.finish(ORDER)


def test_a_loader_that_dies_without_a_word_leaves_its_noise(
    loader: Callable[[str], Loading],
) -> None:
    loading = loader(
        r"""
        sys.stderr.buffer.write(b"first" + b"." * 5000 + b"Segmentation \xff fault\n")
        os.abort()
        """
    )
    with pytest.raises(LoadError, match=r"died without a word; it printed:\n") as caught:
        loading.finish(ORDER)
    assert r"Segmentation \xff fault" in str(caught.value)
    assert "first" not in str(caught.value)


def test_a_loader_that_leaves_the_socket_to_another_has_said_nothing(
    loader: Callable[[str], Loading],
) -> None:
    loading = loader(
        """
        if os.fork() == 0:
            os.close(2)
            time.sleep(3)
        os._exit(0)
        """
    )
    begin = time.monotonic()
    with pytest.raises(LoadError, match="without a word"):
        loading.finish(ORDER)
    assert time.monotonic() - begin < 2, "it does not wait for the other"


@pytest.mark.parametrize("raw", ["no json", "{", "\\xff"])
def test_a_message_that_is_no_json_is_an_error(loader: Callable[[str], Loading], raw: str) -> None:
    loading = loader(f'send(b"{raw}", pipes(1))')
    with pytest.raises(LoadError, match=r"^the loader sent no JSON but b'"):
        loading.finish(ORDER)


def test_a_loader_that_hangs_is_killed(
    loader: Callable[[str], Loading], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attach, "_TIMEOUT_SECS", 0.3)
    loading = loader("send({'names': ['a', 'b'], 'cpus': 1}, pipes(1)); time.sleep(60)")
    begin = time.monotonic()
    with pytest.raises(LoadError, match=r"^the loader did not finish within 0\.3 s$"):
        loading.finish(ORDER)
    assert time.monotonic() - begin < 10


def test_detaching_closes_every_descriptor() -> None:
    before = listed()
    Attached(dict(zip("ab", os.pipe(), strict=True)), 1).detach()
    assert listed() == before


def test_every_ring_is_mapped_from_its_own_descriptor() -> None:
    descriptors = {ring.map_name: os.memfd_create(ring.map_name) for ring in RINGS}
    for ring in RINGS:
        os.truncate(descriptors[ring.map_name], 8192 + ring.size_bytes)
    attached = Attached(descriptors, 1)
    mapped = attached.rings()
    assert {name: made.descriptor for name, made in mapped.items()} == descriptors
    assert [made.size_bytes for made in mapped.values()] == [ring.size_bytes for ring in RINGS]
    for made in mapped.values():
        made.close()
    attached.detach()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root folder without anything; the system's Python is `bin/python3` in it."""
    under = tmp_path.relative_to("/")
    monkeypatch.setattr(attach, "_PYTHONS", (f"{tmp_path}/bin/python3", f"{tmp_path}/libexec/py"))
    folders = tuple(f"{under}/{pattern}" for pattern in attach._PACKAGE_FOLDERS)
    monkeypatch.setattr(attach, "_PACKAGE_FOLDERS", folders)
    return tmp_path


def install(root: Path, *files: str) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()


@pytest.mark.parametrize("python", ["bin/python3", "libexec/py"])
@pytest.mark.parametrize(
    "packages",
    [
        "usr/lib/python3/dist-packages",
        "usr/lib/python3.13/site-packages",
        "usr/lib64/python3.9/site-packages",
    ],
)
def test_the_python_beside_the_distributions_bcc_is_taken(
    machine: Path, python: str, packages: str
) -> None:
    install(machine, python, f"{packages}/bcc/libbcc.py")
    assert attach.find_bcc_python() == f"{machine}/{python}"


@pytest.mark.parametrize(
    "files",
    [
        [],
        ["bin/python3"],
        ["usr/lib/python3/dist-packages/bcc/libbcc.py"],
        ["bin/python3", "usr/lib/python3/dist-packages/bcc/__init__.py"],
        ["bin/python3", "usr/local/lib/python3.11/site-packages/bcc/libbcc.py"],
    ],
    ids=["nothing", "no bcc", "no python", "the lattice library", "pip's folder"],
)
def test_without_the_distributions_bcc_one_is_told_what_to_install(
    machine: Path, files: list[str]
) -> None:
    install(machine, *files)
    with pytest.raises(MissingBcc, match="install python3-bpfcc"):
        attach.find_bcc_python()
    with pytest.raises(MissingBcc):
        Loading()
