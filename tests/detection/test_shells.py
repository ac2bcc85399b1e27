import pytest

from actors.detection.shells import reads_commands


@pytest.mark.parametrize(
    ("line", "reads"),
    [
        ("sh", True),
        ("-bash", True),
        ("sh -i", True),
        ("sh -", True),
        ("sh -s a b", True),
        ("bash --norc -i", True),
        ("bash -o pipefail", True),
        ("bash --rcfile /tmp/x -i", True),
        ("bash /dev/fd/63", True),
        ("bash -- /dev/stdin", True),
        ("sh -c id", False),
        ("sh -ec id", False),
        ("bash -lc id", False),
        ("sh script", False),
        ("bash -x script -s", False),
        ("bash -o pipefail script", False),
        ("bash -- script", False),
    ],
)
def test_a_shell_reads_commands_unless_it_is_given_some(line: str, *, reads: bool) -> None:
    assert reads_commands(tuple(line.split())) is reads
