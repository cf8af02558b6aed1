"""Keeps the prompts that the engine has processed over an unload, in files of a private folder.

The files hold the text of prompts. They live from an unload to the next wake, are readable by this
user alone, are named after slots, and are removed whatever happens. Nothing here may cost more than
it brings: every failure means that a prompt is computed again, as it would be without.

A damaged file can take the engine down with it, so each is hashed when it is written, and one that
is not the same any more is not restored.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import shutil
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from backend import (
    BackendError,
    EngineClient,
    SlotRefused,
    bound_new_files,
    held_prompts,
    restore_slot,
    save_slot,
)
from gateway.engine.warm_plan import Room, WarmLimits, Wish, allowed_bytes, worth_saving

__all__ = ["WarmSlots"]

_log = logging.getLogger(__name__)

_ASK_S = 2.0


@dataclass(frozen=True, slots=True)
class _File:
    slot: int
    path: Path
    tokens: int
    size_bytes: int
    digest: bytes


class WarmSlots:
    """Saves before an unload, restores after the wake.

    Neither call raises but when it is cancelled, and both are to be made while nobody is let in to
    the engine.

    Args:
        folder: Where the files go: private, there already, and known to the engine; None: this is
            switched off, and no call does anything.
        limits: Bounds on size and time.
    """

    def __init__(self, folder: Path | None, limits: WarmLimits | None = None) -> None:
        self._folder = folder
        self._limits = limits or WarmLimits()
        self._files: list[_File] = []
        self._restored: dict[int, int] = {}
        self.discard()

    def __repr__(self) -> str:
        return f"<WarmSlots {len(self._files)} files in {self._folder}>"

    @property
    def saved(self) -> int:
        """Slots that `restore` would read back."""
        return len(self._files)

    async def save(self, client: EngineClient, pid: int) -> int:
        """Write what the engine's slots hold, within `WarmLimits.save_s`.

        Args:
            client: A client of the engine.
            pid: The engine's process, which is going to be ended. From here on it can make no file
                larger than allowed.

        Returns:
            How many slots were saved.
        """
        self.discard()
        if self._folder is None:
            return 0
        try:
            await self._within(self._limits.save_s, "save", lambda: self._save_all(client, pid))
        except asyncio.CancelledError:
            self.discard()
            raise
        self._restored = {}
        self._remove({file.path for file in self._files})
        return len(self._files)

    async def restore(self, client: EngineClient) -> int:
        """Read back what was saved, within `WarmLimits.restore_s`; the files are gone afterwards.

        Args:
            client: A client of the engine, which is ready.

        Returns:
            How many slots were restored.
        """
        self._restored = {}
        files, self._files = self._files, []
        try:
            if files:
                limit_s = self._limits.restore_s
                await self._within(limit_s, "restore", lambda: self._read(client, files))
        finally:
            self.discard()  # also what an engine wrote after nobody waited for it any more
        return len(self._restored)

    def close(self) -> None:
        """Remove the files and their folder, once the engine that writes there is gone."""
        self.discard()
        if self._folder is not None:
            with suppress(OSError):
                self._folder.rmdir()

    def discard(self) -> None:
        """Remove all files; at any time, and as often as wanted."""
        self._files = []
        self._remove(set())

    # -- what is bounded

    async def _within(self, limit_s: float, what: str, work: Callable[[], Awaitable[str]]) -> None:
        began_s = asyncio.get_running_loop().time()
        told = ""
        try:
            async with asyncio.timeout(limit_s):
                told = await work()
        except (BackendError, OSError, TimeoutError) as exc:
            told = f"ended early: {type(exc).__name__}"
        took_ms = 1000 * (asyncio.get_running_loop().time() - began_s)
        _log.info("prompt caches: %s in %.0f ms: %s", what, took_ms, told)

    async def _save_all(self, client: EngineClient, pid: int) -> str:
        held = await held_prompts(client, _ASK_S)
        wishes = worth_saving(held, self._restored, self._limits.least_tokens)
        room = Room(self._allowed_bytes())
        failed = 0
        for wish in wishes:
            if not room.fits(wish.tokens):
                continue
            if not bound_new_files(pid, room.left_bytes):
                return "nothing, as files cannot be bounded in size here"
            failed += not await self._save_one(client, wish, room)
        size_bytes = sum(file.size_bytes for file in self._files)
        skipped = len(wishes) - len(self._files) - failed
        return (
            f"{len(self._files)} slots, {size_bytes} bytes, {failed} failed, "
            f"{skipped} did not fit, {len(held) - len(wishes)} not worth it"
        )

    async def _save_one(self, client: EngineClient, wish: Wish, room: Room) -> bool:
        assert self._folder is not None
        path = self._folder / f"slot-{wish.slot}.bin"
        try:
            saved = await save_slot(client, wish.slot, path.name, self._limits.save_s)
        except SlotRefused:  # the disk is full, or the file too large, or the model has no such
            path.unlink(missing_ok=True)
            return False
        room.take(saved.tokens, saved.size_bytes)
        size_bytes, digest = await asyncio.to_thread(_looked_at, path)
        if size_bytes != saved.size_bytes or saved.tokens < self._limits.least_tokens:
            return False
        self._files.append(_File(wish.slot, path, saved.tokens, size_bytes, digest))
        return True

    async def _read(self, client: EngineClient, files: list[_File]) -> str:
        there = {held.slot for held in await held_prompts(client, _ASK_S)}
        damaged = 0
        for file in files:
            if file.slot not in there:
                continue
            if not await _is_whole(file):
                damaged += 1
                continue
            try:
                tokens = await restore_slot(
                    client, file.slot, file.path.name, self._limits.restore_s
                )
            except SlotRefused:  # it is another model now
                continue
            self._restored[file.slot] = tokens
        return f"{len(self._restored)} of {len(files)} slots, {damaged} files damaged"

    # -- the folder

    def _allowed_bytes(self) -> int:
        assert self._folder is not None
        return allowed_bytes(self._limits.total_bytes, shutil.disk_usage(self._folder).free)

    def _remove(self, kept: set[Path]) -> None:
        if self._folder is None:
            return
        try:
            for path in self._folder.iterdir():
                if path not in kept:
                    path.unlink(missing_ok=True)
        except OSError as exc:
            _log.warning("files with prompts could not be removed: %s", exc.strerror)


def _looked_at(path: Path) -> tuple[int, bytes]:
    """Size and digest; reads the whole file, at some GiB a second at most."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
        return file.tell(), digest


async def _is_whole(file: _File) -> bool:
    try:
        seen = await asyncio.to_thread(_looked_at, file.path)
    except OSError:
        return False
    return seen == (file.size_bytes, file.digest)
