"""Slows down whoever guesses keys. Pure.

Only wrong keys are counted. A right key is never refused because of its address: behind a platform
proxy all clients share one.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["WrongKeyThrottle", "throttle_bucket"]


@dataclass(slots=True)
class _Window:
    started_s: float
    wrong: int


class WrongKeyThrottle:
    """Counts wrong keys for each address in windows of a minute, in a bounded table.

    Args:
        per_minute: Wrong keys an address may present in a minute.
        entries: Addresses remembered; the one seen longest ago is forgotten first.
    """

    def __init__(self, per_minute: int = 20, entries: int = 10_000) -> None:
        self._per_minute = per_minute
        self._entries = entries
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    def __repr__(self) -> str:
        return f"<WrongKeyThrottle {len(self._windows)} addresses>"

    def wrong(self, address: str, now: float) -> float | None:
        """Count a wrong key of *address*.

        Returns:
            None while it is within bounds, else the seconds until its window ends.
        """
        bucket = throttle_bucket(address)
        window = self._windows.get(bucket)
        if window is None or now - window.started_s >= 60.0:
            window = self._windows[bucket] = _Window(now, 0)
        self._windows.move_to_end(bucket)
        if len(self._windows) > self._entries:
            self._windows.popitem(last=False)
        window.wrong += 1
        if window.wrong <= self._per_minute:
            return None
        return window.started_s + 60.0 - now


def throttle_bucket(address: str) -> str:
    """What counts as one sender: an IPv4 address, or an IPv6 /64 (one subscriber's share)."""
    try:
        return _bucket(address.partition("%")[0])
    except ValueError:
        return address


@lru_cache(maxsize=1024)
def _bucket(address: str) -> str:
    """Raises ValueError for what is no address; that is not remembered, so what is, is short."""
    parsed = ipaddress.ip_address(address)
    if parsed.version == 4:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False).network_address)
