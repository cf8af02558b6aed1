"""Pull one file over HTTP into a part that can be continued.

What arrived is kept in ``<name>.part``, beside a note of what it is a part of. It is continued
only when the server vouches, by the same validator, that it is still the same file; otherwise it
is begun again.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import shutil
import ssl
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from backend.errors import DownloadFailed
from backend.supply.progress import Advance, Progress

__all__ = ["Part", "TransferCut", "beside", "hash_of_address", "need_space"]

_CHUNK_BYTES = 1 << 20
_SILENCE_S = 60.0
_SPARE_BYTES = 64 << 20
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class _PartNote:
    """What a part is a part of; kept beside it."""

    url_sha256: str
    """Not the address itself, which may hold a token."""
    validator: str | None
    """The strong ETag, else the Last-Modified date; None means it cannot be continued."""
    total_bytes: int | None


class TransferCut(Exception):  # noqa: N818 (an event, not an error yet)
    """The transfer stopped early and may be tried again."""


class _NoSuchRange(TransferCut):
    """The server has nothing beyond what we have, so ours is not a part of its file."""


def need_space(folder: Path, size_bytes: int, what: str) -> None:
    """
    Check the disk before it is filled.

    Raises:
        DownloadFailed: *folder* has less than *size_bytes* and a reserve free.
    """
    free = shutil.disk_usage(folder).free
    if free < size_bytes + _SPARE_BYTES:
        raise DownloadFailed(
            f"{what}: not enough space in {folder}: {(size_bytes + _SPARE_BYTES) >> 20} MiB needed,"
            f" {free >> 20} MiB free"
        )


def hash_of_address(url: str) -> str:
    """Return a name for *url* without its query, which may hold a token that changes."""
    return hashlib.sha256(url.partition("?")[0].encode()).hexdigest()


def beside(target: Path, suffix: str) -> Path:
    """Return the path of a companion of *target*, in the same folder."""
    return target.with_name(target.name + suffix)


class Part:
    """The unfinished file and the note that says what it belongs to."""

    def __init__(self, url: str, target: Path) -> None:
        self._url = url
        self._url_sha256 = hash_of_address(url)
        self.path = beside(target, ".part")
        self.note_path = beside(target, ".part.json")
        self._note = self._read_note()

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note_path.unlink(missing_ok=True)
        self._note = None

    def pull(self, progress: Progress) -> None:
        """
        Make one request for what is missing and write what comes.

        Raises:
            TransferCut: It ended before the file was whole; another try may help.
            DownloadFailed: Another try cannot help.
        """
        have = self.size
        if self._note is None or self._note.validator is None:
            have = 0
        if have and have == (self._note.total_bytes if self._note else None):
            return
        with self._ask(have) as response:
            if response.status == http.client.PARTIAL_CONTENT:
                self._check_range(response, have)
            else:
                have = 0
            total = _total_bytes(response, have)
            self._write_note(_PartNote(self._url_sha256, _validator(response), total))
            if total is not None:
                need_space(self.path.parent, total - have, self.path.name)
            with progress.bar(self.path.stem, total, "B") as advance:
                self._copy(response, have, total, advance)

    def _ask(self, have: int) -> http.client.HTTPResponse:
        try:
            return _open(self._request(have))
        except _NoSuchRange:
            self.discard()
            raise

    def _request(self, have: int) -> urllib.request.Request:
        headers = {"Accept-Encoding": "identity", "User-Agent": "llama-gateway"}
        if have and self._note is not None and self._note.validator is not None:
            headers |= {"Range": f"bytes={have}-", "If-Range": self._note.validator}
        return urllib.request.Request(self._url, headers=headers)  # noqa: S310 (checked before)

    def _check_range(self, response: http.client.HTTPResponse, have: int) -> None:
        span, _, total = (response.headers.get("Content-Range") or "").partition("/")
        expected = self._note.total_bytes if self._note else None
        if not span.startswith(f"bytes {have}-") or (expected and total != str(expected)):
            self.discard()
            raise TransferCut("the server sent another part than asked for")

    def _copy(
        self, response: http.client.HTTPResponse, have: int, total: int | None, advance: Advance
    ) -> None:
        with self.path.open("ab") as file:
            file.truncate(have)
            advance(have)
            try:
                while chunk := response.read(_CHUNK_BYTES):
                    file.write(chunk)
                    have += len(chunk)
                    advance(have)
            except (OSError, http.client.HTTPException) as exc:
                if isinstance(exc, OSError) and exc.errno == errno.ENOSPC:
                    raise DownloadFailed(f"{self.path.parent}: the disk is full") from exc
                raise TransferCut(f"the connection broke after {have} bytes") from exc
        if total is not None and have != total:
            raise TransferCut(f"the connection ended after {have} of {total} bytes")

    def _read_note(self) -> _PartNote | None:
        try:
            note = _PartNote(**json.loads(self.note_path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return note if note.url_sha256 == self._url_sha256 else None

    def _write_note(self, note: _PartNote) -> None:
        self._note = note
        self.note_path.write_text(json.dumps(asdict(note)), encoding="utf-8")


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: urllib.request.Request, *args: Any) -> Any:
        *_, newurl = args
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise DownloadFailed("the server redirects from https to an unprotected address")
        return super().redirect_request(req, *args)


def _open(request: urllib.request.Request) -> http.client.HTTPResponse:
    # Built by hand so that no handler for file: or ftp: is there for a redirect to reach.
    opener = urllib.request.OpenerDirector()
    for handler in (
        *(urllib.request.ProxyHandler(), urllib.request.HTTPHandler()),
        *(urllib.request.HTTPSHandler(), urllib.request.HTTPDefaultErrorHandler()),
        *(urllib.request.HTTPErrorProcessor(), _Redirects(), urllib.request.UnknownHandler()),
    ):
        opener.add_handler(handler)
    try:
        response = opener.open(request, timeout=_SILENCE_S)
    except urllib.error.HTTPError as exc:
        with exc:
            raise _refusal(exc.code) from exc
    except urllib.error.URLError as exc:
        if isinstance(exc.reason, ssl.SSLCertVerificationError) or "unknown url type" in str(exc):
            raise DownloadFailed(f"cannot be fetched: {exc.reason}") from exc
        raise TransferCut(f"no connection ({exc.reason})") from exc
    except (OSError, http.client.HTTPException) as exc:
        raise TransferCut(f"no answer ({exc or type(exc).__name__})") from exc
    assert isinstance(response, http.client.HTTPResponse)
    if (response.headers.get("Content-Encoding") or "identity") != "identity":
        response.close()
        raise DownloadFailed("the server sends the file compressed, so its size cannot be checked")
    return response


def _refusal(status: int) -> Exception:
    text = f"the server answered {status} {http.client.responses.get(status, '')}".rstrip()
    if status == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
        return _NoSuchRange(text)
    return TransferCut(text) if status in _TRY_AGAIN else DownloadFailed(text)


def _total_bytes(response: http.client.HTTPResponse, have: int) -> int | None:
    length = response.headers.get("Content-Length") or ""
    return have + int(length) if length.isascii() and length.isdigit() else None


def _validator(response: http.client.HTTPResponse) -> str | None:
    etag = response.headers.get("ETag")
    if etag and not etag.startswith("W/"):
        return etag
    return response.headers.get("Last-Modified")
