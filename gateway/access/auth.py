"""Who is asking: a request head in, a Principal or one uniform refusal out.

Rules:
- nothing of a body is read before this;
- missing, malformed, unknown, expired, disabled and revoked keys get the same reply; the
  difference goes into a counter and never to the client;
- anything unexpected in here refuses (503), it never lets pass.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from multidict import istr

from gateway.access.throttle import WrongKeyThrottle
from gateway.errors import ApiError
from gateway.front.headers import credential
from keys import Keyring, Limits, Principal

__all__ = ["Authenticator", "open_principal"]

_log = logging.getLogger(__name__)

_X_API_KEY = istr("X-API-Key")
_API_KEY = istr("api-key")
_AUTHORIZATION = istr("Authorization")


def open_principal(name: str) -> Principal:
    """Who everybody is when keys are not checked here; never an administrator."""
    return Principal(
        key_id=name,
        scopes=frozenset(("inference", "metrics")),
        limits=Limits(),
        priority="normal",
        weight=1.0,
        models=None,
        expires_at=None,
    )


class Authenticator:
    """Checks the key of a request.

    Args:
        ring: The keys that are valid now.
        throttle: Counts wrong keys for each address.
        everybody: Set when keys are not checked (AUTH_ENABLED=false, AUTH_MODE=platform).
        on_refused: Told why, in one word of a closed set.
        hint: Help that goes with every refusal, such as which header a platform leaves to us.
    """

    def __init__(
        self,
        ring: Callable[[], Keyring],
        throttle: WrongKeyThrottle,
        *,
        everybody: Principal | None,
        on_refused: Callable[[str], None],
        hint: str | None = None,
    ) -> None:
        self._ring = ring
        self._throttle = throttle
        self._everybody = everybody
        self._on_refused = on_refused
        self._hint = hint

    def identify(
        self, headers: Mapping[str, str], address: str, *, now: float, wall_now: float
    ) -> Principal:
        """The principal of a request.

        Args:
            headers: The request's headers, case-insensitive.
            address: The client's address, for counting wrong keys.
            now: Seconds on the monotonic clock.
            wall_now: Seconds since the epoch, for expiry.

        Raises:
            ApiError: `invalid_api_key` (401), `auth_throttled` (429), `auth_unavailable` (503).
        """
        if self._everybody is not None:
            return self._everybody
        try:
            presented = credential(
                headers.get(_X_API_KEY), headers.get(_API_KEY), headers.get(_AUTHORIZATION)
            )
            token = presented.value
            found = presented if token is None else self._ring().identify(token, wall_now)
        except Exception as exc:
            _log.exception("the key check failed")
            raise ApiError("auth_unavailable", retry_after_s=5.0) from exc
        if isinstance(found, Principal):
            return found
        self._on_refused(found.reason)
        wait_s = None if found.reason == "missing" else self._throttle.wrong(address, now)
        if wait_s is not None:
            raise ApiError("auth_throttled", retry_after_s=wait_s)
        raise ApiError("invalid_api_key", hint=self._hint)
