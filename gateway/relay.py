"""One request to the engine and its answer back: admit, send, relay, account.

Rules:
- generation is always streamed from the engine, also for a client that wants one JSON body: only a
  streaming request is given up by llama-server as soon as we hang up;
- a slot is held for as long as the exchange lasts; leaving the block aborts the one and frees the
  other, whatever the reason: the answer, an error, a client who left, a key that was revoked;
- an event stream is complete when the engine sent ``[DONE]``. Anything else is an error, told to
  the client as a status while that is possible and as the dialect's error frame afterwards;
- bytes of events are passed on from the engine's read callback, unchanged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from aiohttp.web_response import Response, StreamResponse

from backend import BackendError, EngineClient, EngineTimeout, Exchange
from gateway.admission import Admission, Lease
from gateway.call import Call
from gateway.dialects.base import Dialect, EngineCall
from gateway.engine_errors import from_backend, from_event, from_reply
from gateway.errors import ApiError
from gateway.sse import EventStream, Outcome
from gateway.stream_reply import StreamReply
from gateway.tasks import Tasks

__all__ = ["EngineDoor", "Relay", "RelaySettings"]

_JSON_LIMIT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """How long things may take, in seconds."""

    heartbeat_after_s: float = 5.0
    heartbeat_interval_s: float = 15.0
    request_timeout_s: float = 600.0
    """Silence of the engine in a stream, or the whole of any other request."""


class EngineDoor(Protocol):
    """The engine as the relay sees it."""

    @property
    def client(self) -> EngineClient | None:
        """The way to the engine that runs; None while none does."""

    @property
    def slots(self) -> int:
        """Slots of the engine; at least 1."""

    def note_served(self) -> None:
        """An answer was complete: the engine that gave it is not in a crash loop."""


class Relay:
    """Carries calls to the engine.

    Args:
        engine: Where they go.
        admission: The door before it.
        settings: Times.
        tasks: Holder of the rare background task (a commit forced by a heartbeat).
        still_welcome: Whether the key of a call may still be used; asked again before dispatch.
    """

    def __init__(
        self,
        engine: EngineDoor,
        admission: Admission,
        settings: RelaySettings,
        tasks: Tasks,
        *,
        still_welcome: Callable[[Call], bool],
    ) -> None:
        self._engine = engine
        self._admission = admission
        self._settings = settings
        self._tasks = tasks
        self._still_welcome = still_welcome

    async def serve(self, call: Call, dialect: Dialect, plan: EngineCall) -> StreamResponse:
        """Answer *call* with what the engine makes of *plan*.

        Raises:
            ApiError: Nothing was sent to the client yet.
            asyncio.CancelledError: The client left.
        """
        if plan.stream:
            return await self._stream(call, dialect, plan)
        body = await self._within_timeout(self._whole(call, dialect, plan))
        self._engine.note_served()
        return Response(body=body, headers=call.headers, content_type="application/json")

    # -- replies in one piece

    async def _within_timeout(self, work: Awaitable[bytes]) -> bytes:
        try:
            async with asyncio.timeout(self._settings.request_timeout_s):
                return await work
        except TimeoutError:
            raise ApiError("engine_timeout") from None

    async def _whole(self, call: Call, dialect: Dialect, plan: EngineCall) -> bytes:
        with await self._admit(call, plan):
            exchange = await self._send(call, plan)
            try:
                if dialect.assembler is None:
                    return await self._pass_on(exchange)
                return await self._assemble(call, dialect, plan, exchange)
            finally:
                exchange.abort()

    async def _pass_on(self, exchange: Exchange) -> bytes:
        try:
            return await exchange.read(_JSON_LIMIT_BYTES)
        except BackendError as exc:
            raise from_backend(exc) from exc

    async def _assemble(
        self, call: Call, dialect: Dialect, plan: EngineCall, exchange: Exchange
    ) -> bytes:
        assert dialect.assembler is not None
        assembler = dialect.assembler(plan)
        pump = _Pump(
            EventStream(choices=plan.choices, prompts=plan.prompts), asyncio.get_running_loop()
        )
        pump.release_to(assembler.feed)
        exchange.attach(pump)
        try:
            error = await pump.over
        finally:
            _account(call, pump)
        if error is not None:
            raise error
        try:
            return assembler.result()
        except ValueError as exc:  # the events do not make a reply
            raise ApiError("engine_error") from exc

    # -- streams

    async def _stream(self, call: Call, dialect: Dialect, plan: EngineCall) -> StreamResponse:
        reply = StreamReply(call.request, call.headers)
        pump = _Pump(
            EventStream(choices=plan.choices, prompts=plan.prompts), asyncio.get_running_loop()
        )
        watch = _StreamWatch(call, reply, pump, self._settings, self._tasks)
        try:
            await self._carry(call, plan, reply, pump, watch)
            return await reply.finish()
        except ApiError as exc:
            error = exc
        except asyncio.CancelledError:
            killed = call.why_cancelled()
            if killed is None:
                raise
            error = killed
        finally:
            watch.stop()
            call.record.bytes_out = reply.bytes_out
        if not reply.committed:
            raise error
        # -- committed: from here on a failure can only be told inside the stream
        call.record.error_code = error.code
        return await reply.fail(dialect.error_frame(error))

    async def _carry(
        self, call: Call, plan: EngineCall, reply: StreamReply, pump: _Pump, watch: _StreamWatch
    ) -> None:
        with await self._admit(call, plan):
            watch.dispatched()
            exchange = await self._send(call, plan)
            try:
                exchange.attach(pump)
                await pump.begun
                if pump.kept:
                    # -- the commit point: the first event is here, the status goes out
                    await reply.commit(_backpressure(exchange))
                    call.record.ttft_s = watch.since_start()
                    pump.release_to(reply.write)
                error = await pump.over
                if error is not None:
                    raise error
                self._engine.note_served()
                await reply.commit()
            finally:
                exchange.abort()
                _account(call, pump)

    # -- both

    async def _admit(self, call: Call, plan: EngineCall) -> Lease:
        wanted = min(plan.tasks, self._engine.slots)
        lease = await self._admission.slots(wanted)
        call.record.queue_s = lease.waited_s
        call.headers["Server-Timing"] = f"queue;dur={lease.waited_s * 1000:.1f}"
        if not self._still_welcome(call):
            lease.release()
            raise ApiError("key_revoked")
        return lease

    async def _send(self, call: Call, plan: EngineCall) -> Exchange:
        client = self._engine.client
        if client is None:
            raise ApiError("engine_unavailable", retry_after_s=2.0)
        try:
            exchange = await client.send(
                "POST", plan.path, plan.body, request_id=call.record.request_id
            )
        except BackendError as exc:
            raise from_backend(exc) from exc
        if exchange.status == 200:
            return exchange
        raise await _refusal(exchange)


async def _refusal(exchange: Exchange) -> ApiError:
    try:
        async with asyncio.timeout(10.0):
            return from_reply(exchange.status, await exchange.read(1 << 20))
    except TimeoutError:
        return from_backend(EngineTimeout("the engine's error had no end"))
    except BackendError as exc:
        return from_backend(exc)


def _backpressure(exchange: Exchange) -> Callable[[bool], None]:
    def on_drain(full: bool) -> None:
        if full:
            exchange.pause()
        else:
            exchange.resume()

    return on_drain


def _account(call: Call, pump: _Pump) -> None:
    """Write what the engine reported, or what was seen before it broke off, into the record."""
    outcome = pump.events.outcome()
    record = call.record
    record.finish_reason = outcome.finish_reason
    record.prompt_tokens = outcome.prompt_tokens or 0
    record.cached_tokens = outcome.cached_tokens or 0
    record.completion_tokens = (
        pump.events.events if outcome.completion_tokens is None else outcome.completion_tokens
    )
    call.headers["Server-Timing"] = _server_timing(record.queue_s, outcome)


def _server_timing(queue_s: float, outcome: Outcome) -> str:
    parts = [f"queue;dur={queue_s * 1000:.1f}"]
    for name, value_ms in (("prefill", outcome.prompt_ms), ("decode", outcome.predicted_ms)):
        if value_ms is not None:
            parts.append(f"{name};dur={value_ms:.1f}")
    return ", ".join(parts)


class _Pump:
    """Takes the engine's bytes and passes whole events on, once somebody is there to take them."""

    def __init__(self, events: EventStream, loop: asyncio.AbstractEventLoop) -> None:
        self.events = events
        self.begun: asyncio.Future[None] = loop.create_future()
        """Done with the first event, or when there will be none."""
        self.over: asyncio.Future[ApiError | None] = loop.create_future()
        self.kept: list[bytes] = []
        self.heard_s = loop.time()
        self._time = loop.time
        self._out: Callable[[bytes], None] | None = None

    def release_to(self, out: Callable[[bytes], None]) -> None:
        """Hand what was kept, and all that follows, to *out*."""
        self._out = out
        kept, self.kept = self.kept, []
        for events in kept:
            out(events)

    def data(self, chunk: bytes) -> None:
        self.heard_s = self._time()
        events = self.events.feed(chunk)
        if events:
            if self._out is not None:
                self._pass_on(events)
            else:
                self.kept.append(events)
                if not self.begun.done():
                    self.begun.set_result(None)
        if self.events.error is not None:
            self._end(from_event(self.events.error))

    def _pass_on(self, events: bytes) -> None:
        assert self._out is not None
        try:
            self._out(events)
        except ValueError:  # an event that cannot be assembled
            self._end(ApiError("engine_error"))

    def end(self) -> None:
        self._end(None if self.events.done else ApiError("engine_crashed"))

    def lost(self, error: BackendError) -> None:
        self._end(None if self.events.done else from_backend(error))

    def _end(self, error: ApiError | None) -> None:
        if not self.over.done():
            self.over.set_result(error)
        if not self.begun.done():
            self.begun.set_result(None)


class _StreamWatch:
    """One timer for each stream: heartbeats for the client, patience with the engine."""

    def __init__(
        self, call: Call, reply: StreamReply, pump: _Pump, settings: RelaySettings, tasks: Tasks
    ) -> None:
        self._call = call
        self._reply = reply
        self._pump = pump
        self._settings = settings
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._started_s = self._beat_s = self._loop.time()
        self._dispatched = False
        self._timer: asyncio.TimerHandle | None = None
        self._schedule()

    def since_start(self) -> float:
        """Seconds since the call came to the relay."""
        return self._loop.time() - self._started_s

    def dispatched(self) -> None:
        """From here on the engine's silence counts."""
        self._dispatched = True
        self._pump.heard_s = self._loop.time()
        # The tick that is due may come later than the engine's patience ends.
        self.stop()
        self._schedule()

    def stop(self) -> None:
        """No heartbeat and no verdict after this."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _quiet_since_s(self) -> float:
        return max(self._beat_s, self._pump.heard_s if self._pump.events.events else 0.0)

    def _schedule(self) -> None:
        settings = self._settings
        first = not self._reply.committed
        pause_s = settings.heartbeat_after_s if first else settings.heartbeat_interval_s
        due_s = self._quiet_since_s() + pause_s
        if self._dispatched:
            due_s = min(due_s, self._pump.heard_s + settings.request_timeout_s)
        # Never in the past: a due moment that is now would otherwise spin.
        self._timer = self._loop.call_at(max(due_s, self._loop.time() + 0.01), self._tick)

    def _tick(self) -> None:
        now = self._loop.time()
        settings = self._settings
        if self._dispatched and now - self._pump.heard_s >= settings.request_timeout_s:
            self._call.kill(ApiError("engine_timeout"))
            return
        if not self._reply.committed:
            if now - self._beat_s >= settings.heartbeat_after_s:
                self._beat_s = now
                self._tasks.spawn(self._commit_early(), "commit-for-heartbeat")
        elif now - self._quiet_since_s() >= settings.heartbeat_interval_s:
            self._beat_s = now
            if not self._pump.events.mid_event:
                self._reply.heartbeat()
        self._schedule()

    async def _commit_early(self) -> None:
        # A client that left in this moment ends its own task; there is nothing to do about it here.
        with suppress(ConnectionError):
            await self._reply.commit()
            self._reply.heartbeat()
