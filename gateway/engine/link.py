"""Joins the supervised engine to the door before it: what its state means for requests.

The supervisor says what became of the child; this module opens the door when it is ready, closes
it when it is not, and makes a fresh client for each engine process, so that no request can ever
meet a connection of the one before. It remembers what each process died of, for those who lost it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from backend import (
    Address,
    BackendError,
    ConnectFailed,
    EngineClient,
    EngineSnapshot,
    EngineState,
    ExitCause,
    Probe,
    ProbeReady,
)
from gateway.dialects.base import ModelFacts
from gateway.engine.fates import Fates
from gateway.engine.silence import Sign
from gateway.engine.warm_slots import WarmSlots
from gateway.queue.admission import Admission, Lease
from gateway.status import ServiceStatus
from gateway.tasks import Tasks

__all__ = ["EngineControl", "EngineLink", "ServedModel"]

_log = logging.getLogger(__name__)

_ASK_AGAIN_S = 0.1
_DEAF_INQUIRIES = 20
"""A process that crashes closes its sockets a while before it is gone: that is no deafness."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What the operator said about the model."""

    alias: str
    generates: bool
    embeddings: bool
    rerank: bool
    slots_limit: int | None = None
    """Requests at a time, when fewer than the engine's slots are wanted."""


def _nobody_to_tell(*_: object) -> None:
    pass


class EngineControl(Protocol):
    """Whoever keeps the engine running: `backend.Supervisor`."""

    def note_served(self) -> None:
        """An answer was complete."""

    def unload(self) -> None:
        """Stop the engine until `wake`."""

    def wake(self) -> None:
        """Start an engine that was unloaded."""

    def evict(self, generation: int, cause: ExitCause) -> None:
        """Kill the engine of this generation, if it is still there, and start another."""


_SIGN_OF_LIFE_S = 5.0
_WAKE_AGAIN_S = 2.0
_PROCESS_ENDED = frozenset(
    (EngineState.RESTARTING, EngineState.STOPPED, EngineState.FAILED, EngineState.SLEEPING)
)
"""States without a process, or with one that is on its way out."""


class EngineLink:
    """The engine as the rest of the gateway sees it.

    Args:
        model: The model's public name and what it was started for.
        admission: The door.
        status: Where the engine's state is shown.
        connect_timeout_s: Seconds a connection attempt may take.
        on_exit: Told the cause of each death of the engine.
        on_use: Told for each request whether its connection was used before.
        tasks: Holder of the inquiry after a broken connection.
        probe: Asks an engine once whether it is ready.
        warm: Keeps processed prompts over an unload.
    """

    def __init__(
        self,
        model: ServedModel,
        admission: Admission,
        status: ServiceStatus,
        *,
        connect_timeout_s: float,
        on_exit: Callable[[str], None],
        on_use: Callable[[bool], None],
        tasks: Tasks,
        probe: Probe,
        warm: WarmSlots,
    ) -> None:
        self._model = model
        self._admission = admission
        self._status = status
        self._connect_timeout_s = connect_timeout_s
        self._on_exit = on_exit
        self._on_use = on_use
        self._tasks = tasks
        self._probe = probe
        self._warm = warm
        self._saving: asyncio.Task[int] | None = None
        self._inquiry: asyncio.Task[None] | None = None
        self._inquired = -1
        self._target: tuple[Address, str] | None = None
        self._doubtful = False
        self._control: EngineControl | None = None
        self._fates = Fates(self._is_well)
        self._left_inside: tuple[Lease, ...] = ()
        self.generation = -1
        """Counts engine processes; the one that serves, or did last."""
        self.client: EngineClient | None = None
        self.facts: ModelFacts | None = None
        """What is known of the model; kept while the engine restarts, it will be the same."""
        self.slots = 1
        self.on_ready: Callable[[], None] = _nobody_to_tell
        """Told each time an engine begins to serve."""
        self.on_death: Callable[[int, str, tuple[Lease, ...]], None] = _nobody_to_tell
        """Told of each death: which engine, of what, and who had left it in the middle of work."""

    def __repr__(self) -> str:
        return f"<EngineLink {self._status.engine.state} {self.client}>"

    def aim(self, address: Address, key: str) -> None:
        """Say where the engine listens; before its first state arrives."""
        self._target = (address, key)

    def control(self, control: EngineControl) -> None:
        """Say who keeps the engine running; before its first state arrives."""
        self._control = control
        self._admission.on_wanted = self._wanted

    def note_served(self) -> None:
        """An answer was complete: its engine is not in a crash loop."""
        if self._control is not None:
            self._control.note_served()

    @property
    def serving(self) -> int | None:
        """The generation of the engine that serves; None while none does."""
        return self.generation if self._is_ready() and self.client is not None else None

    async def sign_of_life(self) -> Sign:
        """Ask the engine for one, on a connection of its own: it must listen, too."""
        if self.client is None or self._target is None:
            return Sign.ALIVE
        client = EngineClient(*self._target, connect_timeout_s=self._connect_timeout_s)
        try:
            status, _ = await client.request("GET", "/health", timeout_s=_SIGN_OF_LIFE_S)
        except ConnectFailed as exc:
            gone = isinstance(exc.__cause__, ConnectionRefusedError | FileNotFoundError)
            return Sign.DEAF if gone else Sign.NONE
        except BackendError:
            return Sign.NONE
        finally:
            client.close()
        return Sign.ALIVE if status == 200 else Sign.NONE

    def evict(self, generation: int, cause: ExitCause) -> None:
        """Have an engine replaced that lives and serves nobody."""
        self._left_inside = self._admission.left()
        if self._control is not None:
            self._control.evict(generation, cause)

    async def unload(self) -> bool:
        """Have the engine give its memory back until somebody needs it.

        Returns:
            Whether it is being unloaded; not if somebody has come meanwhile.
        """
        control, client = self._control, self.client
        if control is None or client is None or self.serving is None or self._admission.taken:
            return False
        self._admission.set_capacity(0)
        if not await self._save_slots(client):
            self._warm.discard()
            if self.serving is not None and not self._doubtful:
                self._admission.set_capacity(self.slots)
            return False
        self.hang_up()
        control.unload()
        return True

    async def _save_slots(self, client: EngineClient) -> bool:
        """Keep what its slots hold; False when the engine is wanted, or gone, before it is done."""
        pid = self._status.engine.pid
        if pid is None:
            return False
        self._saving = self._tasks.spawn(self._warm.save(client, pid), "save-slots")
        try:
            await asyncio.wait((self._saving,))
            wanted = self._saving.cancelled() or bool(self._admission.queued)
        finally:
            self._saving = None
        return not wanted and self.serving is not None

    async def _restore_slots(self, client: EngineClient, generation: int) -> None:
        """Give the engine back what its slots held, and open the door."""
        await self._warm.restore(client)
        if self.serving == generation and not self._doubtful:
            self._admission.set_capacity(self.slots)

    def close(self) -> None:
        """The engine is gone for good: leave no files behind."""
        self._warm.close()

    def _wanted(self) -> None:
        """Somebody waits for an engine."""
        if self._saving is not None:
            self._saving.cancel()
        if self._control is not None and self._status.engine.state is EngineState.SLEEPING:
            self._control.wake()

    def models(self) -> tuple[str, ...]:
        """Public model names."""
        return (self._model.alias,)

    def take_state(self, snapshot: EngineSnapshot) -> None:
        """Act on what became of the engine."""
        before = self._status.engine
        self._status.engine = snapshot
        self._note_death(before, snapshot)
        if snapshot.state is EngineState.READY and snapshot.props is not None:
            self._open(snapshot)
        else:
            self._shut(snapshot)
        failed_to_wake = before.waking and not snapshot.waking
        if failed_to_wake and snapshot.state is EngineState.SLEEPING:
            # Those who wait are told; the next one tries again.
            self._admission.dismiss("engine_unavailable", retry_after_s=_WAKE_AGAIN_S)
        elif self._admission.queued:
            self._wanted()  # who came when it was told to unload but did not look asleep yet
        self._fates.tell()

    def _note_death(self, before: EngineSnapshot, after: EngineSnapshot) -> None:
        if after.deaths == before.deaths:
            return
        cause = (after.last_exit or "unknown").partition(" ")[0]
        left_inside, self._left_inside = self._left_inside or self._admission.left(), ()
        self._fates.died(after.generation, cause)
        self.on_death(after.generation, cause, left_inside)
        self._on_exit(cause)

    async def fate(self, generation: int) -> str | None:
        """Wait until it is known what became of the engine process *generation*.

        Returns:
            What it died of, as in `backend.exits`; None when it lives on.
        """
        return await self._fates.of(generation)

    def _is_well(self, generation: int) -> bool:
        return generation == self.generation and self._is_ready() and not self._doubtful

    def suspect(self) -> None:
        """A connection to the engine broke: let nobody in until it is known that the engine lives.

        When it died, the supervisor will say so in a moment; until then every request that is let
        in would be lost to it.
        """
        self._admission.set_capacity(0)
        self._doubtful = True
        if self._inquiry is None or self._inquiry.done() or self._inquired != self.generation:
            self._inquired = self.generation
            self._inquiry = self._tasks.spawn(self._inquire(self.generation), "inquire")

    async def _inquire(self, generation: int) -> None:
        """Ask the engine itself; ends with a good answer or with news from the supervisor."""
        assert self._target is not None, "only an engine that was there can be suspected"
        deaf = 0
        while self.generation == generation and self._is_ready():
            result = await self._probe(*self._target)
            if isinstance(result, ProbeReady) and self._is_ready():
                self._doubtful = False
                self._admission.set_capacity(self.slots)
                self._fates.tell()
                return
            deaf = deaf + 1 if await self.sign_of_life() is Sign.DEAF else 0
            if deaf == _DEAF_INQUIRIES:
                _log.error("the engine was told to end by somebody else; it is replaced")
                self.evict(generation, ExitCause.SIGNAL)
            await asyncio.sleep(_ASK_AGAIN_S)

    def _is_ready(self) -> bool:
        return self._status.engine.state is EngineState.READY

    def hang_up(self) -> None:
        """Drop every connection to the engine, so that it can stop at once."""
        client, self.client = self.client, None
        if client is not None:
            client.close()
        self._admission.settled()  # an engine that ends works for nobody

    def _open(self, snapshot: EngineSnapshot) -> None:
        if snapshot.generation == self.generation and self.client is not None:
            return
        assert self._target is not None, "aim comes before the first state"
        assert snapshot.props is not None
        self.hang_up()
        self._doubtful = False
        self.generation = snapshot.generation
        address, key = self._target
        self.client = EngineClient(
            address, key, connect_timeout_s=self._connect_timeout_s, on_use=self._on_use
        )
        props = snapshot.props
        self.slots = min(props.slots, self._model.slots_limit or props.slots)
        self.facts = ModelFacts(
            names=frozenset((self._model.alias,)),
            alias=self._model.alias,
            slots=self.slots,
            context_tokens=props.context_tokens,
            vocab_size=props.vocab_size,
            embedding_size=props.embedding_size,
            vision=props.vision,
            audio=props.audio,
            generates=self._model.generates,
            embeddings=self._model.embeddings,
            rerank=self._model.rerank,
        )
        self.on_ready()
        if self._warm.saved:
            self._tasks.spawn(self._restore_slots(self.client, self.generation), "restore-slots")
        else:
            self._admission.set_capacity(self.slots)

    def _shut(self, snapshot: EngineSnapshot) -> None:
        self._admission.set_capacity(0)
        if snapshot.state in _PROCESS_ENDED:
            self.hang_up()
        if snapshot.state is EngineState.FAILED:
            self._admission.close("engine_unavailable", retry_after_s=30.0)
