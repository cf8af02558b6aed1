"""PURE. The six ``x-ratelimit-*`` headers that OpenAI's API sends."""

from __future__ import annotations

import math

from gateway.limits.standing import Gauge, Standing

__all__ = ["duration", "rate_headers"]


_REQUESTS = (
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
)
_TOKENS = (
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
)


def rate_headers(standing: Standing) -> list[tuple[str, str]]:
    """Limit, remaining and reset, for requests and for tokens.

    What has no limit has no headers. Tokens are limited by the minute and by the day: the one of
    the two that has less left is told, since a request must fit both.
    """
    headers: list[tuple[str, str]] = []
    if standing.requests is not None:
        _add(headers, _REQUESTS, standing.requests)
    tokens = _tighter(standing.tokens, standing.day)
    if tokens is not None:
        _add(headers, _TOKENS, tokens)
    return headers


def _tighter(minute: Gauge | None, day: Gauge | None) -> Gauge | None:
    if minute is None or day is None:
        return minute or day
    return day if day.remaining < minute.remaining else minute


def _add(headers: list[tuple[str, str]], names: tuple[str, str, str], gauge: Gauge) -> None:
    limit, remaining, reset = names
    headers += (
        (limit, str(gauge.limit)),
        (remaining, str(gauge.remaining)),
        (reset, duration(gauge.reset_s)),
    )


def duration(seconds: float) -> str:
    """Seconds, at least 0, the way OpenAI writes them: ``0s``, ``120ms``, ``1.5s``, ``6m0s``.

    Rounded up to a millisecond, so that whoever waits so long does not come too early.
    """
    # Less than a microsecond over is what is left of a float's sum.
    all_ms = math.ceil(seconds * 1000 - 0.001)
    if all_ms <= 0:
        return "0s"
    if all_ms < 1000:
        return f"{all_ms}ms"
    all_s, ms = divmod(all_ms, 1000)
    minutes, rest_s = divmod(all_s, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest_s}.{ms:03}".rstrip("0") + "s" if ms else f"{rest_s}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text
