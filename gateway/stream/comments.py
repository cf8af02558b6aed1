"""PURE. What is told to whoever waits for a stream: SSE comments, which every client skips.

Comments and nothing else: ``event: ping``, an empty ``data:`` or ``retry:`` crash OpenAI's Python
client (the comment rule is in WHATWG's HTML standard, section 9.2.6).
"""

from __future__ import annotations

import math

__all__ = ["KEEP_ALIVE", "prefill", "queued"]

KEEP_ALIVE = b": keep-alive\n\n"


def queued(position: int, eta_s: float | None) -> bytes:
    """
    A place in the queue.

    Args:
        position: From 1.
        eta_s: Estimated seconds until it is this one's turn, told as 1 at least; None when nobody
            can tell.
    """
    if eta_s is None or not math.isfinite(eta_s):
        return b": queued position=%d\n\n" % position
    return b": queued position=%d eta_s=%d\n\n" % (position, max(math.ceil(eta_s), 1))


def prefill(share: float) -> bytes:
    """How much of the prompt has been worked off, 0 to 1."""
    return b": prefill %d%%\n\n" % int(100 * share)
