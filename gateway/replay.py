"""One planned call, until an engine has answered it.

When an attempt fails, in this order:
1. the call never reached the engine: back to the head of the queue, a few times;
2. the client has a part of the answer: it is told `engine_restarted`, unless the answer can be
   continued; what was sent is never sent again;
3. else nothing is decided before it is known what became of the engine;
4. it was alone in there, and the engine died of what a request can cause: it is convicted;
5. it has been replayed before: `engine_crashed`;
6. else it is sent once more, from the head of the queue, and alone if it is a suspect.

No slot is held while it waits for any of this.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from backend import ConnectFailed
from gateway.call import Call
from gateway.dialects import EngineCall
from gateway.dispatch import Deadline, Dispatch, EngineDoor
from gateway.engine.failures import EngineLost, from_backend
from gateway.engine.suspects import ACCUSING_CAUSES, Suspects, digest_of
from gateway.errors import ApiError
from gateway.queue.admission import Lease
from gateway.tasks import Tasks

__all__ = ["Attempt", "Replay", "Revive", "refuse_quarantined"]

_log = logging.getLogger(__name__)

_MOST_TRIES = 5
"""To reach the engine at all."""
_REPLAYS = 1
_VERDICT_S = 30.0
"""A connection that broke and an engine of which nothing is known after this long."""

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


def refuse_quarantined(suspects: Suspects, digest: bytes, now: float) -> None:
    """
    Refuse what has stopped the engine twice.

    Raises:
        ApiError: `request_quarantined`.
    """
    left_s = suspects.quarantined_s(digest, now)
    if left_s:
        raise ApiError("request_quarantined", retry_after_s=left_s)


class Replay:
    """Runs calls.

    Args:
        engine: Where they go.
        dispatch: Lets them in.
        suspects: Who may have killed the engine.
        tasks: Holder of inquiries that outlive their call.
        on_replay: Told for each call that is sent once more.
    """

    def __init__(
        self,
        engine: EngineDoor,
        dispatch: Dispatch,
        suspects: Suspects,
        tasks: Tasks,
        *,
        on_replay: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._dispatch = dispatch
        self._suspects = suspects
        self._tasks = tasks
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
                case.tries = max(case.tries, 1)
            except EngineLost as lost:
                plan = await self._after_loss(call, plan, revive, case, lost)
                deadline.renew()

    async def _once(
        self, call: Call, plan: EngineCall, deadline: Deadline, attempt: Attempt[T], case: _Case
    ) -> T:
        alone = self._must_be_alone(call, case)
        turn = self._dispatch.admit(call, plan, deadline, again=case.again, alone=alone)
        with await turn as lease:
            # One like it may have killed the engine while it waited.
            if self._must_be_alone(call, case) and not alone:
                raise _AccusedMeanwhile
            case.generation, case.alone = self._engine.generation, alone
            answer = await attempt(plan, lease)
        if alone:
            self._suspects.clear(case.digest, _key_of(call))
        return answer

    def _must_be_alone(self, call: Call, case: _Case) -> bool:
        """Whether it is a suspect.

        Raises:
            ApiError: `request_quarantined`.
        """
        if not self._suspects:
            return False
        now = asyncio.get_running_loop().time()
        refuse_quarantined(self._suspects, case.digest, now)
        return self._suspects.must_be_alone(case.digest, _key_of(call), now)

    async def _after_loss(
        self, call: Call, plan: EngineCall, revive: Revive, case: _Case, lost: EngineLost
    ) -> EngineCall:
        """What to send now that the engine was lost under *plan*.

        Raises:
            ApiError: Nothing.
        """
        judging = self._tasks.spawn(self._judge(call, case), "verdict")
        revived = revive(plan)
        if revived is None:
            raise await _told_apart(judging) from lost
        verdict = await asyncio.shield(judging)
        if verdict.guilty:
            raise ApiError("engine_crashed", retryable=False) from lost
        if case.replays >= _REPLAYS:
            raise lost
        case.replays += 1
        call.record.replays += 1
        self._on_replay()
        _log.info("request %s is sent once more", call.record.request_id)
        return revived

    async def _judge(self, call: Call, case: _Case) -> _Verdict:
        """Find out what became of the engine, and whether this call is to blame for it."""
        digest, alone = case.digest, case.alone
        try:
            async with asyncio.timeout(_VERDICT_S):
                cause = await self._engine.fate(case.generation)
        except TimeoutError:
            return _Verdict(lives=False)
        if cause not in ACCUSING_CAUSES:
            return _Verdict(lives=cause is None)
        now = asyncio.get_running_loop().time()
        key_id = _key_of(call)
        if not alone:
            self._suspects.accuse(digest, key_id, case.generation, now)
            return _Verdict(lives=False)
        suspended = self._suspects.convict(digest, key_id, now)
        _log.error(
            "request %s of key %s has stopped the engine twice (%s); it is refused from now on%s",
            call.record.request_id,
            key_id,
            cause,
            ", and its key for some minutes" if suspended else "",
        )
        return _Verdict(lives=False, guilty=True)


def _key_of(call: Call) -> str:
    assert call.principal is not None, "inference needs a key, or the stand-in for all"
    return call.principal.key_id


class _Case:
    """What has happened to one call so far."""

    def __init__(self, plan: EngineCall) -> None:
        self._plan = plan
        self._digest: bytes | None = None
        self.tries = 0
        """Turns that did not lead to the engine."""
        self.replays = 0
        self.generation = -1
        """The engine that has it, or had it last."""
        self.alone = False
        """Nobody else was in that engine."""

    @property
    def again(self) -> bool:
        """Whether it had a turn before."""
        return bool(self.tries or self.replays)

    @property
    def digest(self) -> bytes:
        """What it is known by; made only when somebody is suspected."""
        if self._digest is None:
            self._digest = digest_of(self._plan.path, self._plan.body)
        return self._digest


class _AccusedMeanwhile(Exception):  # noqa: N818 - what happened while it waited
    """It had a turn among others and must have one alone."""


@dataclass(frozen=True, slots=True)
class _Verdict:
    lives: bool
    """The engine let go of this one request and goes on."""
    guilty: bool = False


async def _told_apart(judging: asyncio.Task[_Verdict]) -> ApiError:
    """What somebody is told who has a part of the answer; that can wait for a moment only."""
    done, _ = await asyncio.wait((judging,), timeout=_TELL_S)
    lives = bool(done) and judging.result().lives
    return ApiError("engine_crashed" if lives else "engine_restarted", retry_after_s=1.0)
