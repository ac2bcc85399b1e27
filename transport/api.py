"""JetStream's API: a question in JSON on a subject, an answer in JSON, errors as exceptions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from transport.errors import StreamMismatch, Unreachable
from transport.frames import Refusal

_ANSWER_SECS = 5.0
_NOT_READY = 503
_NOT_FOUND = {10014, 10059}
"""JetStream's error codes: no such consumer, no such stream."""


class Requests(Protocol):
    """What is needed of a session."""

    async def request(self, subject: str, payload: bytes, *, within_secs: float) -> bytes:
        """Ask and wait for the answer."""


async def put(session: Requests, path: str, body: Mapping[str, Any], where: str) -> None:
    """Create or update something.

    Args:
        session: the broker.
        path: of the API.
        body: what it shall be.
        where: its name, for people.

    Raises:
        StreamMismatch: the broker refuses it.
        Unreachable: no answer, or JetStream is not ready.
    """
    answer = await _answer(session, path, body)
    if "error" in answer:
        error = msgspec.convert(answer["error"], Refusal)
        kind = Unreachable if error.code == _NOT_READY else StreamMismatch
        raise kind(f"{where}: the broker refuses it: {error.description}")


async def find(session: Requests, path: str) -> dict[str, Any] | None:
    """What the broker says of a stream or consumer; None if it has none of that name.

    Raises:
        Unreachable: no answer, or another error.
    """
    answer = await _answer(session, path, None)
    if "error" in answer and answer["error"].get("err_code") in _NOT_FOUND:
        return None
    return _checked(answer, path)


async def ask(
    session: Requests, path: str, body: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The answer to a question.

    Raises:
        Unreachable: no answer, or an error.
    """
    return _checked(await _answer(session, path, body), path)


def _checked(answer: dict[str, Any], path: str) -> dict[str, Any]:
    if "error" in answer:
        error = msgspec.convert(answer["error"], Refusal)
        raise Unreachable(f"JetStream answers {path} with: {error.description}")
    return answer


async def _answer(session: Requests, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
    payload = b"" if body is None else msgspec.json.encode(body)
    raw = await session.request(f"$JS.API.{path}", payload, within_secs=_ANSWER_SECS)
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise Unreachable(f"JetStream's answer to {path} is not understood: {error}") from error
