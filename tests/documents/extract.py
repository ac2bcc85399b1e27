"""What the documents show: fenced blocks, the commands in them, and commands named in the text.

``python -m tests.documents.extract DOCUMENT LANGUAGE N`` prints a document's n-th block, from 0.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^ {0,3}```(\S*)\s*$")
_SPAN = re.compile(r"`([^`\n]+)`")
_COMMANDS = re.compile(
    r"^(?:sudo |\.venv/bin/|python3? -m |make [a-z]|docker |git |curl |pg_|psql |createdb "
    r"|sqlite3 |nats-server |redis-|systemctl |journalctl )"
)
_COMMENT = re.compile(r"\s{2,}#\s.*$")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    document: str
    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command as it is shown, without a comment behind it."""

    document: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}: {self.text}"


def documents() -> list[Path]:
    """README and everything under docs."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name_of(path: Path) -> str:
    """Its path in the checkout."""
    return str(path.relative_to(ROOT))


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a document."""
    found: list[Block] = []
    begun: tuple[int, str] | None = None
    lines: list[str] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        fence = _FENCE.match(line)
        if begun is None:
            if fence:
                begun, lines = (number, fence[1]), []
        elif fence and not fence[1]:
            found.append(Block(name_of(path), *begun, "".join(f"{each}\n" for each in lines)))
            begun = None
        else:
            lines.append(line)
    assert begun is None, f"{path}: a block is not closed"
    return found


def text_of(path: Path) -> Iterator[tuple[int, str]]:
    """The lines outside of blocks, with their numbers."""
    inside = False
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if _FENCE.match(line):
            inside = not inside
        elif not inside:
            yield number, line


def shown(path: Path) -> list[Command]:
    """The commands of a document's blocks of the language ``sh``; a backslash joins lines."""
    found = []
    for block in blocks(path):
        if block.language != "sh":
            continue
        joined, begun = "", 0
        for number, line in enumerate(block.text.splitlines(), block.line + 1):
            begun = begun if joined else number
            joined += line
            if joined.endswith("\\"):
                joined = joined[:-1]
                continue
            command = _COMMENT.sub("", " ".join(joined.split())).strip()
            if command and not command.startswith("#"):
                found.append(Command(block.document, begun, command))
            joined = ""
    return found


def named(path: Path) -> list[Command]:
    """Commands in the text itself, between backticks."""
    return [
        Command(name_of(path), number, span)
        for number, line in text_of(path)
        for span in _SPAN.findall(line)
        if _COMMANDS.match(span)
    ]


def plain(command: str) -> str:
    """A command without its variables, and what says as whom and with whose Python it runs."""
    bare = re.sub(r"^(?:[A-Z_]+=\S+ )+", "", command.removeprefix("sudo "))
    return bare.replace(".venv/bin/", "", 1)


if __name__ == "__main__":
    document, language, number = sys.argv[1:]
    wanted = [each for each in blocks(ROOT / document) if each.language == language]
    sys.stdout.write(wanted[int(number)].text)
