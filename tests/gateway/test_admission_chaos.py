"""Ten thousand requests come and leave as they like while the engine dies: nothing is left behind.

The door and the inquiry about lingering slots are the real ones, and so is asyncio; time is not:
the loop jumps to the next thing that is due. The engine is played here: it counts for itself who is
inside, and does not let in more than it has slots.
"""

from __future__ import annotations

import asyncio
import gc
import selectors
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from random import Random
from typing import Any, cast

import orjson
import pytest

from backend import ConnectFailed, EngineClient, EngineGone, EngineTimeout
from gateway.engine.slots import SlotWatch
from gateway.errors import ApiError
from gateway.queue.admission import Admission, Lease, Turn, Wish
from gateway.queue.fairqueue import PRIORITIES, FairQueue
from gateway.queue.rates import ServiceRates
from gateway.tasks import Tasks

REQUESTS = 10_000
MOST_TRIES = 5
BEGINS_S = 0.03
"""A request has its slot so long after it was sent, at most."""
ON_ITS_WAY_S = 0.008
"""The end of an answer arrives so long after its slot became free, at most."""
MAX_QUEUE, MAX_PER_KEY = 40, 15


# -- time


class _Jump(selectors.SelectSelector):
    """Waits for nothing: the time of its loop is turned on instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everybody waits, and nothing can happen any more"
            self.now += max(timeout, 0.0)
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose hours take no time."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now


async def pause(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    timer = loop.call_later(seconds, over.set_result, None)
    try:
        await over
    finally:
        timer.cancel()


# -- the engine


class Died(Exception):  # noqa: N818 - what happened to the engine
    """The engine is gone, and what it was working on with it."""


class Engine:
    """Works for whom it is told to, and says how many slots are busy."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.slots = 0
        self.busy = 0
        self.crowded = 0
        """Requests that had to wait inside."""
        self.generation = 0
        self.death = asyncio.Event()
        self.alive = False

    def start(self, slots: int) -> None:
        self.generation += 1
        self.slots, self.busy, self.alive = slots, 0, True
        self.death = asyncio.Event()

    def die(self) -> None:
        self.alive = False
        self.death.set()

    def begin(self, slots: int) -> None:
        self.busy += slots
        self.crowded += self.busy > self.slots

    def end(self, slots: int, generation: int) -> None:
        if self.alive and self.generation == generation:
            self.busy -= slots

    async def works(self, seconds: float) -> None:
        """Let it work so long.

        Raises:
            Died: It did not live so long.
        """
        try:
            async with asyncio.timeout(seconds):
                await self.death.wait()
        except TimeoutError:
            return
        raise Died

    async def lives_until(self, event: asyncio.Event) -> None:
        """Wait for *event*.

        Raises:
            Died: There will be none.
        """
        waits = [asyncio.ensure_future(each.wait()) for each in (event, self.death)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self.death.is_set():
            raise Died

    async def request(self, method: str, path: str, **_: Any) -> tuple[int, bytes]:
        """What `backend.busy_slots` asks; the answer is true for one moment on the way."""
        assert (method, path) == ("GET", "/slots")
        generation = self.generation
        await pause(self._random.uniform(0.0, 0.004))
        if self._random.random() < 0.02:
            raise EngineTimeout("no answer this time")
        if not self.alive or self.generation != generation:
            raise EngineGone("it died")
        slots = [{"is_processing": number < self.busy} for number in range(self.slots)]
        await pause(self._random.uniform(0.0, 0.004))
        return 200, orjson.dumps(slots)


class Job:
    """One request inside the engine, which notices late that its client has left."""

    def __init__(self, engine: Engine, slots: int, *, linger_s: float) -> None:
        self.begun = asyncio.Event()
        self._engine = engine
        self._slots = slots
        self._generation = engine.generation
        self._linger_s = linger_s
        self._left = self._ended = False

    def begin(self) -> None:
        """Its prompt has been taken apart: it gets its slots, whoever still listens."""
        if self._engine.alive and self._engine.generation == self._generation:
            self._engine.begin(self._slots)
            self.begun.set()
            if self._left:
                self._linger()

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            self._engine.end(self._slots, self._generation)

    def leave(self) -> None:
        """The client is gone; nothing happens when it had its answer."""
        self._left = True
        if self.begun.is_set():
            self._linger()

    def _linger(self) -> None:
        asyncio.get_running_loop().call_later(self._linger_s, self.end)


# -- the world


@dataclass
class Holder:
    turn: Turn | None = None


class World:
    """A door, an engine behind it, and what became of those who came."""

    def __init__(self, seed: int, tasks: Tasks) -> None:
        self.random = Random(seed)
        self.loop = asyncio.get_running_loop()
        self.queue = FairQueue(max_waiting=MAX_QUEUE, max_waiting_per_key=MAX_PER_KEY, ageing_s=5)
        self.door = Admission(
            self.queue,
            ServiceRates(),
            max_queue=MAX_QUEUE,
            max_wait_s=20.0,
            clock=self.loop.time,
            jitter=self.random.random,
        )
        self.engine = Engine(self.random)
        self.client: Engine | None = None
        self.leaks = 0
        self.outcomes: Counter[str] = Counter()
        self.granted: set[int] = set()
        self.most_queued = 0
        self.waits_s: list[float | None] = []
        self.replays = 0
        self._own: set[asyncio.Task[None]] = set()
        self._tasks = tasks
        self.watch = SlotWatch(
            self.door,
            lambda: cast("EngineClient | None", self.client),
            tasks,
            on_leak=self._leaked,
        )

    def _leaked(self, slots: int) -> None:
        self.leaks += slots

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self.loop.create_task(work)
        self._own.add(task)
        task.add_done_callback(self._own.discard)
        return task

    # -- the engine's life, as the link tells the door of it

    def up(self) -> None:
        slots = self.random.choice((1, 2, 4, 4, 8))
        self.engine.start(slots)
        self.door.settled()
        self.client = self.engine
        self.door.set_capacity(slots)

    async def crash(self) -> None:
        if not self.engine.alive:
            return
        self.engine.die()
        if self.random.random() < 0.5:
            self.door.set_capacity(0)  # a broken connection was noticed before the death was
        await pause(self.random.uniform(0.0, 0.05))
        self.door.set_capacity(0)
        self.client = None
        self.door.settled()
        await pause(self.random.choice((0.0, 0.1, 2.0)))
        self.up()

    async def suspect(self) -> None:
        """A connection broke, and the engine was well."""
        generation = self.engine.generation
        self.door.set_capacity(0)
        await pause(self.random.uniform(0.0, 0.3))
        if self.engine.alive and self.engine.generation == generation and self.client is not None:
            self.door.set_capacity(self.engine.slots)

    # -- requests

    async def visit(self) -> None:
        """One request from its arrival to its end, which is noted exactly once."""
        try:
            outcome = await self._ask()
        except asyncio.CancelledError:
            outcome = "left"  # before its turn
        except ApiError as refusal:
            outcome = refusal.code
            self.waits_s.append(refusal.retry_after_s)
        self.outcomes[outcome] += 1

    async def _ask(self) -> str:
        random = self.random
        key = random.choice("aaaabbcdefg")
        wish = Wish(
            key,
            slots=random.choice((0, 1, 1, 1, 1, 1, 1, 2, 3, 9)),
            priority=random.choice(PRIORITIES),
            weight=random.choice((0.5, 1.0, 3.0)),
            expected_s=random.expovariate(1 / 0.2),
            max_wait_s=random.choice((None, None, 0.0, 0.01, 1.0, 5.0)),
            patience_s=random.choice((None, None, None, 0.0, 0.5, 3.0)),
        )
        holder = Holder()
        exempt = random.random() < 0.05
        for number in range(MOST_TRIES):
            with await self.door.slots(wish, holder, again=number > 0, exempt=exempt) as lease:
                assert holder.turn is None
                assert id(lease) not in self.granted, "granted twice"
                if not lease.slots:
                    return "told"
                try:
                    return await self._work(lease)
                except ConnectFailed:
                    self.replays += 1
                    self.spawn(self.suspect())
                except Died:
                    return "crashed"
        return "gave up"

    async def _work(self, lease: Lease) -> str:
        random, engine = self.random, self.engine
        if not engine.alive or random.random() < 0.01:
            raise ConnectFailed("nobody is there")
        lease.abandoned = True
        job = Job(engine, lease.slots, linger_s=random.choice((0.0, 0.002, 0.05, 0.25)))
        self.loop.call_later(random.uniform(0.0, BEGINS_S), job.begin)
        try:
            await engine.lives_until(job.begun)
            lease.at_work = True
            await engine.works(random.expovariate(1 / 0.2))
            job.end()
            await pause(random.uniform(0.0, ON_ITS_WAY_S))
            lease.abandoned = False
            self.door.learn(lease, prompt_tokens=10, completion_tokens=random.randrange(50))
            return random.choice(("done", "done", "error"))
        except asyncio.CancelledError:
            return "left the engine"
        finally:
            job.leave()

    async def everybody(self) -> None:
        """All arrivals, and what happens meanwhile."""
        random = self.random
        for number in range(REQUESTS):
            visit = self.spawn(self.visit())
            if random.random() < 0.35:
                self.loop.call_later(random.expovariate(1 / 0.4), visit.cancel)
            if number % 400 == 399:
                self.spawn(self.crash())
            elif number % 150 == 149:
                self.spawn(self.suspect())
            # Three times what the engine can do, with lulls in which the queue runs dry.
            busy = number % 2000 < 1700
            await pause(random.expovariate(40.0 if busy else 3.0))
            self.most_queued = max(self.most_queued, self.door.queued)

    async def over(self) -> None:
        """Wait until nobody is there any more."""
        while self._own:
            await asyncio.wait(self._own)


async def chaos(seed: int, *, drained: bool) -> World:
    tasks = Tasks()
    world = World(seed, tasks)
    world.up()
    await world.everybody()
    if drained:
        world.door.close("draining", retry_after_s=1.0)
    await world.over()
    await pause(1.0)  # what lingers ends
    await tasks.stop()
    return world


def alive(*kinds: type) -> list[object]:
    gc.collect()
    return [each for each in gc.get_objects() if isinstance(each, kinds)]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ten_thousand_visits_leave_no_slot_taken_and_no_ghost(seed: int) -> None:
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        world = runner.run(chaos(seed, drained=seed % 2 == 0))
        door = world.door
        assert world.outcomes.total() == REQUESTS, "somebody had no end, or two"
        assert (door.taken, door.lingering, door.in_flight, door.queued) == (0, 0, 0, 0)
        assert door.at_work() == frozenset()
        assert [door.waiting_in(priority) for priority in PRIORITIES] == [0, 0, 0]
        assert (world.queue.accounts, world.engine.busy, world.leaks) == (0, 0, 0)
        assert world.engine.crowded == 0
        assert alive(Turn, Lease) == []
        assert all(wait_s is not None and wait_s > 0 for wait_s in world.waits_s)
        # -- and it was worth the trouble
        assert world.most_queued >= MAX_QUEUE
        assert world.replays > 0
        assert set(world.outcomes) >= {
            *("done", "error", "left", "left the engine", "told", "crashed"),
            *("server_overloaded", "queue_timeout", "queue_wait_too_long", "rate_limit_exceeded"),
        }
