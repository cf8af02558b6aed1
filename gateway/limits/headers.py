"""PURE. The six ``x-ratelimit-*`` headers that OpenAI's API sends."""

from __future__ import annotations

import math

from gateway.limits.standing import Gauge, Standing

__all__ = ["duration", "rate_headers"]


def rate_headers(standing: Standing) -> list[tuple[str, str]]:
    """Limit, remaining and reset, for requests and for tokens.

    What has no limit has no headers. Tokens are limited by the minute and by the day: the one of
    the two that has less left is told, since a request must fit both.
    """
    headers: list[tuple[str, str]] = []
    _add(headers, "requests", standing.requests)
    _add(headers, "tokens", _tighter(standing.tokens, standing.day))
    return headers


def _tighter(minute: Gauge | None, day: Gauge | None) -> Gauge | None:
    if minute is None or day is None:
        return minute or day
    return day if day.remaining < minute.remaining else minute


def _add(headers: list[tuple[str, str]], unit: str, gauge: Gauge | None) -> None:
    if gauge is None:
        return
    headers.append((f"x-ratelimit-limit-{unit}", str(gauge.limit)))
    headers.append((f"x-ratelimit-remaining-{unit}", str(gauge.remaining)))
    headers.append((f"x-ratelimit-reset-{unit}", duration(gauge.reset_s)))


def duration(seconds: float) -> str:
    """Seconds, at least 0, the way OpenAI writes them: ``0s``, ``120ms``, ``1.5s``, ``6m0s``.

    Rounded up to a millisecond, so that whoever waits so long does not come too early.
    """
    # Less than a microsecond over is what is left of a float's sum.
    all_ms = max(0, math.ceil(seconds * 1000 - 0.001))
    if 0 < all_ms < 1000:
        return f"{all_ms}ms"
    all_s, ms = divmod(all_ms, 1000)
    minutes, rest_s = divmod(all_s, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest_s}.{ms:03}".rstrip("0") + "s" if ms else f"{rest_s}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text
