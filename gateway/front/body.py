"""Reads a request body, within a size, a pace and a share of memory. The only place that reads one.

What is in memory is counted for as long as it is there: a `BodyClaim` grows with the body that is
read, shrinks to what its owner keeps of it, and ends with the request.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import TracebackType

from aiohttp.streams import StreamReader
from multidict import istr

from gateway.errors import ApiError
from gateway.front.headers import content_is_json
from gateway.front.pace import Pace
from gateway.front.request import FrontRequest

__all__ = [
    "BodyBudget",
    "BodyClaim",
    "BodyRules",
    "check_body_headers",
    "read_at_once",
    "read_body",
]

_CONTENT_ENCODING = istr("Content-Encoding")
_CONTENT_LENGTH = istr("Content-Length")
_CONTENT_TYPE = istr("Content-Type")
_EXPECT = istr("Expect")


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
        """Bytes that the bodies of each key take now; keys without any are not in it."""
        self.used_bytes = 0

    def __repr__(self) -> str:
        return f"<BodyBudget {self.used_bytes} of {self._limit_bytes} bytes>"

    def claim(self, key: str) -> BodyClaim:
        """A place for one body of *key*, until its `end`."""
        return BodyClaim(self, key)

    def used_by(self, key: str) -> int:
        """Bytes that the bodies of *key* take now."""
        return self._of_key.get(key, 0)


class BodyClaim:
    """What one request holds of a `BodyBudget`; leaving its block gives all of it back.

    It counts in its budget's own books: every request does so three times.
    """

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
        self.end()

    def end(self) -> None:
        """Give all of it back, as leaving the block does."""
        self.keep(0)

    def take(self, size: int) -> None:
        """Hold *size* bytes more.

        Raises:
            ApiError: `memory_pressure` (503) when there is no room, or none for this key.
        """
        budget, held = self._budget, self.size_bytes
        if budget.used_bytes + size > budget._limit_bytes:
            raise ApiError("memory_pressure", retry_after_s=1.0)
        used = budget._of_key.get(self._key, 0)
        if used != held and used + size > budget._one_key_bytes:
            raise ApiError(
                "memory_pressure", "Too many large requests of one key at once.", retry_after_s=1.0
            )
        self.keep(held + size)

    def keep(self, size: int) -> None:
        """Hold *size* bytes from now on, whatever it was: they are in memory already."""
        budget, change = self._budget, size - self.size_bytes
        self.size_bytes = size
        budget.used_bytes += change
        used = budget._of_key.get(self._key, 0) + change
        if used:
            budget._of_key[self._key] = used
        else:
            budget._of_key.pop(self._key, None)


def check_body_headers(request: FrontRequest, limit_bytes: int) -> None:
    """Refuse a body by its announcement, before a byte of it is read.

    Raises:
        ApiError: 415 for a coding or type that is not ours, 413 for a declared size over
            *limit_bytes*, 417 for an expectation other than ``100-continue``.
    """
    headers = request.headers
    coding = headers.get(_CONTENT_ENCODING)
    if coding is not None and coding.lower() != "identity":
        raise ApiError("unsupported_content_encoding")
    if not content_is_json(headers.get(_CONTENT_TYPE)):
        raise ApiError("unsupported_media_type")
    declared = headers.get(_CONTENT_LENGTH)
    if declared is not None and int(declared) > limit_bytes:
        raise _too_large(limit_bytes)
    expectation = headers.get(_EXPECT)
    if expectation is not None and expectation.lower() != "100-continue":
        raise ApiError("expectation_failed")


async def read_body(request: FrontRequest, rules: BodyRules, claim: BodyClaim) -> bytes:
    """The whole body, held in *claim*, which the caller lets go whatever comes of this.

    A client that waits for ``100 Continue`` gets it here, so only after every check that needs no
    body. Chunk extensions, which may have any length, do not count as progress.

    Raises:
        ApiError: `payload_too_large`, `request_timeout`, `memory_pressure`, `invalid_http`.
    """
    body = read_at_once(request, rules, claim)
    if body is not None:
        return body
    _ask_for_it(request)
    try:
        return await _read(request.content, rules, claim)
    except TimeoutError:
        raise ApiError("request_timeout") from None
    except (ApiError, asyncio.CancelledError):
        raise
    except Exception as exc:
        raise ApiError("invalid_http") from exc


def read_at_once(request: FrontRequest, rules: BodyRules, claim: BodyClaim) -> bytes | None:
    """`read_body` without waiting: None, and nothing done, unless all of it is here.

    Small ones come with their head, and a coroutine costs more than to read them.
    """
    if not (request.whole or request.content.is_eof()):
        return None
    _ask_for_it(request)
    body = request.take_body()
    if len(body) > rules.limit_bytes:
        raise _too_large(rules.limit_bytes)
    claim.take(len(body))
    return body


def _ask_for_it(request: FrontRequest) -> None:
    if _EXPECT in request.headers and request.chunks and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


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
