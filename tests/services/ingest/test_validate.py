import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.validate import SIZE_MAX_BYTES, Refused, validate
from tests.services.messages import ADDRESS, a_batch, a_seed
from transport.messages import CanonicalBatch, CanonicalSingle, encode

NOW_MS = 1_800_000_000_000


def judged(payload: bytes) -> Any:
    return validate(payload, ADDRESS, received_at_unix_ms=NOW_MS)


def altered(**changes: Any) -> bytes:
    return json.dumps({**msgspec.to_builtins(a_batch()), "schema_version": 2, **changes}).encode()


def evicted(first: int, last: int) -> dict[str, Any]:
    return {"epoch": "00000000000000aa", "first_seq": first, "last_seq": last, "reason": "age"}


def with_events(*changes: dict[str, Any]) -> bytes:
    events = msgspec.to_builtins(a_batch().events)
    for event, change in zip(events, changes, strict=False):
        event.update(change)
    return altered(events=events)


SINGLE = {
    "schema_version": 1,
    "event_id": "7f1c",
    "agent_id": "web-1",
    "tenant_id": "acme",
    "host": {"hostname": "web"},
    "observed_at_unix_ms": 1_700_000_000_000,
    "event": {"type": "open", "pid": 7, "comm": "cat", "filename": "/etc/shadow"},
}


def test_a_batch_becomes_canonical_with_the_stamp_and_nothing_else_changed() -> None:
    batch = a_batch()
    found = judged(encode(batch))
    assert isinstance(found, CanonicalBatch)
    assert found.received_at_unix_ms == NOW_MS
    assert found.rejected == []
    assert all(getattr(found, name) == getattr(batch, name) for name in batch.__struct_fields__)
    assert found.sequence_numbers() == [0, 1, 2, 3, 4]


def test_a_process_that_ran_before_is_an_event_like_others() -> None:
    batch = a_batch(events=[*map(a_seed, range(3)), *a_batch(count=2).events])
    found = judged(encode(batch))
    assert found.events == batch.events
    bad = msgspec.to_builtins(a_seed(0)) | {"argv": ["x"] * 257}
    found = judged(altered(events=[bad, *msgspec.to_builtins(batch.events[1:])]))
    assert [each.seq for each in found.rejected] == [0]


def test_a_version_1_event_becomes_canonical_under_its_own_id() -> None:
    found = judged(json.dumps(SINGLE).encode())
    assert isinstance(found, CanonicalSingle)
    assert (found.event_id, found.received_at_unix_ms) == ("7f1c", NOW_MS)


@pytest.mark.parametrize(
    ("change", "seqs"),
    [
        ({"pid": 2**70}, [1, 2, 3, 4]),
        ({"pid": -1}, [1, 2, 3, 4]),
        ({"comm": "x\0y"}, [1, 2, 3, 4]),
        ({"comm": "x" * 300}, [1, 2, 3, 4]),
        ({"type": "mount"}, [1, 2, 3, 4]),
        ({"uid": "root"}, [1, 2, 3, 4]),
        ({"surprise": 1}, [0, 1, 2, 3, 4]),
    ],
)
def test_one_bad_event_does_not_cost_the_others(change: dict[str, Any], seqs: list[int]) -> None:
    found = judged(with_events(change))
    assert isinstance(found, CanonicalBatch)
    assert found.sequence_numbers() == seqs
    assert len(found.events) == len(seqs)
    assert [each.seq for each in found.rejected] == ([] if len(seqs) == 5 else [0])
    assert "surprise" not in encode(found).decode()


def test_what_the_sender_wrote_is_no_part_of_the_reason() -> None:
    odd = "\x1b[2J' - at `$.x` all agents balanced"
    found = judged(with_events({"type": odd}))
    assert [each.reason for each in found.rejected] == ["Invalid value - at `$.type`"]


def test_the_text_backslash_u0000_is_no_nul() -> None:
    found = judged(with_events({"comm": "\\u0000"}))
    assert isinstance(found, CanonicalBatch)
    assert found.rejected == []
    assert found.events[0].comm == "\\u0000"  # type: ignore[union-attr]  # it is a fork


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "invalid"),
        (b"\xff\xfe", "invalid"),
        (b"{}", "invalid"),
        (b"[" * 200_000, "invalid"),
        (b'{"schema_version":3}', "invalid"),
        (b"x" * (SIZE_MAX_BYTES + 1), "too_large"),
        (altered(tenant_id="other"), "wrong_subject"),
        (altered(agent_id="web-2"), "wrong_subject"),
        (altered(agent_id="a.b"), "invalid"),
        (altered(first_seq=1), "bad_sequence"),
        (altered(last_seq=2**62), "bad_sequence"),
        (altered(first_seq=2**70), "invalid"),
        (altered(observed_at_unix_ms=2**60), "invalid"),
        (altered(batch_id="00000000000000ab-0"), "bad_batch_id"),
        (altered(batch_id="x"), "invalid"),
        (altered(host={"hostname": "a\0"}), "nul_in_text"),
        (altered(events=msgspec.to_builtins(a_batch().events) * 101), "too_many_events"),
        (altered(batch_id="00000000000000aa-0\n"), "invalid"),
        (altered(epoch="00000000000000aa\n"), "invalid"),
        (altered(tenant_id="acme\n"), "invalid"),
        (altered(counters={"probes": {f"p{n}": {} for n in range(17)}}), "invalid"),
        (altered(counters={"probes": {"p" * 33: {}}}), "invalid"),
        (altered(counters={"evicted": [evicted(10, 0)]}), "bad_eviction"),
        (json.dumps({**SINGLE, "host": {"hostname": "\0"}}).encode(), "nul_in_text"),
        (json.dumps({**SINGLE, "event_id": "a\x01b"}).encode(), "invalid"),
        (json.dumps({**SINGLE, "event_id": "a b"}).encode(), "invalid"),
        (json.dumps({**SINGLE, "event_id": "ab\n"}).encode(), "invalid"),
        (json.dumps({**SINGLE, "tenant_id": "other"}).encode(), "wrong_subject"),
        (json.dumps({**SINGLE, "event": {"type": "exit", "pid": 2**70}}).encode(), "invalid"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_reason(payload: bytes, reason: str) -> None:
    found = judged(payload)
    assert isinstance(found, Refused), found
    assert found.reason == reason
    assert len(found.detail) <= 500


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode()))
def test_arbitrary_bytes_are_refused_and_raise_nothing(payload: bytes) -> None:
    assert isinstance(judged(payload), Refused)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(st.sampled_from(sorted(msgspec.to_builtins(a_batch()))), json_values)
def test_any_value_in_any_field_is_refused_or_decodes_again(field: str, value: Any) -> None:
    found = judged(altered(**{field: value}))
    if not isinstance(found, Refused):
        assert msgspec.json.decode(encode(found), type=CanonicalBatch) == found
