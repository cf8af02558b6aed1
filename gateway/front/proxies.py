"""Which address a request comes from, when proxies may stand in between. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

__all__ = ["TrustedProxies", "is_loopback"]


def is_loopback(address: str) -> bool:
    """Whether *address* is this machine itself."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


class TrustedProxies:
    """Networks whose ``X-Forwarded-For`` is believed; by default none.

    Args:
        networks: Addresses or CIDR blocks.

    Raises:
        ValueError: One of them is neither.
    """

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks = tuple(ipaddress.ip_network(text, strict=False) for text in networks)

    def __contains__(self, address: object) -> bool:
        if not self._networks or not isinstance(address, str):
            return False
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)

    def client(self, peer: str, forwarded_for: str | None) -> str:
        """The rightmost address that no trusted proxy vouches away; *peer* when in doubt."""
        if forwarded_for is None or peer not in self:
            return peer
        nearest = peer
        for hop in reversed(forwarded_for.split(",")):
            candidate = hop.strip()
            try:
                ipaddress.ip_address(candidate)
            except ValueError:
                return nearest
            nearest = candidate
            if candidate not in self:
                return candidate
        return nearest
