"""Reads a request body, within a size and a pace. The only place that reads one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aiohttp.web_request import BaseRequest

from gateway.errors import ApiError
from gateway.front.headers import content_is_json

__all__ = ["BodyBudget", "BodyRules", "check_body_headers", "read_body"]


@dataclass(frozen=True, slots=True)
class BodyRules:
    """How large, how slow and how intricate a request body may be."""

    limit_bytes: int = 8 << 20
    grace_s: float = 10.0
    """Seconds before its pace is looked at."""
    slowest_bytes_per_s: float = 1024.0
    """Pace it must keep on average after that."""
    max_structure: int = 20_000
    """Objects and arrays in it."""
    max_depth: int = 64
    """Objects and arrays inside each other."""


class BodyBudget:
    """Bounds the bytes of all request bodies that are in memory at one time.

    Args:
        limit_bytes: Upper bound of the sum.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.used_bytes = 0

    def __repr__(self) -> str:
        return f"<BodyBudget {self.used_bytes} of {self._limit_bytes} bytes>"

    def take(self, size: int) -> None:
        """Count *size* more bytes in.

        Raises:
            ApiError: `memory_pressure` (503) when there is no room.
        """
        if self.used_bytes + size > self._limit_bytes:
            raise ApiError("memory_pressure", retry_after_s=1.0)
        self.used_bytes += size

    def give(self, size: int) -> None:
        """Count *size* bytes out."""
        self.used_bytes -= size


def check_body_headers(request: BaseRequest, limit_bytes: int) -> None:
    """Refuse a body by its announcement, before a byte of it is read.

    Raises:
        ApiError: 415 for a coding or type that is not ours, 413 for a declared size over
            *limit_bytes*, 417 for an expectation other than ``100-continue``.
    """
    headers = request.headers
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ApiError("unsupported_content_encoding")
    if not content_is_json(headers.get("Content-Type")):
        raise ApiError("unsupported_media_type")
    declared = headers.get("Content-Length")
    if declared is not None and int(declared) > limit_bytes:
        raise _too_large(limit_bytes)
    expectation = headers.get("Expect")
    if expectation is not None and expectation.lower() != "100-continue":
        raise ApiError("expectation_failed")


async def read_body(request: BaseRequest, rules: BodyRules, budget: BodyBudget) -> bytes:
    """The whole body; counted in *budget*, from which the caller gives ``len(body)`` back.

    A client that waits for ``100 Continue`` gets it here, so only after every check that needs no
    body. Chunk extensions, which may have any length, do not count as progress.

    Raises:
        ApiError: `payload_too_large`, `request_timeout`, `memory_pressure`, `invalid_http`.
    """
    content = request.content
    if "Expect" in request.headers and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    chunks: list[bytes] = []
    size = 0
    loop = asyncio.get_running_loop()
    start_s = loop.time()
    try:
        async with asyncio.timeout_at(start_s + rules.grace_s) as deadline:
            while not content.at_eof():
                chunk = await content.readany()
                size += len(chunk)
                if size > rules.limit_bytes:
                    raise _too_large(rules.limit_bytes)
                budget.take(len(chunk))
                chunks.append(chunk)
                deadline.reschedule(start_s + rules.grace_s + size / rules.slowest_bytes_per_s)
    except BaseException as exc:
        budget.give(sum(map(len, chunks)))
        if isinstance(exc, TimeoutError):
            raise ApiError("request_timeout") from None
        if isinstance(exc, (ApiError, asyncio.CancelledError)):
            raise
        raise ApiError("invalid_http") from exc
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(limit_bytes: int) -> ApiError:
    return ApiError("payload_too_large", f"The request body is over {limit_bytes} bytes.")
