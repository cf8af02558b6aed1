"""What a request head may look like, and which headers matter. Pure.

aiohttp's C parser rejects what no HTTP message may contain; this module rejects what two HTTP
implementations could read differently (the raw material of request smuggling), and reads the few
headers we act on. Nothing of a client's head is ever sent to the engine, and nothing of the
engine's head but the status and the content type comes back.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from gateway.errors import ApiError

__all__ = ["Credential", "check_head", "content_is_json", "credential", "safe_request_id"]

_SINGLE = frozenset(
    (
        b"authorization",
        b"x-api-key",
        b"api-key",
        b"content-type",
        b"content-length",
        b"content-encoding",
        b"transfer-encoding",
        b"host",
        b"expect",
        b"idempotency-key",
    )
)
_HOST = re.compile(rb"[A-Za-z0-9._~\-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.%]+\](:[0-9]{1,5})?")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=:-]{1,256}")


def check_head(
    version: tuple[int, int],
    target: str,
    raw_headers: Sequence[tuple[bytes, bytes]],
    *,
    block_limit_bytes: int = 32 << 10,
) -> None:
    """Reject a head that parsers could disagree about (RFC 9112 sections 2, 3, 5 and 6).

    Raises:
        ApiError: `invalid_http` (400), `http_version` (505) or `headers_too_large` (431).
    """
    if version not in ((1, 1), (1, 0)):
        raise ApiError("http_version")
    if "#" in target:
        raise ApiError("invalid_http")
    if not raw_headers:
        return
    names, values = zip(*raw_headers)  # noqa: B905  # pairs are of one length
    shape = _shape(names)
    good = (
        (shape.host is None or _good_host(values[shape.host]))
        and (shape.content_length is None or _good_length(values[shape.content_length]))
        and (
            shape.transfer_encoding is None
            or _good_coding(values[shape.transfer_encoding], version)
        )
    )
    if not good:
        raise ApiError("invalid_http")
    if shape.size + len(b"".join(values)) > block_limit_bytes:
        raise ApiError("headers_too_large")


@dataclass(slots=True)
class _Shape:
    """What the names of a head tell, whatever their values are; nobody changes it."""

    size: int
    """Bytes of the names, and of what stands between the fields."""
    host: int | None
    """Its place in the head."""
    content_length: int | None
    transfer_encoding: int | None


@lru_cache(maxsize=128)
def _shape(names: tuple[bytes, ...]) -> _Shape:
    """Remembered, because a client spells and orders its headers the same way each time."""
    lower = [name.lower() for name in names]
    places = {name: place for place, name in enumerate(lower) if name in _SINGLE}
    if len(places) < sum(name in _SINGLE for name in lower):
        raise ApiError("invalid_http")
    coding, length = places.get(b"transfer-encoding"), places.get(b"content-length")
    if coding is not None and length is not None:
        raise ApiError("invalid_http")
    return _Shape(sum(map(len, names)) + 4 * len(names), places.get(b"host"), length, coding)


@lru_cache(maxsize=128)
def _good_host(value: bytes) -> bool:
    return _HOST.fullmatch(value) is not None


def _good_length(value: bytes) -> bool:
    return value.isdigit() and len(value) <= 16 and int(value) <= 1 << 53


def _good_coding(value: bytes, version: tuple[int, int]) -> bool:
    return value.lower() == b"chunked" and version == (1, 1)


@dataclass(slots=True)
class Credential:
    """What a request presents; hidden from repr, because repr ends up in logs.

    Not frozen, which would triple what making one costs; nobody changes it all the same.
    """

    value: str | None
    """The token, or None when nothing usable was sent."""
    reason: str = ""
    """Why there is none: ``missing`` or ``malformed``."""

    def __repr__(self) -> str:
        return f"Credential({'present' if self.value else self.reason})"


def credential(x_api_key: str | None, api_key: str | None, authorization: str | None) -> Credential:
    """The key a request presents: ``X-API-Key``, then ``api-key``, then ``Authorization: Bearer``.

    Platform proxies (RunPod's load balancer, Cloud Run) use Authorization for themselves; that is
    why a dedicated header comes first, and why Authorization is not looked at when there is one.
    """
    if x_api_key is not None:
        return _token(x_api_key)
    if api_key is not None:
        return _token(api_key)
    if authorization is None:
        return Credential(None, "missing")
    scheme, space, token = authorization.partition(" ")
    if not space or (scheme != "Bearer" and scheme.lower() != "bearer"):
        return Credential(None, "malformed")
    return _token(token)


def _token(text: str) -> Credential:
    if _TOKEN.fullmatch(text):
        return Credential(text)
    return Credential(None, "malformed" if text else "missing")


def safe_request_id(presented: str | None) -> str | None:
    """The caller's request id when it is well-formed, else None."""
    if presented is not None and _REQUEST_ID.fullmatch(presented):
        return presented
    return None


def content_is_json(content_type: str | None) -> bool:
    """Whether a body may be read as JSON.

    A missing type is accepted: ``requests.post(data=...)`` and others send none.
    """
    if content_type is None or content_type == "application/json":
        return True
    media, _, parameters = content_type.partition(";")
    if media.strip().lower() != "application/json":
        return False
    return parameters.strip().lower().replace('"', "") in ("", "charset=utf-8")
