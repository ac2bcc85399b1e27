import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.frames import (
    decode_ack_subject,
    decode_headers,
    decode_version,
    encode_headers,
    message_id_text,
)


def test_fields_come_back_as_they_were() -> None:
    fields = {"Nats-Msg-Id": "a:b c", "X": "", "Y": "grüße"}
    assert decode_headers(encode_headers(fields)) == (0, "", fields)


@pytest.mark.parametrize(
    ("raw", "status", "description"),
    [
        (b"NATS/1.0 404 No Messages\r\n\r\n", 404, "No Messages"),
        (b"NATS/1.0 503\r\n\r\n", 503, ""),
        (b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 1\r\n\r\n", 100, "Idle Heartbeat"),
        (
            b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 1\r\n\r\n",
            408,
            "Request Timeout",
        ),
        (b"NATS/1.0\r\nA: b\r\n\r\n", 0, ""),
        (b"NATS/1.0 4o4\r\n\r\n", 0, ""),
        (b"NATS/1.0 99999999999\r\n\r\n", 0, ""),
        ("NATS/1.0 ²²²\r\n\r\n".encode(), 0, ""),
        (b"", 0, ""),
        (None, 0, ""),
    ],
)
def test_a_status_line_is_read(raw: bytes | None, status: int, description: str) -> None:
    found = decode_headers(raw)
    assert found.status == status
    if status:
        assert found.description == description


@given(st.binary(max_size=200))
def test_no_header_block_is_too_odd(raw: bytes) -> None:
    decode_headers(raw)
    decode_headers(b"NATS/1.0" + raw)


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=4))
def test_what_is_encoded_stays_within_its_lines(fields: dict[str, str]) -> None:
    try:
        raw = encode_headers(fields)
    except ValueError:
        return
    assert raw.count(b"\r\n") == len(fields) + 2
    assert raw.count(b"\n") == raw.count(b"\r") == len(fields) + 2
    assert raw.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "fields", [{"A\r\nB": "x"}, {"A": "x\r\nB: y"}, {"": "x"}, {"A b": "x"}, {"A": "\0"}]
)
def test_a_header_that_would_break_out_is_refused(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="header"):
        encode_headers(fields)


def test_the_ack_subject_is_read_in_both_forms() -> None:
    short = "$JS.ACK.RAW.ingest.3.42.7.1700000000123456789.5"
    long = "$JS.ACK.hub.ACC.RAW.ingest.3.42.7.1700000000123456789.5.token"
    for reply in (short, long):
        assert decode_ack_subject(reply) == ("RAW", "ingest", 3, 42, 1_700_000_000_123)


@pytest.mark.parametrize(
    "reply", ["", "_INBOX.a.b", "$JS.ACK", "$JS.ACK.a.b.c.d.e.f.g", "$JS.ACK.1.2.3.4.5.6.7.8"]
)
def test_any_other_reply_is_none(reply: str) -> None:
    with pytest.raises(ValueError, match=r"ack subject|invalid literal"):
        decode_ack_subject(reply)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("2.10.4", (2, 10, 4)),
        ("nats-server: v2.9.25\n", (2, 9, 25)),
        ("2.11.0-RC.1", (2, 11, 0)),
        ("3.1", (3, 1, 0)),
    ],
)
def test_versions_are_numbers(text: str, version: tuple[int, int, int]) -> None:
    assert decode_version(text) == version


def test_no_version_is_an_error() -> None:
    with pytest.raises(ValueError, match="no version"):
        decode_version("unknown")


def test_odd_message_ids_travel_as_their_digests() -> None:
    assert message_id_text("acme.web-1.7f1c") == "acme.web-1.7f1c"
    odd = [message_id_text(each) for each in ("a\x01b", "a\n", "a\ud800", "", "x" * 513, "é")]
    assert len(set(odd)) == len(odd)
    assert all(len(each) == 64 for each in odd)
