"""Accepts the health port's connections, also while there are no file descriptors left.

asyncio's own way (Python 3.11) then logs a traceback for each of a hundred tries, ten times a
second, and answers nobody. Here a few descriptors are put by: one is given up for each connection
that finds none, and taken back when one has ended. While all of them are out the door is shut for a
moment and the oldest connection makes room, so that silent peers cannot keep a probe out.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import Callable

__all__ = ["SPARE", "Door"]

_log = logging.getLogger(__name__)

SPARE = 4
"""Connections that are answered at a time while there are no descriptors."""
_SHUT_S = 0.1
_SILENT_S = 60.0
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# Nobody waits any more, or who waited has gone.
_NOTHING_THERE = (BlockingIOError, InterruptedError, ConnectionError)


class Door:
    """
    One listening socket, from `open` to `close`; lives on the running loop.

    Args:
        sock: Listens and does not block; stays the caller's.
        protocols: Makes the protocol of a new connection.
        make_room: Ends the oldest connection, if there is one.
    """

    def __init__(
        self,
        sock: socket.socket,
        protocols: Callable[[], asyncio.BaseProtocol],
        make_room: Callable[[], None],
    ) -> None:
        self._sock = sock
        self._protocols = protocols
        self._make_room = make_room
        self._loop = asyncio.get_running_loop()
        self._is_open = False
        self._spare: list[int] = []
        self._beginning: set[asyncio.Task[None]] = set()
        self._shut: asyncio.TimerHandle | None = None
        self._told_s: float | None = None

    def open(self) -> None:
        """Begin to accept, or go on with it."""
        self._is_open = True
        self._refill()
        self._loop.add_reader(self._sock, self._accept)

    def close(self) -> None:
        """Accept no more; connections that have begun go on."""
        self._is_open = False
        if self._shut is not None:
            self._shut.cancel()
        self._loop.remove_reader(self._sock)
        while self._spare:
            os.close(self._spare.pop())

    def connection_ended(self) -> None:
        """Tell that a connection is about to let go of its descriptor, in this turn of the loop."""
        if len(self._spare) < SPARE:
            self._loop.call_soon(self._refill)

    def _accept(self) -> None:
        """Accept one; with no descriptor left a try with nobody waiting fails like any other."""
        try:
            connection, _ = self._sock.accept()
        except _NOTHING_THERE:
            return
        except OSError as error:
            if error.errno not in _SHORTAGES:
                raise
            self._tell(error)
            self._accept_in_need()
        else:
            self._begin(connection)

    def _accept_in_need(self) -> None:
        if not self._spare:
            self._make_room()
            self._loop.remove_reader(self._sock)
            self._shut = self._loop.call_later(_SHUT_S, self.open)
            return
        os.close(self._spare.pop())
        # Another thread may have been quicker: then the next turn spends the next one.
        with contextlib.suppress(OSError):
            self._begin(self._sock.accept()[0])

    def _begin(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        task = self._loop.create_task(self._connect(connection))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)

    async def _connect(self, connection: socket.socket) -> None:
        await self._loop.connect_accepted_socket(self._protocols, connection)

    def _tell(self, error: OSError) -> None:
        now = self._loop.time()
        if self._told_s is None or now - self._told_s >= _SILENT_S:
            self._told_s = now
            _log.warning("health port: %s; probes are answered a few at a time", error.strerror)

    def _refill(self) -> None:
        with contextlib.suppress(OSError):
            while self._is_open and len(self._spare) < SPARE:
                self._spare.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
