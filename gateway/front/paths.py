"""Paths that do not exist, and what was probably meant. Pure."""

from __future__ import annotations

from gateway.errors import ApiError

__all__ = ["not_found"]

_BELOW_V1 = (
    "/chat/completions",
    "/completions",
    "/embeddings",
    "/rerank",
    "/models",
    "/responses",
    "/messages",
)
_UNKNOWN_FAMILIES = (
    "/v1/files",
    "/v1/batches",
    "/v1/moderations",
    "/v1/images",
    "/v1/audio",
    "/v1/assistants",
    "/v1/threads",
    "/v1/fine_tuning",
    "/v1/uploads",
    "/v1/vector_stores",
)


def not_found(path: str) -> ApiError:
    """The 404 for *path*, with a hint for the base_url mistakes that clients really make."""
    return ApiError("not_found", hint=_hint(path))


def _hint(path: str) -> str | None:
    if path.startswith(_BELOW_V1):
        return "The client's base_url must end in /v1."
    if path.startswith(("/v1/v1/", "/v1/v2/")):
        return "The client's base_url has one /v1 too many."
    if "//" in path:
        return "The client's base_url ends in a slash too many."
    if path.startswith(_UNKNOWN_FAMILIES):
        return "This part of the OpenAI API is not offered here."
    if len(path) > 1 and path.endswith("/"):
        return "Paths have no trailing slash here."
    return None
