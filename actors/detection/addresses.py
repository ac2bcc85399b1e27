"""Network addresses: which lead off this host."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address

_ADDRESS_MAX = 64


_MAPPED = "::ffff:"


def plain(address: str) -> str:
    """Return an address as an IPv4 socket has it, where it is an IPv4 peer's in the form of IPv6.

    The form is that of inet_ntop(3), ``::ffff:203.0.113.9``, as events have it.
    """
    return address[len(_MAPPED) :] if is_mapped(address) else address


def is_mapped(address: str) -> bool:
    """Whether it is an IPv4 address in the form of IPv6."""
    return address.startswith(_MAPPED) and "." in address


def is_external(address: str) -> bool:
    """Whether an IP address leads off this host.

    The unspecified address means loopback to connect(2). Text that is no address counts as
    external: better an alert too many.
    """
    # What is longer is no address, and must not fill the cache.
    return len(address) > _ADDRESS_MAX or _is_external(address)


@lru_cache(maxsize=4096)
def _is_external(address: str) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return True
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return not (parsed.is_loopback or parsed.is_unspecified)
