"""PURE: the requests that are refused because of what they did to the engine."""

from __future__ import annotations

from gateway.errors import ApiError
from gateway.suspicion.suspects import Suspects

__all__ = ["refuse_known_killers"]


def refuse_known_killers(suspects: Suspects, key: str, digest: bytes | None, now: float) -> None:
    """
    Refuse a suspended key, and a request that has stopped the engine twice.

    Args:
        suspects: What is remembered.
        key: Whose request it is.
        digest: What it is known by; None before it has been read.
        now: Monotonic seconds.

    Raises:
        ApiError: `key_suspended` or `request_quarantined`.
    """
    left_s = suspects.suspended_s(key, now)
    if left_s:
        raise ApiError("key_suspended", retry_after_s=left_s)
    left_s = 0.0 if digest is None else suspects.quarantined_s(digest, now)
    if left_s:
        raise ApiError("request_quarantined", retry_after_s=left_s)
