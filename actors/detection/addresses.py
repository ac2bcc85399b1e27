"""Network addresses: which lead off this host."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address


@lru_cache(maxsize=4096)
def is_external(address: str) -> bool:
    """Whether an IP address leads off this host.

    The unspecified address means loopback to connect(2). Text that is no address counts as
    external: better an alert too many.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return True
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return not (parsed.is_loopback or parsed.is_unspecified)
