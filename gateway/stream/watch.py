"""One timer for each stream: heartbeats for the client, patience with the engine."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from gateway.call import Call
from gateway.errors import ApiError
from gateway.stream import comments
from gateway.stream.pump import Pump
from gateway.stream.reply import StreamReply
from gateway.tasks import Tasks

__all__ = ["StreamWatch"]

_LEAST_PAUSE_S = 0.01


class StreamWatch:
    """Watches one stream from the moment its request was understood.

    Nothing sets the timer anew but its own ticks: each is due before anything can have to be done.

    Args:
        call: Killed with `engine_timeout` when the engine falls silent; its turn is told.
        reply: Committed to, and kept alive, by comments.
        tasks: Holder of the commit, which a timer cannot await.
        loop: Runs the timer.
        heartbeat_after_s: Silence before the first comment.
        heartbeat_interval_s: Silence before each further one.
        silence_limit_s: How long the engine may be silent.
    """

    def __init__(
        self,
        call: Call,
        reply: StreamReply,
        tasks: Tasks,
        loop: asyncio.AbstractEventLoop,
        *,
        heartbeat_after_s: float,
        heartbeat_interval_s: float,
        silence_limit_s: float,
    ) -> None:
        self._call = call
        self._reply = reply
        self._tasks = tasks
        self._after_s = heartbeat_after_s
        self._interval_s = heartbeat_interval_s
        self._silence_limit_s = silence_limit_s
        self._loop = loop
        self._started_s = self._beat_s = loop.time()
        self._pump: Pump | None = None
        self._commit: asyncio.Task[None] | None = None
        first_s = self._started_s + min(heartbeat_after_s, silence_limit_s)
        self._timer: asyncio.TimerHandle | None = loop.call_at(first_s, self._tick)

    def __repr__(self) -> str:
        return f"<StreamWatch {'on' if self._timer else 'off'}>"

    def since_start(self) -> float:
        """Seconds since the watch began."""
        return self._loop.time() - self._started_s

    def dispatched(self, pump: Pump) -> None:
        """The engine works on it; from here on its silence counts."""
        self._pump = pump  # the timer fires before that silence can have been too long

    def recalled(self) -> None:
        """The engine does not work on it any more; it may be sent once more."""
        self._pump = None

    def stop(self) -> None:
        """No heartbeat, no commit and no verdict after this."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._commit is not None:
            self._commit.cancel()

    def _quiet_since_s(self) -> float:
        pump = self._pump
        if pump is None or not pump.events.events:
            return self._beat_s
        return max(self._beat_s, pump.quiet_since_s())

    def _schedule(self) -> None:
        pause_s = self._interval_s if self._reply.committed else self._after_s
        now = self._loop.time()
        heard_s = now if self._pump is None else self._pump.quiet_since_s()
        due_s = min(self._quiet_since_s() + pause_s, heard_s + self._silence_limit_s)
        # Never in the past: a due moment that is now would otherwise spin.
        self._timer = self._loop.call_at(max(due_s, now + _LEAST_PAUSE_S), self._tick)

    def _tick(self) -> None:
        now = self._loop.time()
        pump = self._pump
        if pump is not None and now - pump.quiet_since_s() >= self._silence_limit_s:
            self._timer = None
            self._call.kill(ApiError("engine_timeout"))
            return
        if not self._reply.committed:
            if now - self._beat_s >= self._after_s:
                self._beat_s = now
                self._commit = self._tasks.spawn(self._commit_early(), "commit-for-heartbeat")
        elif now - self._quiet_since_s() >= self._interval_s:
            self._beat_s = now
            if self._pump is None or self._pump.events.between:
                self._reply.comment(self._news())
        self._schedule()

    def _news(self) -> bytes:
        """What there is to tell somebody who waits."""
        place = self._call.turn.place() if self._call.turn is not None else None
        if place is not None:
            return comments.queued(*place)
        pump = self._pump
        if pump is not None and not pump.events.events and pump.events.prefill is not None:
            return comments.prefill(pump.events.prefill)
        return comments.KEEP_ALIVE

    async def _commit_early(self) -> None:
        # A client that left in this moment ends its own task; there is nothing to do about it here.
        with suppress(ConnectionError):
            self._reply.gather()
            await self._reply.commit()
            self._reply.comment(self._news())
