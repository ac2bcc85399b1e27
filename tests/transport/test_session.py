import itertools

import pytest

from transport.deliveries import Delivery, dead_letter, decode_delivery
from transport.frames import encode_headers
from transport.session import Outgoing, delay_secs


def test_attempts_come_further_apart_up_to_a_bound() -> None:
    longest = [delay_secs(attempt, chance=1.0) for attempt in range(40)]
    assert longest[0] == pytest.approx(0.1)
    assert longest[-1] == pytest.approx(10.0)
    assert all(later >= sooner for sooner, later in itertools.pairwise(longest))


def test_chance_takes_up_to_half_of_the_wait() -> None:
    assert delay_secs(3, chance=0.0) == pytest.approx(delay_secs(3, chance=1.0) / 2)


def test_a_message_needs_an_id() -> None:
    with pytest.raises(ValueError, match="without an id"):
        Outgoing("a", b"", "")


def delivery(**changes: object) -> Delivery:
    fields = {
        "subject": "telemetry.raw.acme.web-1",
        "payload": b"x" * 100,
        "message_id": "id\r\nX: y",
        "stream": "TELEMETRY_RAW",
        "stream_seq": 7,
        "deliveries": 6,
        "stored_unix_ms": 0,
        "reply": "",
        "generation": 1,
    }
    return Delivery(**(fields | changes))  # type: ignore[arg-type] # fields by name, for brevity


def test_a_dead_letter_says_where_it_came_from() -> None:
    letter = dead_letter(delivery(), durable="ingest", payload_max_bytes=1 << 20)
    assert letter.subject == "deadletter.ingest.acme.web-1"
    assert letter.message_id == "TELEMETRY_RAW-7-ingest"
    assert letter.payload == b"x" * 100
    assert letter.headers == {
        "Lavender-Subject": "telemetry.raw.acme.web-1",
        "Lavender-Stream": "TELEMETRY_RAW",
        "Lavender-Sequence": "7",
        "Lavender-Msg-Id": "id??X: y",
        "Lavender-Bytes": "100",
        "Lavender-Deliveries": "6",
    }


def test_a_dead_letter_fits_into_a_message() -> None:
    large = delivery(payload=b"x" * (1 << 20), message_id="i" * 100_000)
    letter = dead_letter(large, durable="ingest", payload_max_bytes=1 << 20)
    assert letter.headers is not None
    headers = sum(len(name) + len(value) + 4 for name, value in letter.headers.items())
    assert len(letter.payload) + headers < 1 << 20
    assert letter.headers["Lavender-Bytes"] == str(1 << 20)


@pytest.mark.parametrize(
    "subject", ["odd", "alerts.x", "a.t.e\u00a0l", "a.t.e\x01l", "a.t.>", "a" * 4000]
)
def test_a_letter_of_an_odd_subject_goes_where_all_of_them_go(subject: str) -> None:
    odd = delivery(subject=subject)
    letter = dead_letter(odd, durable="worker", payload_max_bytes=1 << 20, why="odd\r\nX: y")
    assert letter.subject == "deadletter.worker.odd.odd"
    assert letter.headers is not None
    assert letter.headers["Lavender-Reason"] == "odd??X: y"
    encode_headers(letter.headers)


def test_bytes_that_are_no_utf_8_are_shown_in_the_subject() -> None:
    reply = b"$JS.ACK.RAW.ingest.1.42.7.1700000000123456789.5"
    found = decode_delivery(b"telemetry.raw.t.e\xff", reply, b"", None, generation=1)
    assert (found.subject, found.address) == ("telemetry.raw.t.e\\xff", None)
