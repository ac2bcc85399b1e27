"""The worst subjects that a broker accepts, and what puts messages on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from transport.session import Session

TOKENS = (
    b"e\xc2\xa0l",  # a no-break space: white to Python, not to NATS
    b"e\xe2\x80\xa8l",  # a line separator
    b"e\xe2\x80\x8bl",  # without width
    b"e\xff\xfe",  # no UTF-8
    b"\xed\xa0\x80",  # half of a surrogate pair
    b"e\x01l",
    b"e\x00l",
    b"e\x0bl",  # white to a regular expression
    b"e\x0cl",
    b"e\x1b[2Jl",
    b"e\x7fl",
    b"a/b",
    b"a\\xffb",
    b"'\"{}$",
    b"-ERR",
    b"%s%n{0}",
    b"x" * 65,
    b"x" * 3000,
    "é".encode() * 500,
)


def subjects(prefix: bytes) -> Iterator[bytes]:
    """Odd subjects of two tokens under a prefix, and those of other lengths."""
    for token in TOKENS:
        yield prefix + b".acme." + token
        yield prefix + b"." + token + b".web-1"
    yield prefix + b".x"
    yield prefix + b".acme.web-1.x"
    yield prefix + b"".join(b".%d" % number for number in range(300))


def publish_raw(session: Session, subject: bytes, payload: bytes, *, reply: bytes = b"") -> None:
    """Publish past our own checks, as a stranger's program does."""
    link = session._link
    if link is not None:
        words = b" ".join(word for word in (b"PUB", subject, reply) if word)
        link.wire._put(words + b" %d\r\n" % len(payload) + payload + b"\r\n")


def put_into(session: Session, prefix: bytes, payloads: Iterable[bytes]) -> int:
    """Each payload on each of the worst subjects under a prefix; how many messages."""
    count = 0
    for payload in payloads:
        for subject in subjects(prefix):
            publish_raw(session, subject, payload)
            count += 1
    return count
