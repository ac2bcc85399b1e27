"""The actor of the alert writer."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from services.store.interface import Added, Store
from services.writing import Writer
from transport.messages import Alert

_decode_alert = msgspec.json.Decoder(Alert).decode


class AlertWriter(Writer):
    """Stores alerts, stamped with the time of their reception."""

    def decode(self, payload: bytes, *, now_unix_ms: int) -> Alert:
        """An alert."""
        if b"\\u0000" in payload:
            payload = payload.replace(b"\\u0000", b"\\ufffd")
        alert = _decode_alert(payload)
        return msgspec.structs.replace(alert, received_at_unix_ms=now_unix_ms)

    async def add(self, store: Store, messages: Sequence[Alert]) -> Added:
        """Store them."""
        return await store.add_alerts(messages)
