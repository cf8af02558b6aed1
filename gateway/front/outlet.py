"""The writing side of one client connection: what is kept for a reader that lags, and for how long.

A reader passes through three states:

- *quick*: the transport's buffer is below its high-water mark. Nothing is measured, and bytes go
  straight to the transport;
- *slow*: it is above the mark. What follows is kept here, in one piece of memory (a transport keeps
  each small write by itself, at about 1 KiB of bookkeeping for each), and handed on as the reader
  takes it. The engine goes on at its own speed, so that its slot is free as soon as can be;
- *full*: ``stream_buffer_bytes`` are kept. The engine is paused until half of it is gone. A reader
  that does not get there within ``client_stall_s`` is cut, also if it trickles: it holds a slot.

Where no engine is held (a reply in one piece, or the rest of a stream that is complete) only a
reader that takes nothing at all in ``client_stall_s`` is cut. (The kernel takes more from us when a
third of its send buffer is free, so some 80 KiB in that time count as nothing.)

The kernel cuts a peer that leaves bytes unacknowledged for ``client_stall_s`` (TCP_USER_TIMEOUT),
and counts a closed window as such. That would cut a slow reader long before its buffer is full, so
the kernel's patience is switched off while a reader is slow: one that vanished in this state fills
its buffer or gets to the end of its reply, and then the patience described above runs out.

All slow readers together are held within ``stream_memory_bytes``, see `SlowReaders`. A cut is a
reset (RST): what the kernel still has to send is dropped, too.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from gateway.front.slow_readers import SlowReaders

__all__ = ["SLOW_FROM_BYTES", "Crowd", "DrainListener", "Outlet", "OutletLimits"]

SLOW_FROM_BYTES = 64 << 10
"""The transport's high-water mark: what one quick reader may leave in our memory."""
_RESET = struct.pack("ii", 1, 0)

DrainListener = Callable[[bool], None]
"""Told True when the buffer is full, False when there is room again."""


@dataclass(frozen=True, slots=True)
class OutletLimits:
    """Bounds on one reader."""

    buffer_bytes: int
    stall_s: float

    @property
    def slow_from_bytes(self) -> int:
        """The mark above which a reader is slow."""
        return min(SLOW_FROM_BYTES, self.buffer_bytes // 2)


class Crowd:
    """All slow readers of a listener.

    Args:
        limit_bytes: What may be kept for all of them together.
        on_stalled: Called for each that was cut because it stood still.
        on_crowded: Called for each that was cut because all together kept too much.
    """

    def __init__(
        self,
        limit_bytes: int,
        loop: asyncio.AbstractEventLoop,
        *,
        on_stalled: Callable[[], None],
        on_crowded: Callable[[], None],
    ) -> None:
        self._book: SlowReaders[Outlet] = SlowReaders(limit_bytes)
        self._loop = loop
        self._on_crowded = on_crowded
        self._relief: asyncio.Handle | None = None
        self.on_stalled = on_stalled

    def __repr__(self) -> str:
        return f"<Crowd {self._book!r}>"

    def __len__(self) -> int:
        return len(self._book)

    @property
    def total_bytes(self) -> int:
        """What is kept for all, as last measured."""
        return self._book.total_bytes

    def note(self, outlet: Outlet, size_bytes: int) -> None:
        """Take down what *outlet* keeps; sees to it that somebody is cut when it is too much."""
        book = self._book
        book.note(outlet, size_bytes)
        if book.crowded and self._relief is None:
            # Not here: a transport is in the middle of a write.
            self._relief = self._loop.call_soon(self._relieve)

    def forget(self, outlet: Outlet) -> None:
        """*outlet* keeps no more than any quick reader."""
        self._book.forget(outlet)

    def _relieve(self) -> None:
        self._relief = None
        for outlet in self._book:
            self._book.note(outlet, outlet.size_bytes)
        for outlet in self._book.cut_largest():
            self._on_crowded()
            outlet.cut()


class Outlet:
    """What goes out to one client.

    Args:
        transport: The connection's.
        crowd: Where it is entered while its reader is slow.
        limits: Of this one reader.
        loop: Runs the timer.
    """

    __slots__ = (
        "_crowd",
        "_full",
        "_gone",
        "_kept",
        "_limits",
        "_listener",
        "_loop",
        "_paused",
        "_seen_bytes",
        "_timer",
        "_transport",
        "slow",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        crowd: Crowd,
        limits: OutletLimits,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._transport = transport
        self._crowd = crowd
        self._limits = limits
        self._loop = loop
        self._kept = bytearray()
        self._listener: DrainListener | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._seen_bytes = 0
        self._paused = self._full = self._gone = False
        self.slow = False
        """Whether bytes must go through `keep`; else the transport takes them."""
        mark = limits.slow_from_bytes
        transport.set_write_buffer_limits(high=mark, low=mark // 2)

    def __repr__(self) -> str:
        state = "gone" if self._gone else "full" if self._full else "slow" if self.slow else "quick"
        return f"<Outlet {state}, {len(self._kept)} bytes kept>"

    @property
    def size_bytes(self) -> int:
        """What this side keeps for the reader, the kernel's share left out."""
        return len(self._kept) + self._transport.get_write_buffer_size()

    # -- what the reply tells

    def keep(self, data: bytes) -> None:
        """Send *data* after all that is kept; only while `slow`."""
        if self._gone:
            return
        self._kept += data
        self._measure()

    def hand_over(self) -> None:
        """Give the transport all that is kept; whoever writes next may write to it directly."""
        if self._kept and not self._gone:
            kept, self._kept = self._kept, bytearray()
            self._transport.write(kept)

    def on_drain(self, listener: DrainListener | None) -> None:
        """Whose engine is paused while the buffer is full; None when no engine is held."""
        if listener is None and self._full:
            self._leave_full()
        self._listener = listener
        if self._full and listener is not None:
            listener(True)
        elif self.slow:
            self._watch()
            self._measure()

    # -- what the transport tells

    def pause(self) -> None:
        """The transport is above its mark."""
        self._paused = True
        if self._gone:
            return
        if not self.slow:
            self.slow = True
            self._set_kernel_patience(0.0)
            self._watch()
        self._measure()

    def resume(self) -> None:
        """The transport has room again."""
        self._paused = False
        if self._gone:
            return
        mark = self._limits.slow_from_bytes
        while self._kept and not self._paused:
            piece = self._kept[:mark]
            del self._kept[:mark]
            self._transport.write(piece)
        if self._paused:
            self._measure()
        else:
            self._caught_up()
            self._set_kernel_patience(self._limits.stall_s)

    def lost(self) -> None:
        """The connection is gone."""
        self._gone = True
        self._listener = None
        self._caught_up()
        self._kept = bytearray()

    def cut(self) -> None:
        """Reset the connection; what is kept is dropped."""
        if self._gone:
            return
        self.lost()
        self._set_option(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    # -- states

    def _measure(self) -> None:
        size = self.size_bytes
        self._crowd.note(self, size)
        if self._full:
            if size <= self._limits.buffer_bytes // 2:
                self._leave_full()
        elif self._listener is not None and size >= self._limits.buffer_bytes:
            self._full = True
            self._arm()
            self._listener(True)

    def _leave_full(self) -> None:
        self._full = False
        self._disarm()
        if self._listener is not None:
            self._listener(False)

    def _caught_up(self) -> None:
        self.slow = False
        self._crowd.forget(self)
        if self._full:
            self._leave_full()
        self._disarm()

    def _set_kernel_patience(self, seconds: float) -> None:
        self._set_option(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * seconds))

    def _set_option(self, level: int, name: int, value: int | bytes) -> None:
        own = self._transport.get_extra_info("socket")
        if own is not None:
            with suppress(OSError):  # closed meanwhile, or not a TCP socket
                own.setsockopt(level, name, value)

    # -- patience

    def _watch(self) -> None:
        """Start or end the watch over progress: it is for replies that hold no engine."""
        if self._listener is None:
            self._seen_bytes = self.size_bytes
            self._arm()
        elif not self._full:
            self._disarm()

    def _arm(self) -> None:
        self._disarm()
        self._timer = self._loop.call_later(self._limits.stall_s, self._look)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        size, seen = self.size_bytes, self._seen_bytes
        if self._full or size >= seen:
            self._crowd.on_stalled()
            self.cut()
        else:
            self._seen_bytes = size
            self._arm()
