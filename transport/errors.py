"""The transport's exceptions, split by whose fault it is.

::

    TransportError
    ├── CredentialsError   a file with credentials or certificates cannot be used: the operator's
    ├── Unauthorized       the broker refuses the credentials: the operator's
    ├── BrokerTooOld       the broker is older than what Lavender leans on: the operator's
    ├── StreamMismatch     a stream or consumer exists with settings that cannot be changed
    ├── ServerError        `nats-server` is missing, too old, or does not start
    └── Unreachable        no connection, or no answer in time; try again later

A publish that failed is no exception but a `transport.session.Receipt` that says so.
"""

from __future__ import annotations


class TransportError(Exception):
    """Base of everything `transport` raises on purpose; the text is for the operator."""


class CredentialsError(TransportError):
    """A file with credentials or certificates cannot be used; the text names it."""


class Unauthorized(TransportError):  # noqa: N818 - it says what is so
    """The broker refuses these credentials."""


class BrokerTooOld(TransportError):  # noqa: N818 - it says what is so
    """The broker ignores settings that Lavender relies on."""


class StreamMismatch(TransportError):  # noqa: N818 - it says what is so
    """A stream or consumer is there with a setting that cannot be changed; the text names both."""


class ServerError(TransportError):
    """`nats-server` cannot be started here."""


class Unreachable(TransportError):  # noqa: N818 - it says what is so
    """There is no connection, or no answer came; whether the request was served is unknown."""
