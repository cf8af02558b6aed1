"""Cross-origin rules for browsers. Pure. Off unless CORS_ORIGINS names origins."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["CorsPolicy"]

_HEADER_LIST = re.compile(r"[A-Za-z0-9\-]{1,64}( ?, ?[A-Za-z0-9\-]{1,64}){0,63}")
_STAINLESS = (
    *("lang", "package-version", "os", "arch", "runtime", "runtime-version", "async"),
    *("retry-count", "read-timeout", "timeout", "raw-response", "helper-method", "helper"),
    "stream-helper",
)
_DEFAULT_HEADERS = ", ".join(
    (
        *("authorization", "content-type", "accept", "x-api-key", "api-key"),
        *("anthropic-version", "anthropic-beta", "anthropic-dangerous-direct-browser-access"),
        *("openai-organization", "openai-project", "openai-beta"),
        *("x-max-queue-seconds", "x-continue-stream", "x-request-id"),
        *(f"x-stainless-{name}" for name in _STAINLESS),
    )
)
"""For a preflight whose own list cannot be echoed; no wildcard stands for ``authorization``."""
_EXPOSED = (
    "x-request-id, request-id, retry-after, retry-after-ms, x-should-retry, x-ignored-params, "
    "server-timing, x-queue-wait-ms, x-api-version, "
    "x-ratelimit-limit-requests, x-ratelimit-limit-tokens, "
    "x-ratelimit-remaining-requests, x-ratelimit-remaining-tokens, x-ratelimit-reset-requests, "
    "x-ratelimit-reset-tokens"
)


class CorsPolicy:
    """Answers browsers for a set of origins; ``*`` stands for any.

    Credentials (cookies) are never allowed: the service has none, keys travel in headers.
    """

    def __init__(self, origins: Iterable[str] = ()) -> None:
        self._origins = frozenset(origins)
        self.enabled = bool(self._origins)

    def reply_headers(self, origin: str | None) -> list[tuple[str, str]]:
        """Headers that let a page of *origin* read a reply; none when it may not."""
        if not self.enabled:
            return []
        if "*" in self._origins:
            allowed = "*"
        elif origin in self._origins:
            assert origin is not None
            allowed = origin
        else:
            return [("Vary", "Origin")]
        found = [
            ("Access-Control-Allow-Origin", allowed),
            ("Access-Control-Expose-Headers", _EXPOSED),
        ]
        if allowed != "*":
            found.append(("Vary", "Origin"))
        return found

    def preflight_headers(
        self, origin: str | None, asked_headers: str | None
    ) -> list[tuple[str, str]]:
        """Headers of the 204 that answers a preflight (Fetch standard, CORS protocol).

        The asked headers are echoed after a syntax check: SDKs send a dozen of their own
        (``x-stainless-*``), and whatever arrives is never forwarded anyway.
        """
        found = self.reply_headers(origin)
        if not any(name == "Access-Control-Allow-Origin" for name, _ in found):
            return found
        echoed = asked_headers or ""
        return [
            *found,
            ("Access-Control-Allow-Methods", "GET, POST, OPTIONS"),
            (
                "Access-Control-Allow-Headers",
                echoed if _HEADER_LIST.fullmatch(echoed) else _DEFAULT_HEADERS,
            ),
            ("Access-Control-Max-Age", "600"),
        ]
