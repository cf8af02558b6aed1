"""What the engine says went wrong -> what the client is told. Pure.

The engine's own texts are never passed on: they quote prompts, and their status is wrong where it
matters most (a client's mistake as 500 or 501, which SDKs retry). They are matched here against
the few patterns that llama.cpp's server is known to send, and replaced by our own rows.
"""

from __future__ import annotations

from typing import Any

import orjson

from backend import BackendError, ConnectFailed, EngineTimeout
from gateway.errors import ApiError

__all__ = ["EngineLost", "context_exceeded", "from_backend", "from_event", "from_reply"]

_UNSUPPORTED = ("does not support", "not supported", "mmproj", "not enabled", "unsupported")
_TEMPLATE = ("jinja", "while executing", "failed to parse", "chat template")
"""A model's template that cannot put these messages or tools into words: depends on the request."""
_SHAPE = ("initialize samplers", "parse grammar")
"""A grammar that cannot begin. The engine feeds it the beginning of an answer, if there is one."""
_TOO_LONG = ("too large to process", "exceeds the available context", "context size")


class EngineLost(ApiError):  # noqa: N818 - what happened to the engine
    """The connection to the engine broke in the middle: it died, or let go of this request."""

    def __init__(self) -> None:
        super().__init__("engine_crashed", retry_after_s=1.0)


def from_reply(status: int, body: bytes) -> ApiError:
    """The failure that a reply with an error *status* stands for."""
    error = _error_object(body)
    text = str(error.get("message", ""))
    if error.get("type") == "exceed_context_size_error":
        return context_exceeded(error.get("n_ctx"), error.get("n_prompt_tokens"))
    lower = text.lower()
    if any(pattern in lower for pattern in _TOO_LONG):
        return ApiError("context_length_exceeded")
    if status == 501 or any(pattern in lower for pattern in _UNSUPPORTED):
        return ApiError("not_supported_by_model")
    if any(pattern in lower for pattern in _SHAPE):
        return ApiError(
            "invalid_value",
            "The asked shape of the answer cannot be enforced.",
            param="response_format",
            hint="If the last message is the assistant's, it must begin an answer of that shape.",
        )
    if any(pattern in lower for pattern in _TEMPLATE):
        return ApiError(
            "invalid_value",
            "The model's chat template does not take these messages or tools.",
            param="messages",
        )
    if status == 503:
        return ApiError("engine_unavailable", retry_after_s=2.0)
    if status == 400:
        return ApiError("invalid_value", "The engine refused the request's parameters.")
    return ApiError("engine_error")


def from_event(payload: bytes) -> ApiError:
    """The failure that an error event inside a stream stands for."""
    error = _error_object(payload)
    code = error.get("code")
    return from_reply(code if isinstance(code, int) else 500, payload)


def from_backend(error: BackendError) -> ApiError:
    """The failure that a broken exchange stands for."""
    if isinstance(error, EngineTimeout):
        return ApiError("engine_timeout")
    if isinstance(error, ConnectFailed):
        return ApiError("engine_unavailable", retry_after_s=2.0)
    return EngineLost()


def context_exceeded(limit: object, found: object) -> ApiError:
    """The refusal of a prompt that does not fit, in the words that SDKs look for."""
    if not isinstance(limit, int) or not isinstance(found, int):
        return ApiError("context_length_exceeded")
    return ApiError(
        "context_length_exceeded",
        f"This model's maximum context length is {limit} tokens. "
        f"However, your messages resulted in {found} tokens.",
        hint="Send a shorter prompt, or start the service with a larger CTX.",
    )


def _error_object(body: bytes) -> dict[str, Any]:
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    error = parsed.get("error") if isinstance(parsed, dict) else None
    return error if isinstance(error, dict) else {}
