"""PURE. Whether a caller wants a stream continued when its engine dies.

``X-Continue-Stream`` is ours. It wins over what the caller's key says, in both directions.
"""

from __future__ import annotations

from collections.abc import Mapping

from multidict import istr

from gateway.errors import ApiError

__all__ = ["CONTINUE_HEADER", "wants_continuation"]

CONTINUE_HEADER = istr("X-Continue-Stream")
_WORDS = {"true": True, "1": True, "false": False, "0": False}


def wants_continuation(headers: Mapping[str, str], *, key_says: bool) -> bool:
    """
    Read the header of a request.

    Args:
        headers: All of them; names without regard to case.
        key_says: What holds without the header.

    Raises:
        ApiError: 400 `invalid_value`, for any other word.
    """
    asked = headers.get(CONTINUE_HEADER)
    if asked is None:
        return key_says
    wanted = _WORDS.get(asked.strip().lower())
    if wanted is None:
        raise ApiError(
            "invalid_value",
            f"The header {CONTINUE_HEADER} must be true or false.",
            param=CONTINUE_HEADER,
        )
    return wanted
