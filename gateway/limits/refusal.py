"""PURE. How a refusal of the ledger is told to the client, in the words OpenAI uses."""

from __future__ import annotations

from gateway.errors import ApiError
from gateway.limits.standing import Refusal

__all__ = ["as_error"]


_HINTS: dict[str, str] = {
    "requests": "Each answer (n) and each prompt of a list counts as a request.",
    "concurrency": "Each answer (n) and each prompt of a list counts as a request.",
    "tokens": "Ask for fewer tokens (max_tokens) or fewer answers in one request.",
}
_NAMES = {"requests": "requests per minute", "tokens": "tokens per minute"}


def as_error(refusal: Refusal, *, retry_after_s: float | None) -> ApiError:
    """
    The error of a refusal.

    Args:
        refusal: What the ledger said.
        retry_after_s: Seconds after which this request should come back; None if it should not.
    """
    name = _NAMES.get(refusal.limit, "requests at a time")
    limit, asked, left = refusal.limit_value, refusal.requested, refusal.remaining
    if refusal.limit == "tokens_per_day":
        return _quota(refusal)
    if retry_after_s is None:
        return ApiError(
            "rate_limit_exceeded",
            f"Request too large for this API key's limit of {name}: "
            f"limit {limit}, requested {asked}.",
            hint=_HINTS.get(refusal.limit),
            limit=refusal.limit,
            retryable=False,
        )
    if refusal.limit == "concurrency":
        return ApiError(
            "rate_limit_exceeded",
            f"This API key may have {limit} requests at a time: {left} are free, "
            f"{asked} more were asked for.",
            limit=refusal.limit,
            retry_after_s=retry_after_s,
        )
    return ApiError(
        "rate_limit_exceeded",
        f"Rate limit reached for {name}: limit {limit}, remaining {left}, requested {asked}. "
        f"Please try again in {retry_after_s:.3f}s.",
        limit=refusal.limit,
        retry_after_s=retry_after_s,
    )


def _quota(refusal: Refusal) -> ApiError:
    """A day's tokens are spent; or only held by requests in flight, which a moment may cure."""
    if refusal.retry_after_s is not None and refusal.retry_after_s <= 1.0:
        return ApiError(
            "rate_limit_exceeded",
            f"This API key may use {refusal.limit_value} tokens a day, and requests in progress "
            f"hold what is left but {refusal.remaining}; {refusal.requested} were requested.",
            limit=refusal.limit,
            retry_after_s=refusal.retry_after_s,
        )
    hint = "The count starts anew at 00:00 UTC; a smaller max_tokens needs less of it."
    if refusal.retry_after_s is None:
        hint = "It is more than a whole day's tokens: ask for fewer (max_tokens)."
    return ApiError(
        "insufficient_quota",
        f"This API key may use {refusal.limit_value} tokens a day: {refusal.remaining} are left, "
        f"{refusal.requested} were requested.",
        hint=hint,
        limit=refusal.limit,
    )
