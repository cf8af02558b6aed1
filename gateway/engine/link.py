"""Joins the supervised engine to the door before it: what its state means for requests.

The supervisor says what became of the child; this module opens the door when it is ready, closes
it when it is not, and makes a fresh client for each engine process, so that no request can ever
meet a connection of the one before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from backend import Address, EngineClient, EngineSnapshot, EngineState, Probe, ProbeReady
from gateway.dialects.base import ModelFacts
from gateway.queue.admission import Admission
from gateway.status import ServiceStatus
from gateway.tasks import Tasks

__all__ = ["EngineLink", "ServedModel"]

_log = logging.getLogger(__name__)

_ASK_AGAIN_S = 0.1


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What the operator said about the model."""

    alias: str
    generates: bool
    embeddings: bool
    rerank: bool
    slots_limit: int | None = None
    """Requests at a time, when fewer than the engine's slots are wanted."""


def _nobody_to_tell() -> None:
    pass


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
    ) -> None:
        self._model = model
        self._admission = admission
        self._status = status
        self._connect_timeout_s = connect_timeout_s
        self._on_exit = on_exit
        self._on_use = on_use
        self._tasks = tasks
        self._probe = probe
        self._inquiry: asyncio.Task[None] | None = None
        self._target: tuple[Address, str] | None = None
        self._generation = -1
        self.client: EngineClient | None = None
        self.facts: ModelFacts | None = None
        """What is known of the model; kept while the engine restarts, it will be the same."""
        self.slots = 1
        self.note_served: Callable[[], None] = _nobody_to_tell
        """Tells the supervisor of each complete answer; set when there is a supervisor."""

    def __repr__(self) -> str:
        return f"<EngineLink {self._status.engine.state} {self.client}>"

    def aim(self, address: Address, key: str) -> None:
        """Say where the engine listens; before its first state arrives."""
        self._target = (address, key)

    def models(self) -> tuple[str, ...]:
        """Public model names."""
        return (self._model.alias,)

    def take_state(self, snapshot: EngineSnapshot) -> None:
        """Act on what became of the engine."""
        before = self._status.engine
        self._status.engine = snapshot
        if snapshot.state is EngineState.READY and snapshot.props is not None:
            self._open(snapshot)
        else:
            self._shut(snapshot)
        died = snapshot.state in (EngineState.RESTARTING, EngineState.FAILED)
        if died and before.state is not snapshot.state:
            self._on_exit((snapshot.last_exit or "unknown").partition(" ")[0])

    def suspect(self) -> None:
        """A connection to the engine broke: let nobody in until it is known that the engine lives.

        When it died, the supervisor will say so in a moment; until then every request that is let
        in would be lost to it.
        """
        self._admission.set_capacity(0)
        if self._inquiry is None or self._inquiry.done():
            self._inquiry = self._tasks.spawn(self._inquire(self._generation), "inquire")

    async def _inquire(self, generation: int) -> None:
        """Ask the engine itself; ends with a good answer or with news from the supervisor."""
        assert self._target is not None, "only an engine that was there can be suspected"
        while self._generation == generation and self._is_ready():
            result = await self._probe(*self._target)
            if isinstance(result, ProbeReady) and self._is_ready():
                self._admission.set_capacity(self.slots)
                return
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
        if snapshot.generation == self._generation and self.client is not None:
            return
        assert self._target is not None, "aim comes before the first state"
        assert snapshot.props is not None
        self.hang_up()
        self._generation = snapshot.generation
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
        self._admission.set_capacity(self.slots)

    def _shut(self, snapshot: EngineSnapshot) -> None:
        self._admission.set_capacity(0)
        if snapshot.state in (EngineState.RESTARTING, EngineState.STOPPED, EngineState.FAILED):
            self.hang_up()
        if snapshot.state is EngineState.FAILED:
            self._admission.close("engine_unavailable", retry_after_s=30.0)
