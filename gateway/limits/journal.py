"""The counters of limits on disk, so that a restart forgives nobody.

Blocking: to be called from a thread. Rules:

- a save is a new private file beside the old one, flushed, renamed over it, and the directory
  flushed (`keys.write_private`): killed at any instant, the old content or the new is found,
  complete;
- a symbolic link in its place stays: what it points to is the file, and is looked up each time;
- a full or broken disk never stops the service: `save` says so once in the log, and once more
  when it works again;
- a file that cannot be understood is kept aside under the name ``.bad`` and never read again.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
from pathlib import Path
from typing import Any

import orjson

from keys import WriteFailed, write_private

__all__ = ["MAX_JOURNAL_BYTES", "Journal"]

_logger = logging.getLogger(__name__)
_VERSION = 1
MAX_JOURNAL_BYTES = 2 * 1024 * 1024
"""Ten thousand keys with long names take about half of it."""


class Journal:
    """
    One file that holds one state.

    Args:
        path: The file, or a link to it; its directory should exist. Nobody else may write it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._failing = False
        self._turn = threading.Lock()

    def __repr__(self) -> str:
        return f"<Journal {self.path}{', failing' if self._failing else ''}>"

    def load(self) -> dict[str, Any] | None:
        """What was saved last.

        Returns:
            None if there is nothing, or nothing that can be understood: the log says why.
        """
        try:
            data = _read(self.path)
        except FileNotFoundError:
            return None
        except OSError as exc:
            _logger.warning("limits start anew, %s cannot be read: %s", self.path, _reason(exc))
            return None
        try:
            return _parsed(data)
        except ValueError as exc:
            self.set_aside(str(exc))
            return None

    def set_aside(self, why: str) -> None:
        """Keep a file that makes no sense out of the way, for a person to look at."""
        path = self._file()
        bad = path.with_name(path.name + ".bad")
        _logger.warning("limits start anew, %s is kept as %s: %s", path, bad.name, why)
        try:
            path.replace(bad)
        except OSError as exc:
            _logger.warning("%s could not be renamed: %s", path, _reason(exc))

    def save(self, state: dict[str, Any]) -> bool:
        """Replace what was saved before.

        Returns:
            Whether it is on disk. Never raises `OSError`.

        Raises:
            TypeError: *state* holds something that JSON cannot.
        """
        data = orjson.dumps({"version": _VERSION, "state": state})
        with self._turn:
            try:
                if len(data) > MAX_JOURNAL_BYTES:
                    raise WriteFailed(f"they are larger than {MAX_JOURNAL_BYTES} bytes")
                write_private(self.path, data)
            except WriteFailed as exc:
                self._failed(exc)
                return False
            self._worked()
            return True

    def _file(self) -> Path:
        # Not Path.resolve: it raises for a link that leads to itself, in some versions.
        return Path(os.path.realpath(self.path))

    def _failed(self, exc: WriteFailed) -> None:
        if not self._failing:
            self._failing = True
            _logger.warning(
                "the counters of limits cannot be saved to %s and live in memory only: %s",
                self.path,
                exc,
            )

    def _worked(self) -> None:
        if self._failing:
            self._failing = False
            _logger.info("the counters of limits are saved to %s again", self.path)


def _reason(exc: OSError) -> str:
    return os.strerror(exc.errno or 0)


def _read(path: Path) -> bytes:
    # Without O_NONBLOCK a named pipe in its place would hold the start for ever.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        with os.fdopen(fd, "rb", closefd=False) as file:
            return file.read(MAX_JOURNAL_BYTES + 1)
    finally:
        os.close(fd)


def _parsed(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_JOURNAL_BYTES:
        raise ValueError(f"it is larger than {MAX_JOURNAL_BYTES} bytes")
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise ValueError("it is not JSON") from None
    if not isinstance(found, dict) or found.get("version") != _VERSION:
        raise ValueError(f"it is not of version {_VERSION}")
    state = found.get("state")
    if not isinstance(state, dict):
        raise ValueError("it holds no state")
    return state
