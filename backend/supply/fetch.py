"""Fetch one large file over HTTP so that an interruption costs only what was missing.

Rules:
- The final name appears last: after the size, the hash and the caller's own check were right.
- A receipt beside the file says what it is, so that a later start neither fetches nor hashes it
  again, and notices when another address or hash is asked for. A file without a receipt was put
  there by a person and is never replaced.
- One process at a time for each file.
- Only http and https are spoken, and https never falls back to http in a redirect.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from backend.errors import DownloadFailed
from backend.supply.http_part import Part, TransferCut, beside, hash_of_address
from backend.supply.pinned import sha256_of
from backend.supply.progress import Progress

__all__ = ["Download", "fetch"]

_TRIES_WITHOUT_PROGRESS = 5
_BACKOFF_CAP_S = 30.0


@dataclass(frozen=True, slots=True)
class Download:
    """One file to fetch and how to know that it is right."""

    url: str
    target: Path
    sha256: str | None = None
    check: Callable[[Path], object] | None = None
    """Called with the finished file under its temporary name; its exception refuses the file."""


def fetch(
    download: Download, progress: Progress, *, pause: Callable[[float], object] = time.sleep
) -> Path:
    """
    Have the file of *download* at its target, fetching what is missing of it.

    Args:
        download: What to fetch.
        progress: Told about the bytes.
        pause: Waits for a number of seconds between tries.

    Raises:
        DownloadFailed: It cannot be had; what arrived is kept unless it was wrong.
    """
    _check_url(download.url)
    download.target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(beside(download.target, ".lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        progress.say(f"another process is fetching {download.target.name}; waiting for it")
        lock.acquire(poll_interval=0.5)
    try:
        if not _is_there(download, progress):
            _fetch_locked(download, progress, pause)
    finally:
        lock.release()
    return download.target


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DownloadFailed("a download address must begin with http:// or https://")
    if parts.username is not None:
        raise DownloadFailed("a download address may not carry a user name or password")


@dataclass(frozen=True, slots=True)
class _Receipt:
    """What is known about a file that was fetched; valid while size and time are the same."""

    url_sha256: str
    sha256: str | None
    size_bytes: int
    modified_ns: int


def _is_there(download: Download, progress: Progress) -> bool:
    if not download.target.exists():
        return False
    receipt = _read_receipt(download.target)
    ours = receipt is not None and receipt.url_sha256 == hash_of_address(download.url)
    if receipt is not None and not ours:
        progress.say(f"{download.target.name} came from another address; fetching it again")
        return False
    if download.sha256 is None or (receipt and receipt.sha256 == download.sha256.lower()):
        return True
    progress.say(f"checking SHA-256 of {download.target.name}")
    found = sha256_of(download.target)
    if found == download.sha256.lower():
        _write_receipt(download, found)
        return True
    if not ours:
        raise DownloadFailed(
            f"{download.target} was not fetched by this service and its SHA-256 is {found}, "
            f"not {download.sha256}; move it away"
        )
    return False


def _read_receipt(target: Path) -> _Receipt | None:
    try:
        receipt = _Receipt(**json.loads(beside(target, ".fetched.json").read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    found = target.stat()
    same = (receipt.size_bytes, receipt.modified_ns) == (found.st_size, found.st_mtime_ns)
    return receipt if same else None


def _write_receipt(download: Download, sha256: str | None) -> None:
    found = download.target.stat()
    receipt = _Receipt(
        hash_of_address(download.url),
        sha256.lower() if sha256 else None,
        found.st_size,
        found.st_mtime_ns,
    )
    text = json.dumps(asdict(receipt))
    beside(download.target, ".fetched.json").write_text(text, encoding="utf-8")


def _fetch_locked(download: Download, progress: Progress, pause: Callable[[float], object]) -> None:
    part = Part(download.url, download.target)
    _transfer(part, progress, pause)
    _verify(download, part, progress)
    with part.path.open("rb") as file:
        os.fsync(file.fileno())
    part.path.replace(download.target)
    part.note_path.unlink(missing_ok=True)
    _write_receipt(download, download.sha256)


def _transfer(part: Part, progress: Progress, pause: Callable[[float], object]) -> None:
    """Try until the part is whole, giving up after a few tries that brought nothing."""
    progress.say(f"fetching {part.path.name.removesuffix('.part')}")
    failures = 0
    while True:
        before = part.size
        try:
            part.pull(progress)
            return
        except TransferCut as exc:
            failures = 1 if part.size > before else failures + 1
            if failures >= _TRIES_WITHOUT_PROGRESS:
                raise DownloadFailed(f"{exc}; gave up after {failures} tries") from exc
            delay_s = min(_BACKOFF_CAP_S, 2.0 ** (failures - 1))
            progress.say(f"{exc}; trying again in {delay_s:.0f} s")
            pause(delay_s)


def _verify(download: Download, part: Part, progress: Progress) -> None:
    try:
        if download.sha256 is not None:
            progress.say("checking SHA-256")
            found = sha256_of(part.path)
            if found != download.sha256.lower():
                raise DownloadFailed(
                    f"{download.target.name}: SHA-256 is {found}, expected {download.sha256}"
                )
        if download.check is not None:
            download.check(part.path)
    except Exception:
        part.discard()  # whole and wrong: continuing it later would bring nothing
        raise
