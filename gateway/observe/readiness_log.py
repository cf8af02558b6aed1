"""Appends the lines of `gateway.observe.readiness` to the file MODEL_LOG.

Whoever watches the file acts on a line once, so each is written once in the life of the process:
an engine that restarts, or wakes, says nothing here.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from gateway.observe.readiness import fatal_lines, ready_lines

__all__ = ["ReadinessLog"]

_log = logging.getLogger(__name__)

_MODE = 0o644  # the watcher may be another user
# Never wait for a reader, should the path be a pipe; never become the owner of a terminal.
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class ReadinessLog:
    """
    The file that tells of the first readiness and of the end.

    Both calls write less than 300 bytes and are quick enough for the event loop. A file that
    cannot be written is warned about; the service goes on.

    Args:
        path: The file; its folder is made when missing. None: nothing is written.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._said_ready = False
        self._said_fatal = False

    def ready(self, model: str) -> None:
        """The engine is ready for the first time and serves *model*."""
        if not self._said_ready:
            self._said_ready = True
            self._append(ready_lines(model))

    def fatal(self, reason: str) -> None:
        """Nothing will be served any more; *reason* is one word. Only the first one is written."""
        if not self._said_fatal:
            self._said_fatal = True
            self._append(fatal_lines(reason))

    def _append(self, text: str) -> None:
        if self._path is None:
            return
        try:
            descriptor = _open(self._path)
            try:
                os.write(descriptor, text.encode("utf-8", "replace"))
            finally:
                os.close(descriptor)
        except OSError as exc:
            _log.warning("MODEL_LOG %s cannot be written: %s", self._path, exc.strerror or exc)


def _open(path: Path) -> int:
    """Open *path* for appending, readable by everyone when it is new, whatever the umask."""
    try:
        return os.open(path, _FLAGS)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, _FLAGS | os.O_CREAT, _MODE)
    os.fchmod(descriptor, _MODE)
    return descriptor
