"""One request to the engine and its answer back: admit, send, relay, account.

Rules:
- generation is always streamed from the engine, also for a client that wants one JSON body: only a
  streaming request is given up by llama-server as soon as we hang up;
- a slot is held for as long as the exchange lasts; leaving the block aborts the one and frees the
  other, whatever the reason: the answer, an error, a client who left, a key that was revoked. An
  exchange that was left in the middle abandons its slot, which is free once the engine says so;
- an event stream is complete when the engine sent ``[DONE]``. Anything else is an error, told to
  the client as a status while that is possible and as the dialect's error frame afterwards;
- bytes of events are passed on from the engine's read callback, unchanged unless the client speaks
  another dialect than the engine;
- a request that never reached the engine, or whose engine died before the client had any of the
  answer, is sent again: see `gateway.replay`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from backend import BackendError, Exchange
from gateway.accounting import account_reply, account_stream, charge_no_prompt, tell_times
from gateway.call import Call
from gateway.dialects import Dialect, EngineCall
from gateway.dispatch import Deadline, Dispatch, EngineDoor
from gateway.engine.failures import from_backend
from gateway.errors import ApiError
from gateway.front.reply import Reply
from gateway.off_loop import off_loop_if_large
from gateway.queue.admission import Admission, Lease
from gateway.queue.turns import Signs
from gateway.replay import Replay
from gateway.stream.continuation import Continuation, continuable
from gateway.stream.narration import Narration, understood
from gateway.stream.pump import Pump
from gateway.stream.reply import StreamReply
from gateway.stream.sse import EventStream, Outcome
from gateway.stream.watch import StreamWatch
from gateway.tasks import Tasks

__all__ = ["Planner", "Relay", "RelaySettings"]

_log = logging.getLogger(__name__)

_JSON_LIMIT_BYTES = 64 << 20
_BATCH_TOKENS = 512
"""What the engine reads of a prompt between two reports, see `backend.command`."""
_MEDIA = (b'"image_url"', b'"input_audio"')
_MEDIA_TOKENS = 2000
"""A picture or a sound is read in one piece, and takes as long as so many tokens."""

Planner = Callable[[Callable[[], float]], Awaitable[EngineCall]]
"""Makes the engine call; may wait for an engine to plan for, so many seconds as are left."""


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """How long things may take, in seconds."""

    heartbeat_after_s: float = 5.0
    heartbeat_interval_s: float = 15.0
    request_timeout_s: float = 600.0
    """Silence of the engine in a stream, or its whole time for any other request."""
    queue_wait_s: float = 300.0
    """All waiting for the engine and for a slot together."""


class Relay:
    """Carries calls to the engine.

    Args:
        engine: Where they go.
        admission: The door before it.
        settings: Times.
        tasks: Holder of the rare background task (a commit forced by a heartbeat).
        dispatch: Lets calls in and sends them.
        replay: Tries them again where that is right.
        on_first: Told, with the first event of each answer, when its request came.
        on_continued: Told of each stream that another engine goes on with.
    """

    def __init__(
        self,
        engine: EngineDoor,
        admission: Admission,
        settings: RelaySettings,
        tasks: Tasks,
        *,
        dispatch: Dispatch,
        replay: Replay,
        on_first: Callable[[float], None],
        on_continued: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._admission = admission
        self._settings = settings
        self._tasks = tasks
        self._dispatch = dispatch
        self._replay = replay
        self._on_first = on_first
        self._on_continued = on_continued
        self._loop = asyncio.get_running_loop()
        self._time = self._loop.time

    # -- replies in one piece

    async def whole(self, call: Call, dialect: Dialect, planner: Planner) -> bytes:
        """The body of a reply in one piece: what the engine makes of the planned call.

        Args:
            call: The request.
            dialect: How it is spoken.
            planner: Makes the engine call, once the model is known.

        Raises:
            ApiError: It has no answer.
            asyncio.CancelledError: The client left.
        """
        settings = self._settings
        deadline = Deadline(self._time, settings.queue_wait_s, call.patience.wait_s(streamed=False))
        plan = await planner(deadline.wait_s)
        alarm = _Alarm(self._loop, settings.request_timeout_s, call)

        def attempt(plan: EngineCall, lease: Lease) -> Coroutine[Any, Any, bytes]:
            return self._attempt(call, dialect, plan, lease, alarm)

        try:
            body = await self._replay.run(call, plan, deadline, attempt, _the_same)
        except asyncio.CancelledError:
            killed = call.why_cancelled()
            if killed is None:
                raise
            if killed.code == "engine_timeout":
                charge_no_prompt(call)
            raise killed from None
        if plan.tasks:  # an engine that can count may still die of every answer
            self._engine.note_served()
        return body

    async def _attempt(
        self, call: Call, dialect: Dialect, plan: EngineCall, lease: Lease, alarm: _Alarm
    ) -> bytes:
        """One attempt at a reply in one piece."""
        exchange: Exchange | None = None
        alarm.start()
        try:
            exchange = await self._dispatch.send(call, plan, lease)
            if dialect.assembler is None:
                return await self._pass_on(call, exchange, lease)
            return await self._assemble(call, dialect, plan, exchange, lease)
        finally:
            alarm.stop()
            if exchange is not None:
                exchange.abort()

    async def _pass_on(self, call: Call, exchange: Exchange, lease: Lease) -> bytes:
        try:
            body = await exchange.read(_JSON_LIMIT_BYTES)
        except BackendError as exc:
            account_reply(call, b"")
            self._engine.suspect()
            raise from_backend(exc) from exc
        lease.abandoned = False
        self._admission.learn(lease, prompt_tokens=account_reply(call, body))
        return body

    async def _assemble(
        self, call: Call, dialect: Dialect, plan: EngineCall, exchange: Exchange, lease: Lease
    ) -> bytes:
        assert dialect.assembler is not None
        assembler = dialect.assembler(plan, call.head)
        pump = self._pump(call, plan, lease)
        pump.release_to(understood(plan, assembler.feed))
        exchange.attach(pump)
        try:
            error = await pump.over
        finally:
            tell_times(call, self._close_books(call, pump, lease))
        if error is not None:
            raise error
        try:
            return assembler.result()
        except ValueError as exc:  # the events do not make a reply
            raise ApiError("engine_error") from exc

    # -- streams

    async def stream(self, call: Call, dialect: Dialect, planner: Planner) -> Reply:
        """Answer with events; arguments and errors as in `whole`, before anything was sent.

        What fails later is told inside the stream.
        """
        reply = StreamReply(call.request, call.headers)
        watch = StreamWatch(
            call,
            reply,
            self._tasks,
            self._loop,
            heartbeat_after_s=call.patience.beat_s(self._settings.heartbeat_after_s),
            heartbeat_interval_s=call.patience.beat_s(self._settings.heartbeat_interval_s),
            silence_limit_s=self._settings.request_timeout_s,
        )
        narration = Narration(call, dialect, reply)
        try:
            await self._carry(call, planner, narration, watch)
            return await reply.finish()
        except ApiError as exc:
            error = exc.with_traceback(None)  # kept here, it would keep all that is here alive
        except asyncio.CancelledError:
            killed = call.why_cancelled()
            if killed is None:
                raise
            if killed.code == "engine_timeout":
                charge_no_prompt(call)
            error = killed
        except ConnectionError:  # the client left in the moment of the last write
            raise
        except Exception:
            _log.exception("request %s failed", call.record.request_id)
            error = ApiError("internal_error", close=True)
        finally:
            watch.stop()
            call.record.bytes_out = reply.bytes_out
        if not reply.committed:
            reply.abandon()
            try:
                raise error
            finally:
                del error
        if reply.complete and not reply.ending:  # whatever happened then, the answer is whole
            return await reply.finish()
        # -- committed: from here on a failure can only be told inside the stream
        call.record.error_code, call.record.limit = error.code, error.limit
        if reply.ending:
            call.request.front.cut()
            raise asyncio.CancelledError
        return await reply.fail(narration.last_word(error))

    async def _carry(
        self, call: Call, planner: Planner, narration: Narration, watch: StreamWatch
    ) -> None:
        reply = narration.reply
        wait_s = call.patience.wait_s(streamed=True)
        deadline = Deadline(self._time, self._settings.queue_wait_s, wait_s)
        plan = await planner(deadline.wait_s)
        narration.begin(plan)
        continuation = await self._continuation(call, plan)

        async def attempt(plan: EngineCall, lease: Lease) -> None:
            try:
                await self._relay(call, plan, narration, watch, lease, continuation)
            finally:
                watch.recalled()

        def revive(plan: EngineCall) -> EngineCall | None:
            if not reply.answering:
                return plan
            return None if continuation is None else self._go_on(narration, continuation)

        await self._replay.run(call, plan, deadline, attempt, revive)

    async def _continuation(self, call: Call, plan: EngineCall) -> Continuation | None:
        """What can continue the answer of another engine, where that is wished for and possible."""
        if not call.continue_stream:
            return None
        possible = await off_loop_if_large(len(plan.body), lambda: continuable(plan))
        return Continuation(plan) if possible else None

    def _go_on(self, narration: Narration, continuation: Continuation) -> EngineCall | None:
        """The call that makes the rest of a begun answer; None when there is none to make."""
        if not continuation.possible:
            return None
        ending = continuation.ending()
        if ending is not None:
            narration.write(ending)
            narration.reply.complete = True
            return None
        self._on_continued()
        return continuation.resume()

    async def _relay(
        self,
        call: Call,
        plan: EngineCall,
        narration: Narration,
        watch: StreamWatch,
        lease: Lease,
        continuation: Continuation | None,
    ) -> None:
        reply = narration.reply
        pump = self._pump(call, plan, lease)
        watch.dispatched(pump)
        exchange = await self._dispatch.send(call, plan, lease)
        try:
            exchange.attach(pump)
            await pump.begun
            if pump.kept:
                # -- the commit point: the first event is here, the status goes out
                reply.answering = True
                reply.gather()
                await reply.commit(_backpressure(exchange, pump))
                if call.record.ttft_s is None:  # a stream that is continued has had its first
                    call.record.ttft_s = watch.since_start()
                out = narration.listener(pump.events)
                if continuation is not None:
                    out = continuation.through(out, pump.events)
                pump.release_to(out, reply.gather)
                if not pump.over.done():
                    reply.send()
            error = await pump.over
            if error is not None:
                reply.send()
                raise error
            watch.stop()  # what is left is between us and the reader
            self._engine.note_served()
            await reply.commit()
        finally:
            exchange.abort()
            reply.mid_event = narration.passes_on and pump.events.mid_event
            reply.complete = pump.complete
            self._close_books(call, pump, lease, continuation)

    # -- both

    def _pump(self, call: Call, plan: EngineCall, lease: Lease) -> Pump:
        events = EventStream(choices=plan.choices, prompts=plan.prompts)
        pump = Pump(
            events,
            on_lost=self._engine.suspect,
            on_first=lambda: self._on_first(pump.started_s - call.record.queue_s),
            loop=self._loop,
        )
        lease.unfinished = pump.unfinished
        lease.signs = lambda: Signs(
            pump.quiet_since_s(), 0 if events.events else _unreported_tokens(call, plan)
        )
        return pump

    def _close_books(
        self, call: Call, pump: Pump, lease: Lease, continuation: Continuation | None = None
    ) -> Outcome:
        pump.stop()
        outcome = account_stream(call, pump, continuation)
        events = pump.events
        lease.abandoned = not (events.done or events.error is not None)
        if events.done:
            self._admission.learn(
                lease,
                prompt_tokens=call.record.prompt_tokens - call.record.cached_tokens,
                completion_tokens=call.record.completion_tokens,
                prefill_s=pump.prefill_s,
            )
        return outcome


def _unreported_tokens(call: Call, plan: EngineCall) -> int:
    """What the engine may read of the prompts without a word. Looks the whole body through."""
    media = _MEDIA_TOKENS * sum(map(plan.body.count, _MEDIA))
    return min(max(call.prompt_estimate, 1), _BATCH_TOKENS) + media


class _Alarm:
    """Ends a call when the engine has taken too long over it, all attempts together."""

    __slots__ = ("_call", "_left_s", "_loop", "_started_s", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, limit_s: float, call: Call) -> None:
        self._loop = loop
        self._left_s = limit_s
        self._call = call
        self._started_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """The engine gets the call."""
        self._started_s = self._loop.time()
        self._timer = self._loop.call_later(self._left_s, self._ring)

    def stop(self) -> None:
        """The engine has it no more."""
        assert self._timer is not None, "stopped before it was started"
        self._timer.cancel()
        self._left_s = max(self._left_s - (self._loop.time() - self._started_s), 0.0)

    def _ring(self) -> None:
        self._call.kill(ApiError("engine_timeout"))


def _the_same(plan: EngineCall) -> EngineCall:
    """Of a reply in one piece the client has nothing before it has all."""
    return plan


def _backpressure(exchange: Exchange, pump: Pump) -> Callable[[bool], None]:
    def on_drain(full: bool) -> None:
        pump.hold(full)
        if full:
            exchange.pause()
        else:
            exchange.resume()

    return on_drain
