"""Who a request turned out to be, and what that key may do. PURE.

These values cross the room's door: the gateway reads them, nobody outside makes them.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PRIORITIES", "SCOPES", "Limits", "Principal", "Refused"]

SCOPES = ("inference", "jobs", "metrics", "admin")
"""What a key may be allowed to do; a new key gets ``inference`` alone."""

PRIORITIES = ("high", "normal", "batch")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one key may spend; None stands for the service's default.

    Args:
        requests_per_minute: Requests, at least 1.
        tokens_per_minute: Prompt and completion tokens together, at least 1.
        concurrency: Requests that run or wait at the same time, at least 1.
        tokens_per_day: Prompt and completion tokens together, at least 1.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    tokens_per_day: int | None = None


@dataclass(frozen=True, slots=True)
class Principal:
    """A key that was presented and found good.

    Args:
        key_id: The public name of the key; safe in logs and metrics.
        scopes: A subset of `SCOPES`.
        limits: What it may spend.
        priority: One of `PRIORITIES`.
        weight: Share among keys of the same priority, above 0; 1 is ordinary.
        models: Names it may ask for; None means every model.
        expires_at: Seconds since the epoch from which on it is refused; None means never.
        continue_streams: Its chat streams are continued when their engine dies.
    """

    key_id: str
    scopes: frozenset[str]
    limits: Limits
    priority: str
    weight: float
    models: frozenset[str] | None
    expires_at: float | None
    continue_streams: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """A key that was not accepted.

    Args:
        reason: For logs and metrics only, never for the client; one of ``missing``,
            ``malformed``, ``checksum`` (a typo), ``unknown``, ``wrong_secret``, ``expired``,
            ``disabled``.
    """

    reason: str
