"""One request to the engine and its answer back: admit, send, relay, account.

Rules:
- generation is always streamed from the engine, also for a client that wants one JSON body: only a
  streaming request is given up by llama-server as soon as we hang up;
- a slot is held for as long as the exchange lasts; leaving the block aborts the one and frees the
  other, whatever the reason: the answer, an error, a client who left, a key that was revoked;
- an event stream is complete when the engine sent ``[DONE]``. Anything else is an error, told to
  the client as a status while that is possible and as the dialect's error frame afterwards;
- bytes of events are passed on from the engine's read callback, unchanged;
- a request that never reached the engine goes back to the head of the queue.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from aiohttp.web_response import Response, StreamResponse

from backend import BackendError, ConnectFailed, EngineClient, EngineTimeout, Exchange
from gateway.admission import Admission, Lease
from gateway.call import Call
from gateway.dialects import Dialect, EngineCall
from gateway.engine_errors import from_backend, from_reply
from gateway.errors import ApiError
from gateway.stream.pump import Pump
from gateway.stream.reply import StreamReply
from gateway.stream.sse import EventStream, Outcome
from gateway.stream.watch import StreamWatch
from gateway.tasks import Tasks

__all__ = ["EngineDoor", "Planner", "Relay", "RelaySettings"]

_log = logging.getLogger(__name__)

_JSON_LIMIT_BYTES = 64 << 20
_ERROR_LIMIT_BYTES = 1 << 20
_ERROR_TIMEOUT_S = 10.0
_MOST_TRIES = 5

Planner = Callable[[float], Awaitable[EngineCall]]
"""Makes the engine call; may wait so many seconds for an engine to plan for."""


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """How long things may take, in seconds."""

    heartbeat_after_s: float = 5.0
    heartbeat_interval_s: float = 15.0
    request_timeout_s: float = 600.0
    """Silence of the engine in a stream, or its whole time for any other request."""
    queue_wait_s: float = 300.0
    """All waiting for the engine and for a slot together."""


class EngineDoor(Protocol):
    """The engine as the relay sees it."""

    @property
    def client(self) -> EngineClient | None:
        """The way to the engine that runs; None while none does."""

    @property
    def slots(self) -> int:
        """Slots of the engine; at least 1."""

    @property
    def note_served(self) -> Callable[[], None]:
        """Tells that an answer was complete: its engine is not in a crash loop."""

    def suspect(self) -> None:
        """Tell that a connection broke: let nobody in before it is known that the engine lives."""


class _Patience:
    """What is left of the time that a request may wait."""

    def __init__(self, limit_s: float) -> None:
        self._time = asyncio.get_running_loop().time
        self._until_s = self._time() + limit_s

    def left_s(self) -> float:
        return max(self._until_s - self._time(), 0.0)


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

    async def serve(
        self, call: Call, dialect: Dialect, planner: Planner, *, streamed: bool
    ) -> StreamResponse:
        """Answer *call* with what the engine makes of the planned call.

        Args:
            call: The request.
            dialect: How it is spoken.
            planner: Makes the engine call, once the model is known.
            streamed: Whether the client asked for events, as far as its body tells.

        Raises:
            ApiError: Nothing was sent to the client yet.
            asyncio.CancelledError: The client left.
        """
        if streamed:
            return await self._stream(call, dialect, planner)
        body = await self._whole(call, dialect, planner)
        self._engine.note_served()
        return Response(body=body, headers=call.headers, content_type="application/json")

    # -- replies in one piece

    async def _whole(self, call: Call, dialect: Dialect, planner: Planner) -> bytes:
        patience = _Patience(self._settings.queue_wait_s)
        plan = await planner(patience.left_s())
        for tries_left in reversed(range(_MOST_TRIES)):
            with await self._admit(call, plan, patience, again=tries_left < _MOST_TRIES - 1):
                try:
                    return await self._ask(call, dialect, plan)
                except ConnectFailed as exc:
                    if not tries_left:
                        raise from_backend(exc) from exc
        raise AssertionError("the last try returns or raises")

    async def _ask(self, call: Call, dialect: Dialect, plan: EngineCall) -> bytes:
        try:
            async with asyncio.timeout(self._settings.request_timeout_s):
                exchange = await self._send(call, plan)
                try:
                    if dialect.assembler is None:
                        return await self._pass_on(exchange)
                    return await self._assemble(call, dialect, plan, exchange)
                finally:
                    exchange.abort()
        except TimeoutError:
            raise ApiError("engine_timeout") from None

    async def _pass_on(self, exchange: Exchange) -> bytes:
        try:
            return await exchange.read(_JSON_LIMIT_BYTES)
        except BackendError as exc:
            self._engine.suspect()
            raise from_backend(exc) from exc

    async def _assemble(
        self, call: Call, dialect: Dialect, plan: EngineCall, exchange: Exchange
    ) -> bytes:
        assert dialect.assembler is not None
        assembler = dialect.assembler(plan)
        pump = self._pump(plan)
        pump.release_to(assembler.feed)
        exchange.attach(pump)
        try:
            error = await pump.over
        finally:
            pump.stop()
            _account(call, pump)
        if error is not None:
            raise error
        try:
            return assembler.result()
        except ValueError as exc:  # the events do not make a reply
            raise ApiError("engine_error") from exc

    # -- streams

    async def _stream(self, call: Call, dialect: Dialect, planner: Planner) -> StreamResponse:
        reply = StreamReply(call.request, call.headers)
        watch = StreamWatch(
            call,
            reply,
            self._tasks,
            heartbeat_after_s=self._settings.heartbeat_after_s,
            heartbeat_interval_s=self._settings.heartbeat_interval_s,
            silence_limit_s=self._settings.request_timeout_s,
        )
        try:
            await self._carry(call, planner, reply, watch)
            return await reply.finish()
        except ApiError as exc:
            error = exc
        except asyncio.CancelledError:
            killed = call.why_cancelled()
            if killed is None:
                raise
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
            raise error
        # -- committed: from here on a failure can only be told inside the stream
        call.record.error_code = error.code
        return await reply.fail(dialect.error_frame(error))

    async def _carry(
        self, call: Call, planner: Planner, reply: StreamReply, watch: StreamWatch
    ) -> None:
        patience = _Patience(self._settings.queue_wait_s)
        plan = await planner(patience.left_s())
        for tries_left in reversed(range(_MOST_TRIES)):
            with await self._admit(call, plan, patience, again=tries_left < _MOST_TRIES - 1):
                try:
                    await self._relay(call, plan, reply, watch)
                except ConnectFailed as exc:
                    if not tries_left:
                        raise from_backend(exc) from exc
                else:
                    return

    async def _relay(
        self, call: Call, plan: EngineCall, reply: StreamReply, watch: StreamWatch
    ) -> None:
        pump = self._pump(plan)
        watch.dispatched(pump)
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
            pump.stop()
            reply.mid_event = pump.events.mid_event
            _account(call, pump)

    # -- both

    def _pump(self, plan: EngineCall) -> Pump:
        events = EventStream(choices=plan.choices, prompts=plan.prompts)
        return Pump(events, on_lost=self._engine.suspect)

    async def _admit(
        self, call: Call, plan: EngineCall, patience: _Patience, *, again: bool
    ) -> Lease:
        wanted = min(plan.tasks, self._engine.slots)
        lease = await self._admission.slots(wanted, max_wait_s=patience.left_s(), first=again)
        call.record.queue_s += lease.waited_s
        call.headers["Server-Timing"] = f"queue;dur={call.record.queue_s * 1000:.1f}"
        if not self._still_welcome(call):
            lease.release()
            raise ApiError("key_revoked")
        return lease

    async def _send(self, call: Call, plan: EngineCall) -> Exchange:
        """Send the planned call; returns a response with status 200.

        Raises:
            ConnectFailed: It never reached the engine.
            ApiError: Anything else.
        """
        client = self._engine.client
        if client is None:
            self._engine.suspect()
            raise ConnectFailed("no engine runs")
        try:
            exchange = await client.send(
                "POST", plan.path, plan.body, request_id=call.record.request_id
            )
        except ConnectFailed:
            self._engine.suspect()
            raise
        except BackendError as exc:
            _log.warning("request %s lost its engine: %s", call.record.request_id, exc)
            self._engine.suspect()
            raise from_backend(exc) from exc
        if exchange.status == 200:
            return exchange
        raise await _refusal(exchange)


async def _refusal(exchange: Exchange) -> ApiError:
    try:
        async with asyncio.timeout(_ERROR_TIMEOUT_S):
            return from_reply(exchange.status, await exchange.read(_ERROR_LIMIT_BYTES))
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


def _account(call: Call, pump: Pump) -> None:
    """Write what the engine reported, or what was seen before it broke off, into the record."""
    outcome = pump.outcome()
    record = call.record
    record.finish_reason = outcome.finish_reason
    record.prompt_tokens = outcome.prompt_tokens or pump.events.prompt_tokens or 0
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
