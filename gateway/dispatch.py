"""From a planned call to the head of the engine's response: a turn, a last look, the send.

Rules:
- before dispatch everything is looked at once more: nothing is started that nobody waits for;
- a request counts against its key from the moment the engine may have seen it: whoever leaves
  before the engine reports pays for the prompt;
- the slot is abandoned unless the engine's response comes to its end: whoever reads it says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from backend import BackendError, ConnectFailed, EngineClient, EngineTimeout, Exchange
from gateway.accounting import note_wait
from gateway.call import Call
from gateway.dialects import EngineCall
from gateway.dialects.places import Places
from gateway.engine.failures import from_backend, from_reply
from gateway.errors import ApiError
from gateway.queue.admission import Admission, Lease, Wish
from gateway.queue.turns import Signs

__all__ = ["Deadline", "Dispatch", "EngineDoor"]

_log = logging.getLogger(__name__)

_ERROR_LIMIT_BYTES = 1 << 20
_ERROR_TIMEOUT_S = 10.0
_FORCED = Places({"response_format": "tools"})
"""The shape of a call that must come is made of the tools; the client asked for none."""


class EngineDoor(Protocol):
    """The engine as the relay sees it."""

    @property
    def client(self) -> EngineClient | None:
        """The way to the engine that runs; None while none does."""

    @property
    def slots(self) -> int:
        """Slots of the engine; at least 1."""

    @property
    def generation(self) -> int:
        """Counts engine processes; the one that serves, or did last."""

    def note_served(self) -> None:
        """Tell that an answer was complete: its engine is not in a crash loop."""

    def suspect(self) -> None:
        """Tell that a connection broke: let nobody in before it is known that the engine lives."""

    async def fate(self, generation: int) -> str | None:
        """Wait until it is known what became of an engine; returns what it died of, or None."""


class Deadline:
    """What is left of the time that a request may wait.

    Args:
        time: Monotonic seconds.
        limit_s: What the service allows.
        patience_s: What the client said it would wait, if it did.
    """

    __slots__ = ("_limit_s", "_patience_s", "_renewed_s", "_started_s", "_time")

    def __init__(self, time: Callable[[], float], limit_s: float, patience_s: float | None) -> None:
        self._time = time
        self._started_s = self._renewed_s = self._time()
        self._limit_s = limit_s
        self._patience_s = patience_s

    def patience_s(self) -> float | None:
        """Of what the client said it would wait; None when it did not."""
        if self._patience_s is None:
            return None
        return self._left_s(self._patience_s, self._started_s)

    def wait_s(self) -> float:
        """Of that and of what the service allows, whichever is less."""
        patience_s = self.patience_s()
        left_s = self._left_s(self._limit_s, self._renewed_s)
        return left_s if patience_s is None else min(left_s, patience_s)

    def renew(self) -> None:
        """The call starts over through no fault of its own; the client's patience does not."""
        self._renewed_s = self._time()

    def _left_s(self, limit_s: float, since_s: float) -> float:
        return max(limit_s - (self._time() - since_s), 0.0)


class Dispatch:
    """Lets calls in and sends them.

    Args:
        engine: Where they go.
        admission: The door before it.
        still_welcome: Whether the key of a call may still be used.
    """

    def __init__(
        self,
        engine: EngineDoor,
        admission: Admission,
        *,
        still_welcome: Callable[[Call], bool],
    ) -> None:
        self._engine = engine
        self._admission = admission
        self._still_welcome = still_welcome
        self._time = asyncio.get_running_loop().time

    def try_admit(self, call: Call, plan: EngineCall, *, again: bool, alone: bool) -> Lease | None:
        """Let the call in if nobody has to wait, which is the usual case; None: `admit` waits.

        Raises:
            ApiError: The door is closed, or `key_revoked`.
        """
        slots, expected_s = self._need(call, plan, alone=alone)
        lease = self._admission.try_take(slots, expected_s, again=again)
        if lease is not None:
            self._check_in(call, lease)
        return lease

    async def admit(
        self,
        call: Call,
        plan: EngineCall,
        deadline: Deadline,
        *,
        again: bool,
        exempt: bool,
        alone: bool,
    ) -> Lease:
        """Wait for the call's turn.

        Args:
            call: The request.
            plan: What it needs.
            deadline: How long it may wait.
            again: It had a turn and got no answer through no fault of its own: it goes first.
            exempt: It waits anew: the queue's bounds do not apply.
            alone: Nobody else may be in the engine at the same time.

        Raises:
            ApiError: As `Admission.slots`, or `key_revoked`.
        """
        wish = self._wish(call, plan, deadline, alone=alone)
        entered_s = self._time()
        try:
            lease = await self._admission.slots(
                wish, call, again=again, exempt=exempt or call.waited
            )
        except BaseException:
            call.record.queue_s += self._time() - entered_s
            raise
        self._check_in(call, lease)
        return lease

    def _check_in(self, call: Call, lease: Lease) -> None:
        note_wait(call, lease)
        if not self._still_welcome(call):
            lease.release()
            raise ApiError("key_revoked")

    def _need(self, call: Call, plan: EngineCall, *, alone: bool) -> tuple[int, float]:
        """The slots it takes, and the slot-seconds that they will probably be held."""
        slots = self._engine.slots
        expected_s = self._admission.rates.expect_s(
            prompt_tokens=call.prompt_estimate,
            max_tokens=plan.max_tokens or 0,
            tasks=plan.choices,
        )
        return slots if alone else min(plan.tasks, slots), expected_s

    def _wish(self, call: Call, plan: EngineCall, deadline: Deadline, *, alone: bool) -> Wish:
        principal = call.principal
        assert principal is not None, "inference needs a key, or the stand-in for all"
        slots, expected_s = self._need(call, plan, alone=alone)
        return Wish(
            key=principal.key_id,
            slots=slots,
            priority=principal.priority,
            weight=principal.weight,
            expected_s=expected_s,
            max_wait_s=deadline.wait_s(),
            patience_s=deadline.patience_s(),
        )

    async def send(self, call: Call, plan: EngineCall, lease: Lease) -> Exchange:
        """Send the planned call; returns a response with status 200.

        Raises:
            ConnectFailed: It never reached the engine.
            ApiError: Anything else.
        """
        client = self._engine.client
        if client is None:
            self._engine.suspect()
            raise ConnectFailed("no engine runs")
        lease.abandoned = True  # until the engine's answer has come to its end
        lease.at_work = not plan.generates
        if lease.signs is None:
            sent_s = self._time()
            lease.signs = lambda: Signs(sent_s, max(call.prompt_estimate, 1), reports=False)
        try:
            exchange = await client.send(
                "POST", plan.path, plan.body, request_id=call.record.request_id
            )
        except ConnectFailed:
            lease.abandoned = False
            self._engine.suspect()
            raise
        except BackendError as exc:
            _log.debug("request %s: %s", call.record.request_id, exc)
            _note_started(call, 0)
            self._engine.suspect()
            raise from_backend(exc) from exc
        except asyncio.CancelledError:
            _note_started(call, call.prompt_estimate)
            raise
        _note_started(call, call.prompt_estimate)
        lease.at_work = True  # llama-server sends a head when a slot begins
        if exchange.status == 200:
            return exchange
        error = await _refusal(exchange)
        if plan.forced_calls:
            error = _FORCED.told(error)
        _note_started(call, 0)
        lease.abandoned = False
        raise error


def _note_started(call: Call, tokens: int) -> None:
    """The engine may have seen the call: it counts, with so many tokens unless more is known."""
    if call.reservation is not None:
        call.reservation.started(tokens)


async def _refusal(exchange: Exchange) -> ApiError:
    try:
        async with asyncio.timeout(_ERROR_TIMEOUT_S):
            return from_reply(exchange.status, await exchange.read(_ERROR_LIMIT_BYTES))
    except TimeoutError:
        return from_backend(EngineTimeout("the engine's error had no end"))
    except BackendError as exc:
        return from_backend(exc)
