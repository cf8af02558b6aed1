"""PURE. How long a caller is willing to wait, as far as its headers tell.

``X-Max-Queue-Seconds`` is ours: the longest wait for a turn. ``x-stainless-read-timeout`` and
``x-stainless-timeout`` are what the OpenAI and Anthropic SDKs send of their own settings: the
seconds until the next byte, after which they hang up and ask again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from multidict import istr

from gateway.errors import ApiError

__all__ = ["BOUNDLESS", "Patience", "patience_of"]

MAX_QUEUE_HEADER = istr("X-Max-Queue-Seconds")
_READ_HEADER = istr("x-stainless-read-timeout")
_OTHER_READ_HEADER = istr("x-stainless-timeout")
_READ_SHARE = 0.9
"""Of a read timeout, so that our refusal is there before the caller hangs up."""
_LONGEST_S = 86_400.0
_LEAST_BEAT_S = 0.25


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds; None where the caller did not say."""

    queue_s: float | None = None
    """Longest wait for a turn, as asked."""
    read_s: float | None = None
    """Longest silence before the caller hangs up."""

    def wait_s(self, *, streamed: bool) -> float | None:
        """Seconds after which waiting is useless.

        A stream is kept alive by comments while it waits, so only other replies are bound by the
        read timeout.
        """
        silence_s = None if streamed or self.read_s is None else self.read_s * _READ_SHARE
        if self.queue_s is None or silence_s is None:
            return silence_s if self.queue_s is None else self.queue_s
        return min(self.queue_s, silence_s)

    def beat_s(self, usual_s: float) -> float:
        """Seconds between two signs of life, if the usual ones were too far apart."""
        return usual_s if self.read_s is None else min(usual_s, max(self.read_s / 2, _LEAST_BEAT_S))


BOUNDLESS = Patience()
"""Of a caller who did not say."""


def patience_of(headers: Mapping[str, str]) -> Patience:
    """
    Read the headers of a request.

    What an SDK sends by itself is ignored when it is no number (``NOT_GIVEN``, ``None``).

    Raises:
        ApiError: 400 `invalid_value`, for an X-Max-Queue-Seconds that is no number of seconds.
    """
    asked = headers.get(MAX_QUEUE_HEADER)
    told = headers.get(_READ_HEADER)
    also_told = headers.get(_OTHER_READ_HEADER)
    if asked is None and told is None and also_told is None:
        return BOUNDLESS
    queue_s: float | None = None
    if asked is not None:
        queue_s = _seconds(asked)
        if queue_s is None:
            raise ApiError(
                "invalid_value",
                f"The header {MAX_QUEUE_HEADER} must be a number of seconds from 0 to 86400.",
                param=MAX_QUEUE_HEADER,
            )
    read = [seconds for text in (told, also_told) if text and (seconds := _seconds(text))]
    return Patience(queue_s, min(read, default=None))


def _seconds(text: str) -> float | None:
    if len(text) > 20:
        return None
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and 0 <= seconds <= _LONGEST_S else None
