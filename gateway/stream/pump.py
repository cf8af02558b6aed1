"""Takes an engine's event stream from the read callback and passes whole events on.

Rules:
- what is kept before somebody takes the events is kept in order;
- only events and progress count as signs of life: llama-server sends comments from a thread that
  lives on when decoding is stuck;
- after ``[DONE]`` the answer is complete; the engine gets a moment to end its response, and
  whether it does changes nothing for the client;
- nothing is passed on behind an event that could not be read: what follows must not look as if
  nothing were missing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from backend import BackendError
from gateway.engine.failures import from_backend, from_event
from gateway.errors import ApiError
from gateway.stream.sse import EventStream, Outcome

__all__ = ["Pump"]

_log = logging.getLogger(__name__)

_LINGER_S = 1.0


class Pump:
    """One answer on its way from the engine.

    Args:
        events: What is passed on, and what is known of it.
        on_lost: Called at once when the connection to the engine breaks.
        on_first: Called with the first event.
        loop: The running one, where it is at hand.
    """

    def __init__(
        self,
        events: EventStream,
        *,
        on_lost: Callable[[], None],
        on_first: Callable[[], None] | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        loop = loop or asyncio.get_running_loop()
        self.events = events
        self.begun: asyncio.Future[None] = loop.create_future()
        """Done with the first event, or when there will be none."""
        self.over: asyncio.Future[ApiError | None] = loop.create_future()
        """Done when the answer is complete (None) or failed."""
        self.kept: list[bytes] = []
        self.started_s = self.heard_s = loop.time()
        """Monotonic seconds: of the beginning, of the last sign of life."""
        self.prefill_s: float | None = None
        """Seconds from the beginning to the first event; None before it came."""
        self._held = False
        self._unreadable = False  # an event that came made no sense
        self._ended = False  # no more is to come
        self._whole = False  # the answer ended before anybody took it
        self._loop = loop
        self._time = loop.time
        self._on_lost = on_lost
        self._on_first = on_first
        self._progress = 0
        self._listener: Callable[[bytes], None] | None = None
        self._out: Callable[[bytes], None] | None = None  # the listener, once an event has come
        self._before_last: Callable[[], None] | None = None
        self._linger: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Pump {self.events!r}>"

    def release_to(
        self, out: Callable[[bytes], None], before_last: Callable[[], None] | None = None
    ) -> None:
        """Hand what was kept, and all that follows, to *out*.

        Args:
            out: May raise ValueError: what came makes no sense.
            before_last: Called when `over` will be done as soon as *out* has had what follows.
        """
        self._listener = out
        self._before_last = before_last
        kept, self.kept = self.kept, []
        for events in kept:
            self._pass_on(events)
        if self._whole:
            self._end(None)

    def hold(self, held: bool) -> None:
        """Nobody listens to the engine for a while, or somebody does again."""
        self._held = held
        self.heard_s = self._time()

    def quiet_since_s(self) -> float:
        """Since when the engine has been silent, in monotonic seconds."""
        return self._time() if self._held else self.heard_s

    @property
    def complete(self) -> bool:
        """Whether all of the answer is here, and could be read."""
        return self.events.done and not self._unreadable

    def unfinished(self) -> int:
        """Answers that have not come to their end."""
        return self.events.unfinished

    def outcome(self) -> Outcome:
        """What the last events said; nothing, if they cannot be read."""
        try:
            return self.events.outcome()
        except Exception:  # bookkeeping never fails an answer
            _log.exception("the engine's final events cannot be read")
            return Outcome()

    def stop(self) -> None:
        """Nobody takes events any more."""
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None

    # -- backend.Sink

    def data(self, chunk: bytes) -> None:
        """Take the next bytes of the engine's answer."""
        stream = self.events
        events = stream.feed(chunk)
        if not events:
            self._note_progress()
        elif self._out is None:
            self._take_early(events)
        else:
            self.heard_s = self._time()
            try:
                self._out(events)
            except ValueError:
                self._give_up()
        if stream.over:
            self._end_soon()

    def end(self, rest: bytes) -> None:
        """The engine's response ended where its framing says, with *rest*."""
        if rest:
            if self._before_last is not None:
                self._before_last()
            self._ended = True
            self.data(rest)
        self._end(None if self.events.done else ApiError("engine_crashed", retry_after_s=1.0))

    def lost(self, error: BackendError) -> None:
        """The connection to the engine broke."""
        _log.debug("an answer broke off: %s", error)  # whoever waits for it tells whose it was
        self._on_lost()
        self._end(None if self.events.done else from_backend(error))

    def _note_progress(self) -> None:
        if self.events.progress_events != self._progress:
            self._progress = self.events.progress_events
            self.heard_s = self._time()

    def _take_early(self, events: bytes) -> None:
        """Take the first events, or what comes before anybody listens."""
        self.heard_s = self._time()
        if self._on_first is not None:
            self._on_first()
            self._on_first = None
        if self._listener is not None:
            self._pass_on(events)
            return
        self.kept.append(events)
        if not self.begun.done():
            self.prefill_s = self.heard_s - self.started_s
            self.begun.set_result(None)

    def _pass_on(self, events: bytes) -> None:
        assert self._listener is not None
        self._out = self._listener
        try:
            self._listener(events)
        except ValueError:
            self._give_up()

    def _give_up(self) -> None:
        """An event came that cannot be assembled, or told in another dialect."""
        self._unreadable = True
        self._listener = self._out = _drop
        self._end(ApiError("engine_error"))

    def _end_soon(self) -> None:
        error = self.events.error
        if error is not None:
            self._end(from_event(error))
        elif not self._ended and self._linger is None:
            self._linger = self._loop.call_later(_LINGER_S, self._end, None)

    def _end(self, error: ApiError | None) -> None:
        self.stop()
        if error is None and self.kept:  # whether it can be read shows when it is taken
            self._whole = True
        elif not self.over.done():
            self.over.set_result(error)
        if not self.begun.done():
            self.begun.set_result(None)


def _drop(events: bytes) -> None:
    """Nobody wants these."""
