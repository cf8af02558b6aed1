"""What did the engine die of, and who is to blame? Asked for each request that lost its engine."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Protocol

from gateway.suspicion.suspects import ACCUSING_CAUSES, Suspects

__all__ = ["Inquest", "Inside", "Verdict"]

_log = logging.getLogger(__name__)

_VERDICT_S = 30.0
"""A connection that broke and an engine of which nothing is known after this long."""


class _Fates(Protocol):
    async def fate(self, generation: int) -> str | None:
        """What the engine died of; None when it lives on."""


@dataclass(frozen=True, slots=True)
class Inside:
    """A request that the engine had."""

    digest: bytes
    key: str
    generation: int
    """Of the engine."""
    alone: bool
    """It had been let in alone, and nobody else was inside."""
    request_id: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the engine, and what of the request."""

    lives: bool
    """The engine let go of this one request and goes on."""
    guilty: bool = False


class Inquest:
    """Finds out and remembers.

    Args:
        engine: Knows what engines died of.
        suspects: Who may have killed one.
    """

    def __init__(self, engine: _Fates, suspects: Suspects) -> None:
        self._engine = engine
        self._suspects = suspects

    async def hold(self, inside: Inside) -> Verdict:
        """Wait until it is known what became of the engine, and judge."""
        try:
            async with asyncio.timeout(_VERDICT_S):
                cause = await self._engine.fate(inside.generation)
        except TimeoutError:
            return Verdict(lives=False)
        return self.judge(inside, cause)

    def judge(self, inside: Inside, cause: str | None) -> Verdict:
        """The engine died of *cause* with a request inside; None: it did not die."""
        if cause not in ACCUSING_CAUSES:
            return Verdict(lives=cause is None)
        now = asyncio.get_running_loop().time()
        if not inside.alone:
            if self._suspects.accuse(inside.digest, inside.key, inside.generation, now):
                _tell_of_suspension(inside.key)
            return Verdict(lives=False)
        judgement = self._suspects.died_alone(inside.digest, inside.key, inside.generation, now)
        if judgement.convicted:
            _log.error(
                "request %s of key %s has stopped the engine twice (%s); it is refused for now",
                inside.request_id,
                inside.key,
                cause,
            )
        if judgement.suspended:
            _tell_of_suspension(inside.key)
        return Verdict(lives=False, guilty=judgement.convicted)


def _tell_of_suspension(key: str) -> None:
    _log.error("key %s is suspended: its requests have stopped the engine", key)
