"""What keeps an endpoint from being measured, or its figures from being true, in plain words.

aiohttp's own words name its settings ("ssl:default [Connect call failed ...]"), not what to do.
"""

from __future__ import annotations

import errno
import os

import aiohttp

from .samples import Failure

__all__ = ["connection_words", "first_refusal", "key_words"]

_KEY_OPTIONS = ("$OPENAI_API_KEY or --api-key", "$COMPARE_API_KEY or --compare-api-key")
_REMEDY = "scripts/key_mgmt.py set NAME --rpm 100000"
_BY_NUMBER = {
    errno.ECONNREFUSED: "nothing listens there (connection refused)",
    errno.ECONNRESET: "the connection was closed (reset)",
    errno.ENETUNREACH: "there is no way to that network",
    errno.EHOSTUNREACH: "there is no way to that host",
}


def connection_words(error: Exception) -> str:
    """What happened to a connection: refused, lost, no such host, not HTTP, ..."""
    for kind, words in _BY_TYPE:
        if isinstance(error, kind):
            return words
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted: {error.certificate_error}"
    if isinstance(error, OSError) and error.errno is not None:
        return _BY_NUMBER.get(error.errno) or os.strerror(error.errno)
    if isinstance(error, aiohttp.ClientConnectorError):
        return "the connection was closed while it was opened"
    return f"{type(error).__name__}: {error}".rstrip(": ")


_BY_TYPE: tuple[tuple[type[Exception], str], ...] = (
    (aiohttp.ClientConnectorDNSError, "there is no host of that name"),
    (aiohttp.ClientConnectorSSLError, "it does not speak TLS (http:// instead of https://?)"),
    (aiohttp.ClientResponseError, "what answers there does not speak HTTP (https://?)"),
    (aiohttp.ServerDisconnectedError, "the connection was closed without an answer"),
    (aiohttp.ClientPayloadError, "the connection was lost within the answer"),
    (TimeoutError, "no answer in time"),
)


def key_words(failure: Failure, url: str, which: int, *, given: bool) -> str | None:
    """
    What is wrong with the API key; None if *failure* is of other things.

    Args:
        failure: What came instead of an answer.
        url: Who said so.
        which: Endpoint, 0 or 1: each has its own options.
        given: Whether a key was sent at all.
    """
    if failure.kind not in ("http 401", "http 403"):
        return None
    told = f"({url}: {failure.kind}, {failure.detail})"
    if not given:
        return f"no API key was given; use {_KEY_OPTIONS[which]} {told}"
    if failure.kind == "http 401":
        return f"the server does not accept the API key {told}; see {_KEY_OPTIONS[which]}"
    return f"the server does not let this API key do that {told}"


def first_refusal(base_url: str, refusal: Failure, wait_s: float) -> str:
    """What to know, and to do, when an endpoint says for the first time to come back later."""
    words = f"{base_url} refuses for now ({refusal.kind}: {refusal.detail}); waiting {wait_s:.1f} s"
    if refusal.kind == "http 429":
        remedy = (
            f"the key's limit answers 429; raise it: {_REMEDY} "
            "(or --tpm, --concurrency, whichever the answer names)"
        )
    else:
        remedy = "it is busy, or still starting; try again later, or with fewer streams"
    return f"{words}. Levels where this happens get no tokens/s in all: {remedy}."
