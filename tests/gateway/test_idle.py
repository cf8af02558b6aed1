"""When the service counts as idle, and how often something is done about it.

The loop jumps from one thing that is due to the next, so hours take no time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gateway.activity import Activity
from gateway.idle import IdleKeeper
from tests.gateway.test_admission_chaos import JumpingLoop, pause

TIMEOUT_S = 60.0
HOUR_S = 3600.0


def play(scene: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(scene)


class Watched:
    """A keeper at work, and when it acted.

    Args:
        outcomes: Of the first actions; later ones succeed.
        unloads: Whether a successful action ends the engine.
    """

    def __init__(self, *outcomes: bool, unloads: bool = True) -> None:
        self._time = asyncio.get_running_loop().time
        self._outcomes = list(outcomes)
        self._unloads = unloads
        self.activity = Activity(self._time)
        self.serving = True
        self.acted_s: list[float] = []
        self._keeper = IdleKeeper(
            TIMEOUT_S, self.activity, serving=lambda: self.serving, act=self._act, name="unload"
        )

    async def __aenter__(self) -> Watched:
        self._task = asyncio.ensure_future(self._keeper.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait((self._task,))
        assert self._task.cancelled()

    async def _act(self) -> bool:
        self.acted_s.append(self._time())
        done = self._outcomes.pop(0) if self._outcomes else True
        self.serving = self.serving and not (done and self._unloads)
        return done

    def wake(self) -> None:
        self.serving = True
        self.activity.touch()

    async def request(self, seconds: float) -> None:
        with working(self.activity):
            await pause(seconds)


@contextmanager
def working(activity: Activity) -> Iterator[None]:
    activity.begin()
    try:
        yield
    finally:
        activity.end()


# -- the clock


def test_idle_time_runs_from_the_end_of_the_last_reply() -> None:
    now = [100.0]
    activity = Activity(lambda: now[0])
    now[0] = 105
    assert (activity.idle_s, activity.busy) == (5, False)
    with working(activity):
        with working(activity):
            now[0] = 110
        now[0] = 120
        assert (activity.idle_s, activity.busy) == (0, True)
    now[0] = 123
    assert (activity.idle_s, activity.busy) == (3, False)
    activity.touch()
    assert activity.idle_s == 0


def test_request_that_fails_ends_like_any_other() -> None:
    activity = Activity(lambda: 0.0)
    with pytest.raises(ValueError, match="no"), working(activity):
        raise ValueError("no")
    assert not activity.busy


def test_request_that_is_refused_moves_nothing_but_is_waited_for() -> None:
    now = [100.0]
    activity = Activity(lambda: now[0])
    now[0] = 160
    before = activity.changes
    activity.consider()
    assert activity.idle_s == 0
    activity.considered()
    assert (activity.idle_s, activity.busy, activity.changes) == (60, False, before)


def test_each_request_and_each_start_is_a_change() -> None:
    activity = Activity(lambda: 0.0)
    seen = [activity.changes]
    with working(activity):
        seen.append(activity.changes)
    activity.touch()
    seen.append(activity.changes)
    assert len(set(seen)) == 3


# -- the action


def test_service_that_nobody_ever_used_is_unloaded_after_the_timeout_and_once() -> None:
    async def scene() -> None:
        async with Watched() as watched:
            await pause(HOUR_S)
            assert watched.acted_s == [TIMEOUT_S]

    play(scene())


def test_timeout_counts_from_the_end_of_the_last_request() -> None:
    async def scene() -> None:
        async with Watched() as watched:
            await pause(TIMEOUT_S - 1)
            await watched.request(7)
            await pause(TIMEOUT_S - 1)
            await watched.request(0.5)
            ended_s = asyncio.get_running_loop().time()
            await pause(HOUR_S)
            assert watched.acted_s == [pytest.approx(ended_s + TIMEOUT_S)]

    play(scene())


def test_nothing_is_done_while_somebody_is_served_however_long() -> None:
    async def scene() -> None:
        async with Watched() as watched:
            await watched.request(HOUR_S)
            assert watched.acted_s == []
            await pause(HOUR_S)
            assert watched.acted_s == [pytest.approx(HOUR_S + TIMEOUT_S)]

    play(scene())


def test_engine_that_is_not_there_is_not_unloaded() -> None:
    async def scene() -> None:
        async with Watched() as watched:
            watched.serving = False
            await pause(HOUR_S)
            assert watched.acted_s == []
            watched.wake()
            await pause(HOUR_S)
            assert watched.acted_s == [pytest.approx(HOUR_S + TIMEOUT_S)]

    play(scene())


def test_after_each_wake_it_is_done_again() -> None:
    async def scene() -> None:
        async with Watched() as watched:
            woken_s = []
            for _ in range(3):
                await pause(HOUR_S)
                watched.wake()
                await watched.request(3)
                woken_s.append(asyncio.get_running_loop().time())
            await pause(HOUR_S)
            expected = [0.0, *woken_s]
            assert watched.acted_s == [pytest.approx(at_s + TIMEOUT_S) for at_s in expected]

    play(scene())


def test_failed_action_is_tried_again_later_but_not_at_once() -> None:
    async def scene() -> None:
        async with Watched(False, False) as watched:
            await pause(HOUR_S)
            first, second, third = watched.acted_s
            assert first == TIMEOUT_S
            assert 10 <= second - first <= TIMEOUT_S
            assert 10 <= third - second <= TIMEOUT_S

    play(scene())


def test_request_after_a_failed_action_puts_the_next_try_off() -> None:
    async def scene() -> None:
        async with Watched(False) as watched:
            await pause(TIMEOUT_S + 1)
            await watched.request(1)
            await pause(HOUR_S)
            assert watched.acted_s == [TIMEOUT_S, pytest.approx(2 * TIMEOUT_S + 2)]

    play(scene())


def test_machine_that_was_asked_to_stop_is_not_asked_again_before_it_worked() -> None:
    """It goes on serving until the platform ends it."""

    async def scene() -> None:
        async with Watched(unloads=False) as watched:
            await pause(5 * TIMEOUT_S)
            assert watched.acted_s == [TIMEOUT_S]
            await watched.request(1)
            await pause(5 * TIMEOUT_S)
            assert watched.acted_s == [TIMEOUT_S, pytest.approx(6 * TIMEOUT_S + 1)]

    play(scene())


def test_machine_that_was_asked_to_stop_and_runs_on_is_asked_again_after_minutes() -> None:
    async def scene() -> None:
        async with Watched(unloads=False) as watched:
            await pause(HOUR_S)
            assert 3 <= len(watched.acted_s) <= 6

    play(scene())
