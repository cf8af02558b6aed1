"""PURE. The six ``x-ratelimit-*`` headers that OpenAI's API sends."""

from __future__ import annotations

import math

from gateway.limits.account import Account

__all__ = ["duration", "rate_headers"]


def rate_headers(account: Account, now: float, day_left_s: float) -> dict[str, str]:
    """Limit, remaining and reset, for requests and for tokens.

    What has no limit has no headers. Tokens are limited by the minute and by the day: the one of
    the two that has less left is told, since a request must fit both.

    Args:
        account: The key's books.
        now: Seconds on the monotonic clock.
        day_left_s: Seconds until the day's counters begin anew.
    """
    headers: dict[str, str] = {}
    limits, bucket = account.limits, account.requests
    limit = limits.requests_per_minute
    if limit is not None:
        reset_s = bucket.tat_s - now
        left = limit if reset_s <= 0.0 else bucket.remaining(limit, now)
        headers["x-ratelimit-limit-requests"] = str(limit)
        headers["x-ratelimit-remaining-requests"] = str(left)
        headers["x-ratelimit-reset-requests"] = "0s" if reset_s <= 0.0 else duration(reset_s)
    limit, daily = limits.tokens_per_minute, limits.tokens_per_day
    if limit is not None:
        bucket = account.tokens
        reset_s = bucket.tat_s - now
        left = limit if reset_s <= 0.0 else bucket.remaining(limit, now)
    if daily is not None:
        day_left = daily - account.used_today - account.held_today
        if limit is None or day_left < left:
            left = day_left if day_left > 0 else 0
            limit, reset_s = daily, day_left_s if day_left < daily else 0.0
    if limit is not None:
        headers["x-ratelimit-limit-tokens"] = str(limit)
        headers["x-ratelimit-remaining-tokens"] = str(left)
        headers["x-ratelimit-reset-tokens"] = "0s" if reset_s <= 0.0 else duration(reset_s)
    return headers


def duration(seconds: float) -> str:
    """Seconds, at least 0, the way OpenAI writes them: ``0s``, ``120ms``, ``1.5s``, ``6m0s``.

    Rounded up to a millisecond, so that whoever waits so long does not come too early.
    """
    # Less than a microsecond over is what is left of a float's sum.
    all_ms = math.ceil(seconds * 1000 - 0.001)
    if all_ms < 1000:
        return f"{all_ms}ms" if all_ms > 0 else "0s"
    minutes, ms = divmod(all_ms, 60_000)
    if minutes == 0:
        return f"{ms / 1000:g}s"
    if minutes < 60:
        return f"{minutes}m{ms / 1000:g}s"
    return f"{minutes // 60}h{minutes % 60}m{ms / 1000:g}s"
