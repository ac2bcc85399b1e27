import pytest

from transport.subjects import Address, address_of, check_subject, is_token

ODD_TOKENS = (
    "",
    "e\u00a0l",
    "e\u2028l",
    "e\x01l",
    "e\x0bl",
    "e\x0cl",
    "e\x7fl",
    "e\\xffl",
    "a/b",
    "e\x85l",
    "e\x9bl",
    "e\u202el",
    "e\u2066l",
    "e\u200bl",
    "e\u061cl",
    "e\ufeffl",
    "*",
    ">",
    "web-1\n",
    "x" * 65,
)


@pytest.mark.parametrize("token", ODD_TOKENS)
def test_what_is_no_token_is_no_address(token: str) -> None:
    assert not is_token(token)
    assert address_of(f"telemetry.raw.{token}.web-1") is None
    assert address_of(f"telemetry.raw.acme.{token}") is None


@pytest.mark.parametrize("subject", ["", "alerts", "alerts.x", ".", "..."])
def test_a_subject_of_too_few_tokens_has_no_address(subject: str) -> None:
    assert address_of(subject) is None


def test_the_last_two_tokens_are_tenant_and_agent() -> None:
    assert address_of("telemetry.raw.acme.web-1") == Address("acme", "web-1")
    assert address_of("detection.7.acmé.wéb~1") == Address("acmé", "wéb~1")


@pytest.mark.parametrize(
    "subject", ["", "a b", "a\tb", "a\r\nPING", "a\0", "a\x7f", "a\u2028b", " ", "a" * 1025]
)
def test_a_subject_that_would_break_out_is_refused(subject: str) -> None:
    with pytest.raises(ValueError, match="is no subject"):
        check_subject(subject)
