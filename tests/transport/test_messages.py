"""What is made of messages: their ids."""

from __future__ import annotations

from transport.messages import message_id


def test_the_same_bytes_of_one_agent_are_one_message() -> None:
    assert message_id("acme", "web-1", b"batch") == message_id("acme", "web-1", b"batch")


def test_an_agents_message_id_cannot_be_anothers_or_that_of_other_bytes() -> None:
    ids = [
        message_id(tenant, agent, payload)
        for tenant in ("acme", "evil")
        for agent in ("web-1", "web-2")
        for payload in (b"batch", b"another")
    ]
    assert len(set(ids)) == len(ids)
    assert ids[0].startswith("acme.web-1.")
