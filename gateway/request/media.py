"""Images and sound inside a request: inline bytes of known formats only.

The engine fetches any string that begins with ``http``, follows redirects and checks no address;
it hands unknown bytes to whatever decoder it finds. So nothing but base64 of a known format goes
on, and the data URL the engine gets is written here, never by the client.

Bounds: 8 items per request, 10 MiB each, 20 MiB together, 16 megapixels per image by its header.
"""

from __future__ import annotations

import binascii
import re
from typing import Any

from gateway.errors import ApiError

__all__ = ["DOC", "MediaBudget"]

MAX_ITEMS = 8
MAX_ITEM_BYTES = 10 * 1024 * 1024
MAX_TOTAL_BYTES = 20 * 1024 * 1024
MAX_PIXELS = 16_000_000
MIN_SAMPLE_RATE_HZ = 8_000
"""Below it a short file unpacks to hundreds of times its size when it is resampled."""

_DATA_URL = re.compile(r"data:(?:image|audio)/[a-z0-9.+-]{1,32};base64,", re.IGNORECASE)
_IMAGES = {"image/png", "image/jpeg", "image/webp", "image/gif"}

_PROJECTOR = "The operator has to start the engine with a projector for it (MMPROJ)."

DOC = f"""\
Images (PNG, JPEG, WebP, GIF) and sound (WAV, MP3) travel inside the request, as base64 data URLs. A
URL is never fetched: 400 `remote_media_not_allowed`. At most {MAX_ITEMS} items in a request,
{MAX_ITEM_BYTES >> 20} MiB each and {MAX_TOTAL_BYTES >> 20} MiB together,
{MAX_PIXELS // 1_000_000} megapixels for each image; sound of at least {MIN_SAMPLE_RATE_HZ:,} Hz.
Images take a model with a projector (`MMPROJ`); without one anything that is sent is 400
`not_supported_by_model`.
"""


class MediaBudget:
    """Counts what one request carries; each method gives back the data URL to forward."""

    __slots__ = ("_audio", "_bytes", "_items", "_vision")

    def __init__(self, *, vision: bool, audio: bool) -> None:
        self._vision = vision
        self._audio = audio
        self._items = 0
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<MediaBudget {self._items} items, {self._bytes} bytes>"

    def image(self, url: Any, param: str) -> str:
        """
        Check an image.

        Raises:
            ApiError: 400; `not_supported_by_model` without a projector for images.
        """
        if not self._vision:
            raise ApiError(
                "not_supported_by_model",
                "The model that is loaded sees no images.",
                param=param,
                hint=_PROJECTOR,
            )
        kind, payload = self._take(_inline(url, param), param)
        if kind not in _IMAGES:
            raise _bad(param, "is not a PNG, JPEG, WebP or GIF image")
        return f"data:{kind};base64,{payload}"

    def audio(self, data: Any, param: str) -> str:
        """Check a sound: a data URL, or the bare base64 that OpenAI's ``input_audio`` carries."""
        if not self._audio:
            raise ApiError(
                "not_supported_by_model",
                "The model that is loaded hears no audio.",
                param=param,
                hint=_PROJECTOR,
            )
        bare = isinstance(data, str) and _BARE.match(data) is not None
        kind, payload = self._take(data if bare else _inline(data, param), param)
        if kind in _IMAGES:
            raise _bad(param, "is not a WAV or MP3 file")
        return f"data:{kind};base64,{payload}"

    def _take(self, payload: str, param: str) -> tuple[str, str]:
        self._items += 1
        if self._items > MAX_ITEMS:
            raise ApiError(
                "invalid_value", f"More than {MAX_ITEMS} media items in one request.", param=param
            )
        size_bytes = len(payload) * 3 // 4
        self._bytes += size_bytes
        if size_bytes > MAX_ITEM_BYTES or self._bytes > MAX_TOTAL_BYTES:
            raise ApiError(
                "invalid_value",
                f"Media may hold {MAX_ITEM_BYTES >> 20} MiB each and"
                f" {MAX_TOTAL_BYTES >> 20} MiB together.",
                param=param,
            )
        try:
            data = binascii.a2b_base64(payload, strict_mode=True)
        except ValueError:  # binascii.Error, or a character beyond ASCII
            raise _bad(param, "is not strict base64") from None
        return _identify(data, param), payload


# Letters of the base64 alphabet only, and nothing that reads as a scheme.
_BARE = re.compile(r"(?!http)[A-Za-z0-9+/]{16}")


def _inline(url: Any, param: str) -> str:
    if not isinstance(url, str):
        raise ApiError("invalid_type", f"'{param}' must be a string.", param=param)
    head = _DATA_URL.match(url)
    if head is None:
        raise ApiError("remote_media_not_allowed", param=param)
    return url[head.end() :]


def _bad(param: str, what: str) -> ApiError:
    return ApiError("invalid_value", f"'{param}' {what}.", param=param)


def _identify(data: bytes, param: str) -> str:
    """The media type by magic bytes; checks the size that the header claims."""
    for magic, kind, size in _FORMATS:
        if magic.match(data) is None:
            continue
        if size is not None:
            width, height = size(data, param)
            if width < 1 or height < 1 or width * height > MAX_PIXELS:
                raise _bad(param, f"must have 1 to {MAX_PIXELS // 1_000_000} megapixels")
        elif kind == "audio/wav":
            _check_wav(data, param)
        return kind
    raise _bad(param, "is of no known format")


def _png_size(data: bytes, param: str) -> tuple[int, int]:
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _gif_size(data: bytes, param: str) -> tuple[int, int]:
    return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")


def _webp_size(data: bytes, param: str) -> tuple[int, int]:
    form = data[12:16]
    if form == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        return width, int.from_bytes(data[27:30], "little") + 1
    if form == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width = int.from_bytes(data[26:28], "little") & 0x3FFF
    return width, int.from_bytes(data[28:30], "little") & 0x3FFF


def _jpeg_size(data: bytes, param: str) -> tuple[int, int]:
    """Walk the segments to the frame header; a stream without one has no size we could trust."""
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height = int.from_bytes(data[at + 5 : at + 7], "big")
            return int.from_bytes(data[at + 7 : at + 9], "big"), height
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if length < 2:
            break
        at += 2 + length
    raise _bad(param, "is a JPEG image without a frame header")


def _check_wav(data: bytes, param: str) -> None:
    at = data.find(b"fmt ", 12, 4096)
    rate_hz = int.from_bytes(data[at + 12 : at + 16], "little") if at >= 0 else 0
    if rate_hz < MIN_SAMPLE_RATE_HZ:
        raise _bad(param, f"must have a sample rate of at least {MIN_SAMPLE_RATE_HZ} Hz")


_FORMATS = (
    (re.compile(rb"\x89PNG\r\n\x1a\n.{4}IHDR.{8}", re.DOTALL), "image/png", _png_size),
    (re.compile(rb"\xff\xd8\xff", re.DOTALL), "image/jpeg", _jpeg_size),
    (re.compile(rb"GIF8[79]a.{4}", re.DOTALL), "image/gif", _gif_size),
    (re.compile(rb"RIFF.{4}WEBPVP8[ LX].{14}", re.DOTALL), "image/webp", _webp_size),
    (re.compile(rb"RIFF.{4}WAVE", re.DOTALL), "audio/wav", None),
    (re.compile(rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]", re.DOTALL), "audio/mpeg", None),
)
