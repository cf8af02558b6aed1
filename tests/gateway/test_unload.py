"""An engine is unloaded and somebody comes: each moment has its request, and each is answered."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any, cast

import pytest

from backend import (
    EngineProps,
    EngineSnapshot,
    EngineState,
    ExitCause,
    ProbeReady,
    UnixAddress,
)
from gateway.activity import Activity
from gateway.engine.link import EngineLink, ServedModel
from gateway.engine.warm_slots import WarmSlots
from gateway.queue.admission import Admission, Turn, Wish
from gateway.queue.fairqueue import FairQueue
from gateway.queue.rates import ServiceRates
from gateway.status import ServiceStatus
from gateway.tasks import Tasks

PROPS = EngineProps(slots=2, context_tokens=512)


class Control:
    """Does what it is told a turn of the loop later, as the supervisor does."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[str] = asyncio.Queue()
        self.said: list[str] = []

    def note_served(self) -> None:
        pass

    def unload(self) -> None:
        self._tell("unload")

    def wake(self) -> None:
        self._tell("wake")

    def evict(self, generation: int, cause: ExitCause) -> None:
        pass

    def _tell(self, word: str) -> None:
        self.said.append(word)
        self.told.put_nowait(word)


class Caller:
    turn: Turn | None = None


class Scene:
    """A link to an engine that is played here."""

    def __init__(self) -> None:
        time = asyncio.get_running_loop().time
        self.admission = Admission(
            FairQueue(max_waiting=8, max_waiting_per_key=8, ageing_s=60),
            ServiceRates(),
            max_queue=8,
            max_wait_s=5,
            clock=time,
            jitter=lambda: 0.0,
        )
        status = ServiceStatus(
            self.admission, Activity(time), clock=time, version="", platform="", node_id=None
        )
        self.tasks = Tasks()
        self.link = EngineLink(
            ServedModel("m", generates=True, embeddings=False, rerank=False),
            self.admission,
            status,
            connect_timeout_s=1,
            on_exit=lambda cause: None,
            on_use=lambda reused: None,
            tasks=self.tasks,
            probe=cast(Any, self._probe),
            warm=WarmSlots(None),
        )
        self.control = Control()
        self.link.aim(UnixAddress("/nowhere"), "key")
        self.link.control(self.control)
        self.generation = 0
        self.ready()

    async def _probe(self, *_: object) -> ProbeReady:
        return ProbeReady(PROPS)

    def ready(self) -> None:
        self.generation += 1
        self._state(EngineState.READY)

    def _state(self, state: EngineState, *, waking: bool = False) -> None:
        self.link.take_state(
            EngineSnapshot(
                state=state,
                pid=1 if state is EngineState.READY else None,
                generation=self.generation,
                props=PROPS,
                waking=waking,
            )
        )

    async def play_engine(self) -> None:
        """Sleeps and wakes as it is told."""
        asleep = False
        while True:
            word = await self.control.told.get()
            if word == "unload" and not asleep:
                asleep = True
                self._state(EngineState.SLEEPING)
            elif word == "wake" and asleep:
                asleep = False
                self._state(EngineState.STARTING, waking=True)
                await turns(3)
                self.ready()

    async def request(self) -> None:
        wish = Wish("key", slots=1)
        with await self.admission.slots(wish, Caller()):
            await turns(2)


async def turns(count: int) -> None:
    """Let the loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("before", range(12))
async def test_request_so_many_turns_after_the_unload_began_is_let_in(before: int) -> None:
    scene = Scene()
    engine = asyncio.ensure_future(scene.play_engine())
    unloading = asyncio.ensure_future(scene.link.unload())
    await turns(before)
    await scene.request()
    await unloading
    engine.cancel()
    await scene.tasks.stop()


async def test_requests_at_any_turn_of_many_unloads_are_let_in() -> None:
    random = Random(1)
    scene = Scene()
    engine = asyncio.ensure_future(scene.play_engine())
    for _ in range(300):
        unloading = asyncio.ensure_future(scene.link.unload())
        asked = []
        for _ in range(random.randrange(1, 4)):
            await turns(random.randrange(8))
            asked.append(asyncio.ensure_future(scene.request()))
        await asyncio.gather(*asked, unloading)
        assert (scene.admission.taken, scene.admission.queued) == (0, 0)
    assert "unload" in scene.control.said
    assert scene.generation > 30
    engine.cancel()
    await scene.tasks.stop()
