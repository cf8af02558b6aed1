"""The closed sets behind metric labels: what is not in a set is counted as ``other``."""

from __future__ import annotations

from collections.abc import Iterable

from backend import ExitCause

__all__ = [
    "AUTH_FAILURE_REASONS",
    "ENGINE_EXIT_CAUSES",
    "LIMIT_NAMES",
    "OTHER",
    "REJECT_REASONS",
    "STATUS_CLASSES",
    "bump",
    "reject_reason",
    "seeded",
]

Labels = tuple[str, ...]

REJECT_REASONS = (
    "invalid_http",
    "header_timeout",
    "body_timeout",
    "too_large",
    "bad_json",
    "unknown_parameter",
    "remote_media",
    "quarantined",
    "overload",
    "limit",
)
"""Why a request was turned away before the engine saw it."""

AUTH_FAILURE_REASONS = (
    "missing",
    "malformed",
    "checksum",
    "unknown",
    "wrong_secret",
    "expired",
    "disabled",
)
ENGINE_EXIT_CAUSES = tuple(cause.value for cause in ExitCause)

LIMIT_NAMES = ("requests", "tokens", "concurrency", "tokens_per_day", "queue")
"""What a key may spend, as the ledger names it, and its share of the queue."""

_REASON_OF_CODE = {
    "invalid_http": "invalid_http",
    "http_version": "invalid_http",
    "expectation_failed": "invalid_http",
    "uri_too_long": "too_large",
    "headers_too_large": "too_large",
    "payload_too_large": "too_large",
    "invalid_json": "bad_json",
    "unknown_parameter": "unknown_parameter",
    "remote_media_not_allowed": "remote_media",
    "request_quarantined": "quarantined",
    "memory_pressure": "overload",
    "server_overloaded": "overload",
    "queue_timeout": "overload",
    "queue_wait_too_long": "overload",
    "rate_limit_exceeded": "limit",
    "insufficient_quota": "limit",
}
OTHER = "other"
STATUS_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")


def reject_reason(error_code: str, route: str, model: str | None) -> str | None:
    """
    Why a request was turned away, or None when it was not, or not for one of our reasons.

    Args:
        error_code: A code of the table of errors.
        route: The route's name; ``other`` before the path was looked up.
        model: The model asked for; None before the body was read.
    """
    if error_code == "request_timeout":
        # A body is read only after the path was found.
        return "header_timeout" if route == OTHER else "body_timeout"
    return _REASON_OF_CODE.get(error_code)


def seeded(names: Iterable[str]) -> dict[Labels, float]:
    """Zeros for a closed set, so that rates can be taken from the first event on."""
    return {(name,): 0.0 for name in (*names, OTHER)}


def bump(values: dict[Labels, float], name: str) -> None:
    """Count *name*, or ``other`` when the set does not have it."""
    key = (name,)
    values[key if key in values else (OTHER,)] += 1
