"""Paths that do not exist, and what was probably meant. Pure."""

from __future__ import annotations

from gateway.errors import ApiError

__all__ = ["not_found"]

_BELOW_V1 = (
    "/chat",
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
    "/v1/conversations",
    "/v1/realtime",
    "/v1/videos",
    "/v1/messages/batches",
)
_OTHER_SERVERS = ("/api", "/props", "/slots", "/completion", "/tokenize", "/detokenize")


def not_found(path: str) -> ApiError:
    """The 404 for *path*, with a hint for the base_url mistakes that clients really make."""
    return ApiError("not_found", hint=_hint(path))


def _hint(path: str) -> str | None:
    if "//" in path:
        return "The client's base_url ends in a slash too many."
    if len(path) > 1 and path.endswith("/"):
        return "Paths have no trailing slash here."
    if _within(path, _BELOW_V1):
        return "The client's base_url must end in /v1."
    if _within(path, ("/v1/v1", "/v1/v2")):
        return "The client's base_url has one /v1 too many; Anthropic's clients add it themselves."
    if _within(path, ("/v2/rerank",)):
        return "Reranking is at /v1/rerank."
    if _within(path, _UNKNOWN_FAMILIES):
        return "This part of the API is not offered here."
    if _within(path, ("/v1/responses",)):
        return "Responses are not stored here: send the whole conversation each time."
    if _within(path, ("/openai",)):
        return "Azure's paths are not offered: use OpenAI's client, with a base_url ending in /v1."
    if _within(path, _OTHER_SERVERS):
        return "The API here is OpenAI's, below /v1."
    return None


def _within(path: str, families: tuple[str, ...]) -> bool:
    """Whether *path* is one of *families* or below one."""
    return any(path == family or path.startswith(f"{family}/") for family in families)
