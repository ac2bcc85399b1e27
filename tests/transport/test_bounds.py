import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.detection.events import LineageProcess
from transport.bounds import cut, encode_checked
from transport.messages import I63_MAX, Alert, Gap

ALERT = Alert(
    alert_id="0" * 36,
    tenant_id="acme",
    agent_id="web-1",
    hostname="web",
    rule="T1059",
    severity="INFO",
    detail="x",
    event_type="exec",
    event_pid=1,
    event_comm="sh",
    created_at_unix_ms=1,
    observed_at_unix_ms=1,
)


def test_what_is_within_its_bounds_is_encoded_as_it_is() -> None:
    assert msgspec.json.decode(encode_checked(ALERT), type=Alert) == ALERT


@settings(deadline=None, max_examples=30)
@given(
    piece=st.text(alphabet="a\0é\x1b", max_size=4),
    number=st.integers(-(2**70), 2**70).filter(lambda n: -(2**63) <= n < 2**64),
    count=st.integers(0, 3000),
)
def test_what_is_beyond_is_cut_to_them(piece: str, number: int, count: int) -> None:
    text = piece * 20_000
    process = LineageProcess(number, number, number, number, text)
    odd = msgspec.structs.replace(
        ALERT,
        rule=text,
        detail=text,
        event_pid=number,
        count=number,
        references=(text[:2000],) * min(count, 66),
        processes=(process,) * min(count, 3),
        evidence=[Gap(number, number, text[:100], number)] * min(count, 66),
    )
    found = msgspec.json.decode(encode_checked(odd), type=Alert)
    assert found.alert_id == ALERT.alert_id
    assert (found.rule, found.detail) == (text[:1024], text[:65_536])
    assert 1 <= found.count <= 1 << 31


def test_evidence_that_is_a_word_stays_one() -> None:
    assert cut(ALERT) == ALERT
    gap = Gap(0, 1, "x", I63_MAX + 1)
    assert cut(msgspec.structs.replace(ALERT, evidence=[gap])).evidence == [Gap(0, 1, "x", I63_MAX)]


def test_what_no_cut_mends_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        encode_checked(msgspec.structs.replace(ALERT, alert_id="no id"))
