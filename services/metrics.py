"""Metrics and health of a service, over HTTP where a ``listen`` address is configured."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from actors.runtime import Actor

Reading = Callable[[], Mapping[str, Any]]


class Metrics:
    """What a process can say of itself: named readings, each a mapping of names to numbers.

    Collected when asked for, so that nothing is kept twice.
    """

    def __init__(self) -> None:
        self._readings: dict[str, Reading] = {}
        self._checks: dict[str, Callable[[], bool]] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def add(self, name: str, reading: Reading) -> None:
        """Show a reading; its numbers become ``lavender_<name>_<key>``."""
        self._readings[name] = reading

    def check(self, name: str, healthy: Callable[[], bool]) -> None:
        """Make a condition part of the health."""
        self._checks[name] = healthy

    def collect(self) -> Iterable[Metric]:
        """Every number, for prometheus_client. A mapping inside a reading becomes a label."""
        for name, reading in self._readings.items():
            for key, value in reading().items():
                full = f"lavender_{name}_{key}"
                if isinstance(value, Mapping):
                    family = GaugeMetricFamily(full, full, labels=("name",))
                    for label, number in value.items():
                        family.add_metric((str(label),), float(number))
                    yield family
                elif isinstance(value, int | float):
                    yield GaugeMetricFamily(full, full, value=float(value))

    def text(self) -> bytes:
        """The exposition format of Prometheus."""
        return bytes(generate_latest(self._registry))

    def health(self) -> tuple[bool, dict[str, bool]]:
        """Whether all is well, and what of it."""
        found = {name: healthy() for name, healthy in self._checks.items()}
        return all(found.values()), found


class MetricsServer(Actor):
    """Source that serves ``/metrics`` and ``/healthz``; without an address it has nothing to do.

    Args:
        metrics: what to show.
        listen: ``host:port``, or empty.
    """

    def __init__(self, *, metrics: Metrics, listen: str) -> None:
        self._metrics = metrics
        self._listen = listen

    async def start(self) -> None:
        """Show the actors' counters too."""
        await super().start()
        self._metrics.add("actor", self._actors)

    async def run(self) -> None:
        """Serve until told to stop."""
        if not self._listen:
            await self.context.stopping.wait()
            return
        # Only who serves pays for the import.
        from hypercorn.config import Config  # noqa: PLC0415
        from hypercorn.trio import serve  # noqa: PLC0415

        config = Config()
        config.bind = [self._listen]
        config.accesslog = None
        config.errorlog = None
        config.graceful_timeout = 0.5
        self.context.log.info("metrics are served", listen=self._listen)
        await serve(
            self._app,
            config,
            shutdown_trigger=self.context.stopping.wait,
        )

    def _actors(self) -> Mapping[str, Mapping[str, int]]:
        found = self.context.statistics()
        keys = ("received", "handled", "items_dropped", "poisoned", "crashes", "restarts", "depth")
        return {key: {name: getattr(each, key) for name, each in found.items()} for key in keys}

    async def _app(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close"})  # before it is accepted: 403
            return
        status, kind, body = self._answer(scope.get("path", ""))
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(b"content-type", kind), (b"content-length", str(len(body)).encode())],
            }
        )
        await send({"type": "http.response.body", "body": body})

    def _answer(self, path: str) -> tuple[int, bytes, bytes]:
        if path == "/metrics":
            return 200, b"text/plain; version=0.0.4; charset=utf-8", self._metrics.text()
        if path == "/healthz":
            good, found = self._metrics.health()
            body = json.dumps({"status": "ok" if good else "unavailable", **found}).encode()
            return (200 if good else 503), b"application/json", body + b"\n"
        return 404, b"text/plain", b"there is /metrics and /healthz\n"


async def _live(receive: Any, send: Any) -> None:
    """ASGI's lifespan protocol: nothing to prepare, nothing to tear down."""
    await trio.lowlevel.checkpoint()
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
