"""One planned call, until an engine has answered it.

When an attempt fails, in this order:
1. the call never reached the engine: back to the head of the queue, a few times;
2. the client has a part of the answer: it is told `engine_restarted`, unless the answer can be
   continued; what was sent is never sent again;
3. else nothing is decided before it is known what became of the engine;
4. the engine died of what a request can cause, for the second time, with nobody else inside: it
   is convicted (see `gateway.suspicion.suspects`);
5. it has been replayed before: `engine_crashed`;
6. else it is sent once more, from the head of the queue, and alone if it is a suspect.

No slot is held while it waits for any of this.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TypeVar
from weakref import WeakKeyDictionary

from backend import ConnectFailed
from gateway.call import Call
from gateway.dialects import EngineCall
from gateway.dispatch import Deadline, Dispatch, EngineDoor
from gateway.engine.failures import EngineLost, from_backend
from gateway.errors import ApiError
from gateway.queue.admission import Lease
from gateway.suspicion.caution import Caution
from gateway.suspicion.inquest import Inside, Verdict
from gateway.suspicion.refusal import refuse_known_killers
from gateway.suspicion.suspects import digest_of
from gateway.tasks import Tasks

__all__ = ["Attempt", "Replay", "Revive"]

_log = logging.getLogger(__name__)

_MOST_TRIES = 5
"""To reach the engine at all."""
_REPLAYS = 1

_TELL_S = 1.0

T = TypeVar("T")

Attempt = Callable[[EngineCall, Lease], Awaitable[T]]
"""Sends the call and sees it to its end.

Raises:
    ConnectFailed: It never reached the engine.
    EngineLost: The engine was lost under it.
"""
Revive = Callable[[EngineCall], EngineCall | None]
"""What to send after the engine was lost: the same while the client has nothing of the answer,
what continues it, or None when neither will do."""


class Replay:
    """Runs calls.

    Args:
        engine: Where they go.
        dispatch: Lets them in.
        caution: What is done about requests that may have killed an engine.
        tasks: Holder of inquiries that outlive their call.
        on_replay: Told for each call that is sent once more.
    """

    def __init__(
        self,
        engine: EngineDoor,
        dispatch: Dispatch,
        caution: Caution,
        tasks: Tasks,
        *,
        on_replay: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._dispatch = dispatch
        self._suspects = caution.suspects
        self._inquest = caution.inquest
        self._solitude = caution.solitude
        self._tasks = tasks
        self._left: WeakKeyDictionary[Lease, Inside] = WeakKeyDictionary()
        self._on_replay = on_replay

    async def run(
        self,
        call: Call,
        plan: EngineCall,
        deadline: Deadline,
        attempt: Attempt[T],
        revive: Revive,
    ) -> T:
        """Answer *call*.

        Args:
            call: The request.
            plan: What the engine is to get.
            deadline: How long it may wait, all turns together.
            attempt: Carries out one attempt.
            revive: Asked for the next one's plan when the engine was lost.

        Raises:
            ApiError: The last failure.
        """
        case = _Case(plan)
        while True:
            try:
                return await self._once(call, plan, deadline, attempt, case)
            except ConnectFailed as exc:
                case.tries += 1
                if case.tries >= _MOST_TRIES:
                    raise from_backend(exc) from exc
            except _AccusedMeanwhile:
                case.exempt = True
            except _ClearedMeanwhile:
                case.tries = max(case.tries, 1)
            except EngineLost as lost:
                plan = await self._after_loss(call, plan, deadline, revive, case, lost)

    async def _once(
        self, call: Call, plan: EngineCall, deadline: Deadline, attempt: Attempt[T], case: _Case
    ) -> T:
        case.alone = False
        alone = self._suspects.known and self._look_up(call, case)
        dispatch, again = self._dispatch, bool(case.tries or case.replays)
        lease = dispatch.try_admit(call, plan, again=again, alone=alone)
        if lease is None:
            lease = await dispatch.admit(
                call, plan, deadline, again=again, exempt=case.exempt, alone=alone
            )
        try:
            if not plan.tasks:  # it takes no slot, so nothing else keeps it out
                await self._nobody_alone(deadline)
            # One like it may have killed the engine while it waited, or have been answered.
            if (self._suspects.known and self._look_up(call, case)) is not alone:
                raise _ClearedMeanwhile if alone else _AccusedMeanwhile
            if plan.tasks and not alone:
                case.generation = self._engine.generation
                return await attempt(plan, lease)
            async with self._presence(alone) as really_alone:
                case.generation, case.alone = self._engine.generation, really_alone
                answer = await attempt(plan, lease)
                if really_alone:
                    self._suspects.clear(case.digest, _key_of(call))
                return answer
        except EngineLost:
            raise
        except (ApiError, asyncio.CancelledError):
            self._note_end(call, lease, case)
            raise
        finally:
            lease.release()

    def _note_end(self, call: Call, lease: Lease, case: _Case) -> None:
        """Remember what follows from an attempt that ended without an answer."""
        if lease.abandoned:  # the engine may still be at work on it, and die of it
            self._left[lease] = case.inside(call)
        elif case.alone:
            self._suspects.clear(case.digest, _key_of(call))

    @asynccontextmanager
    async def _presence(self, alone: bool) -> AsyncIterator[bool]:
        """A call alone, or one without a slot, is in the engine; gives whether nobody else is."""
        if alone:
            async with self._solitude.alone() as really:
                yield really
        else:
            with self._solitude.beside():
                yield False

    async def _nobody_alone(self, deadline: Deadline) -> None:
        try:
            async with asyncio.timeout(deadline.wait_s()):
                await self._solitude.over()
        except TimeoutError:
            raise ApiError("queue_timeout", retry_after_s=1.0) from None

    def _look_up(self, call: Call, case: _Case) -> bool:
        """Whether it must be alone.

        Raises:
            ApiError: `key_suspended` or `request_quarantined`.
        """
        now, key = asyncio.get_running_loop().time(), _key_of(call)
        self._suspects.forget_old(now)
        refuse_known_killers(self._suspects, key, case.digest, now)
        return self._suspects.must_be_alone(case.digest, key, now)

    async def _after_loss(
        self,
        call: Call,
        plan: EngineCall,
        deadline: Deadline,
        revive: Revive,
        case: _Case,
        lost: EngineLost,
    ) -> EngineCall:
        """What to send now that the engine was lost under *plan*.

        Raises:
            ApiError: Nothing.
        """
        _log.warning("request %s lost its engine", call.record.request_id)
        judging = self._tasks.spawn(self._inquest.hold(case.inside(call)), "inquest")
        revived = revive(plan)
        if revived is None:
            raise await _told_apart(judging) from lost
        deadline.renew()
        done, _ = await asyncio.wait((judging,), timeout=deadline.wait_s())
        if done and judging.result().guilty:
            raise ApiError("engine_crashed", retryable=False) from lost
        if not done or case.replays >= _REPLAYS:
            raise lost
        case.replays += 1
        call.record.replays += 1
        self._on_replay()
        _log.info("request %s is sent once more", call.record.request_id)
        return revived

    def judge_left(self, generation: int, cause: str, leases: Iterable[Lease]) -> None:
        """The engine died while it was still at work for those who had left."""
        for lease in leases:
            inside = self._left.pop(lease, None)
            if inside is not None and inside.generation == generation:
                self._inquest.judge(inside, cause)


def _key_of(call: Call) -> str:
    assert call.principal is not None, "inference needs a key, or the stand-in for all"
    return call.principal.key_id


class _Case:
    """What has happened to one call so far."""

    _digest: bytes | None = None
    tries = 0
    """Turns that did not lead to the engine."""
    replays = 0
    exempt = False
    """It waits anew; the queue's bounds do not apply."""
    generation = -1
    """The engine that has it, or had it last."""
    alone = False
    """Nobody else was in that engine."""

    def __init__(self, plan: EngineCall) -> None:
        self._plan = plan

    @property
    def digest(self) -> bytes:
        """What it is known by; made only when somebody is suspected."""
        if self._digest is None:
            self._digest = digest_of(self._plan.path, self._plan.body)
        return self._digest

    def inside(self, call: Call) -> Inside:
        """It, as somebody who is in the engine."""
        return Inside(
            self.digest, _key_of(call), self.generation, self.alone, call.record.request_id
        )


class _AccusedMeanwhile(Exception):  # noqa: N818 - what happened while it waited
    """It had a turn among others and must have one alone."""


class _ClearedMeanwhile(Exception):  # noqa: N818 - what happened while it waited
    """It had a turn alone and needs no such any more."""


async def _told_apart(judging: asyncio.Task[Verdict]) -> ApiError:
    """What somebody is told who has a part of the answer; that can wait for a moment only."""
    done, _ = await asyncio.wait((judging,), timeout=_TELL_S)
    lives = bool(done) and judging.result().lives
    return ApiError("engine_crashed" if lives else "engine_restarted", retry_after_s=1.0)
