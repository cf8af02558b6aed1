"""Reads a request body, within a size, a pace and a share of memory. The only place that reads one.

What is in memory is counted for as long as it is there: a `BodyClaim` grows with the body that is
read, shrinks to what its owner keeps of it, and ends with the request.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import TracebackType

from aiohttp.streams import StreamReader

from gateway.errors import ApiError
from gateway.front.headers import content_is_json
from gateway.front.pace import Pace
from gateway.front.request import FrontRequest

__all__ = ["BodyBudget", "BodyClaim", "BodyRules", "check_body_headers", "read_body"]


@dataclass(frozen=True, slots=True)
class BodyRules:
    """How large, how slow and how intricate a request body may be."""

    limit_bytes: int = 8 << 20
    grace_s: float = 10.0
    """Seconds before its pace is looked at; nor may it stand still for longer at any time."""
    slowest_bytes_per_s: float = 1024.0
    """Pace it must keep after that, see `Pace`."""
    max_structure: int = 20_000
    """Objects and arrays in it."""
    max_depth: int = 64
    """Objects and arrays inside each other."""


class BodyBudget:
    """Bounds the bytes of all request bodies that are in memory at one time.

    One key may hold `one_key_bytes`, so that it cannot shut out the others. Its only body may be
    larger: a single one of the largest size always fits.

    Args:
        limit_bytes: Upper bound of the sum.
        one_key_bytes: Upper bound for the bodies of one key; half of *limit_bytes* if None.
    """

    def __init__(self, limit_bytes: int, one_key_bytes: int | None = None) -> None:
        self._limit_bytes = limit_bytes
        self._one_key_bytes = limit_bytes // 2 if one_key_bytes is None else one_key_bytes
        self._of_key: dict[str, int] = {}
        self.used_bytes = 0

    def __repr__(self) -> str:
        return f"<BodyBudget {self.used_bytes} of {self._limit_bytes} bytes>"

    def claim(self, key: str) -> BodyClaim:
        """A place for one body of *key*; used with ``with``."""
        return BodyClaim(self, key)

    def used_by(self, key: str) -> int:
        """Bytes that the bodies of *key* take now."""
        return self._of_key.get(key, 0)

    def _check(self, key: str, held: int, size: int) -> None:
        if self.used_bytes + size > self._limit_bytes:
            raise ApiError("memory_pressure", retry_after_s=1.0)
        others = self.used_by(key) - held
        if others and others + held + size > self._one_key_bytes:
            raise ApiError(
                "memory_pressure", "Too many large requests of one key at once.", retry_after_s=1.0
            )

    def _count(self, key: str, change: int) -> None:
        self.used_bytes += change
        used = self.used_by(key) + change
        if used:
            self._of_key[key] = used
        else:
            self._of_key.pop(key, None)


class BodyClaim:
    """What one request holds of a `BodyBudget`; leaving its block gives all of it back."""

    __slots__ = ("_budget", "_key", "size_bytes")

    def __init__(self, budget: BodyBudget, key: str) -> None:
        self._budget = budget
        self._key = key
        self.size_bytes = 0
        """Bytes it holds now."""

    def __repr__(self) -> str:
        return f"<BodyClaim {self.size_bytes} bytes of {self._key}>"

    def __enter__(self) -> BodyClaim:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.keep(0)

    def take(self, size: int) -> None:
        """Hold *size* bytes more.

        Raises:
            ApiError: `memory_pressure` (503) when there is no room, or none for this key.
        """
        self._budget._check(self._key, self.size_bytes, size)
        self.keep(self.size_bytes + size)

    def keep(self, size: int) -> None:
        """Hold *size* bytes from now on, whatever it was: they are in memory already."""
        self._budget._count(self._key, size - self.size_bytes)
        self.size_bytes = size


def check_body_headers(request: FrontRequest, limit_bytes: int) -> None:
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


async def read_body(request: FrontRequest, rules: BodyRules, claim: BodyClaim) -> bytes:
    """The whole body, held in *claim*, which the caller lets go whatever comes of this.

    A client that waits for ``100 Continue`` gets it here, so only after every check that needs no
    body. Chunk extensions, which may have any length, do not count as progress.

    Raises:
        ApiError: `payload_too_large`, `request_timeout`, `memory_pressure`, `invalid_http`.
    """
    if "Expect" in request.headers and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    content = request.content
    try:
        if content.is_eof():  # it came with its head, as small ones do
            return _read_all(content, rules, claim)
        return await _read(content, rules, claim)
    except TimeoutError:
        raise ApiError("request_timeout") from None
    except (ApiError, asyncio.CancelledError):
        raise
    except Exception as exc:
        raise ApiError("invalid_http") from exc


def _read_all(content: StreamReader, rules: BodyRules, claim: BodyClaim) -> bytes:
    body = content.read_nowait()
    if len(body) > rules.limit_bytes:
        raise _too_large(rules.limit_bytes)
    claim.take(len(body))
    return body


async def _read(content: StreamReader, rules: BodyRules, claim: BodyClaim) -> bytes:
    chunks: list[bytes] = []
    time = asyncio.get_running_loop().time
    pace = Pace(rules.slowest_bytes_per_s, rules.grace_s, time())
    async with asyncio.timeout_at(pace.due_s) as deadline:
        while not content.at_eof():
            chunk = await content.readany()
            if claim.size_bytes + len(chunk) > rules.limit_bytes:
                raise _too_large(rules.limit_bytes)
            claim.take(len(chunk))
            chunks.append(chunk)
            deadline.reschedule(pace.progress(len(chunk), time()))
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(limit_bytes: int) -> ApiError:
    return ApiError("payload_too_large", f"The request body is over {limit_bytes} bytes.")
