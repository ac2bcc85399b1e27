import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.detection.paths import DELIVER_ALL, SensitivePaths, component_names


@pytest.mark.parametrize(
    ("entry", "path", "expected"),
    [
        ("/etc/shadow", "/etc/shadow", True),
        ("/etc/shadow", "/srv/chroot/etc/shadow", True),
        ("/etc/shadow", "/etc/shadow2", False),
        ("/etc/shadow", "/etc/shadow.bak", False),
        ("/etc/shadow", "/xetc/shadow", False),
        ("/etc/shadow", "/etc/shadow/x", True),
        ("/root/.ssh", "/root/.ssh/keys/id", True),
        ("/root/.ssh", "/root/.ssh", True),
        ("/root/.ssh", "/root/.sshd/x", False),
        ("/.ssh/id_rsa", "/home/a/.ssh/id_rsa", True),
        ("/.ssh/id_rsa", "/home/a/.ssh/id_rsa.pub", False),
        ("/etc/sudoers.d/", "/etc/sudoers.d/x", True),
        ("etc/shadow", "/etc/shadow", True),
        ("/home/*/.aws/credentials", "/home/a/.aws/credentials", True),
        ("/home/*/.aws/credentials", "/home/a/b/.aws/credentials", False),
        ("/home/*/.aws/credentials", "/srv/home/a/.aws/credentials", False),
        ("/etc/ssh/ssh_host_*_key", "/etc/ssh/ssh_host_rsa_key", True),
        ("/etc/ssh/ssh_host_*_key", "/etc/ssh/ssh_host_rsa_key.pub", False),
        ("/etc/*", "/etc/x", True),
        ("/etc/*", "/etc/x/y", False),
        ("/*/x?/*", "/a/x1/b", True),
        ("/*/x?/*", "/a/x/b", False),
    ],
)
def test_entries_match_whole_components(entry: str, path: str, *, expected: bool) -> None:
    paths = SensitivePaths([entry])
    assert paths.matches(path) is expected
    assert paths.matches(path) is expected, "the cached answer is the same"


@pytest.mark.parametrize(
    "text",
    ["/etc/../etc/shadow", "//etc//shadow", "/etc/./shadow", "etc/shadow", "/x/../../etc/shadow"],
)
def test_an_unresolved_path_cannot_hide(text: str) -> None:
    assert SensitivePaths(["/etc/shadow"]).matches_unresolved(text)


components = st.text(alphabet="ab.", min_size=1, max_size=3).filter(lambda t: t not in {".", ".."})
plain_paths = st.lists(components, min_size=1, max_size=5).map(lambda c: "/" + "/".join(c))
glob_parts = st.text(alphabet="ab*?", min_size=1, max_size=4)
globs = st.lists(glob_parts, min_size=1, max_size=5).map(lambda c: "/" + "/".join(c))


def by_definition(entry: str, path: str) -> bool:
    if "*" in entry or "?" in entry:
        pattern = "".join(
            {"*": "[^/]*", "?": "[^/]"}.get(char) or re.escape(char) for char in entry
        )
        return re.fullmatch(pattern, path) is not None
    return f"{entry}/" in f"{path}/"


@given(st.lists(plain_paths | globs, max_size=4), st.lists(plain_paths, max_size=12))
def test_the_fast_way_gives_what_the_definition_says(entries: list[str], paths: list[str]) -> None:
    matcher = SensitivePaths(entries)
    for path in (*paths, *paths):
        assert matcher.matches(path) is any(by_definition(entry, path) for entry in entries)


@given(st.lists(plain_paths | globs, max_size=4), plain_paths)
def test_the_prefilter_lets_every_match_pass(entries: list[str], path: str) -> None:
    names = component_names(entries)
    if SensitivePaths(entries).matches(path) and DELIVER_ALL not in names:
        assert names & set(path.split("/"))


def test_component_names() -> None:
    assert component_names(["/etc/shadow", "/home/*/.aws/*", "/root/.ssh/"]) == {
        "shadow",
        ".aws",
        ".ssh",
    }
    assert component_names(["/*/?"]) == {DELIVER_ALL}
    assert component_names([]) == frozenset()
