"""What a broker sends, in whatever pieces it comes."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.errors import ProtocolError

from transport.parsing import Parser


class Client:
    """Notes what it is handed."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    async def _process_msg(self, *values: Any) -> None:
        self.heard.append(values)

    async def _process_ping(self) -> None:
        self.heard.append(("ping",))

    async def _process_pong(self) -> None:
        self.heard.append(("pong",))

    async def _process_err(self, text: str) -> None:
        self.heard.append(("err", text))

    async def _process_info(self, info: dict[str, Any]) -> None:
        self.heard.append(("info", info))


def run(*pieces: bytes) -> list[tuple[Any, ...]]:
    """Parse in asyncio's way, which needs no loop here: nothing in it waits."""
    client = Client()
    parser = Parser(client)
    for piece in pieces:
        with pytest.raises(StopIteration):
            parser.parse(piece).send(None)
    return client.heard


STREAM = (
    b'INFO {"version":"2.15.1"}\r\n+OK\r\nPING\r\n'
    b"MSG a.b 1 5\r\nhello\r\n"
    b"MSG a.\x0b\x0c\xff\xc2\xa0 2 $JS.ACK.x 0\r\n\r\n"
    b"HMSG a.b 3 r 12 15\r\nNATS/1.0\r\n\r\nabc\r\n"
    b"-ERR 'Permissions Violation for Publish to \"a.\xff\"'\r\nPONG\r\n"
)
HEARD = [
    ("info", {"version": "2.15.1"}),
    ("ping",),
    (1, b"a.b", b"", b"hello", b""),
    (2, b"a.\x0b\x0c\xff\xc2\xa0", b"$JS.ACK.x", b"", b""),
    (3, b"a.b", b"r", b"abc", b"NATS/1.0\r\n\r\n"),
    ("err", "'permissions violation for publish to \"a.\\xff\"'"),
    ("pong",),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=6).map(sorted))
def test_in_whatever_pieces_it_comes_it_is_the_same(cuts: list[int]) -> None:
    edges = [0, *cuts, len(STREAM)]
    pieces = [STREAM[begin:end] for begin, end in itertools.pairwise(edges)]
    assert run(*pieces) == HEARD


def test_a_subject_as_long_as_a_broker_takes_is_delivered() -> None:
    long = b"a." + b"x" * 4000
    assert run(b"MSG " + long + b" 7 $JS.ACK.", b"y" * 200 + b" 2\r\nhi\r\n") == [
        (7, long, b"$JS.ACK." + b"y" * 200, b"hi", b"")
    ]


@pytest.mark.parametrize(
    "line",
    [b"HELLO\r\n", b"MSG a 1\r\n", b"MSG a b c d 5\r\n", b"MSG a x 5\r\n", b"HMSG a 1 9 5\r\n"],
)
def test_what_is_no_protocol_is_an_error(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        run(line)
