"""Has the engine count prompts, but takes no risk with it: counting can kill an engine, too."""

from __future__ import annotations

from collections.abc import Callable

from backend import EngineGone
from gateway.dialects import EngineCall
from gateway.engine.counter import PromptCounter
from gateway.suspicion.caution import Caution
from gateway.suspicion.inquest import Inside
from gateway.suspicion.suspects import digest_of
from gateway.tasks import Tasks

__all__ = ["WaryCounter"]


class WaryCounter:
    """Counts the prompts of requests that nobody suspects, while nobody is to be alone.

    Args:
        counter: Asks the engine.
        generation: Counts engine processes; tells which one is asked.
        caution: What is done about requests that may have killed an engine.
        tasks: Holder of that inquiry.
    """

    def __init__(
        self,
        counter: PromptCounter,
        generation: Callable[[], int],
        caution: Caution,
        tasks: Tasks,
    ) -> None:
        self._counter = counter
        self._generation = generation
        self._suspects = caution.suspects
        self._inquest = caution.inquest
        self._solitude = caution.solitude
        self._tasks = tasks

    def __repr__(self) -> str:
        return f"<WaryCounter {self._counter!r}>"

    def possible(self, plan: EngineCall, now: float) -> bool:
        """Whether the prompts of *plan* may be counted at this moment, in monotonic seconds."""
        if self._solitude.wanted:
            return False
        suspects = self._suspects
        return not (suspects and suspects.is_accused(digest_of(plan.path, plan.body), now))

    async def count(self, plan: EngineCall, key: str, now: float) -> tuple[int, ...] | None:
        """Tokens of each prompt of *plan*; None when they cannot be had now.

        Args:
            plan: The call of *key*.
            key: Whose it is.
            now: Monotonic seconds.
        """
        if not self.possible(plan, now):
            return None
        generation = self._generation()
        with self._solitude.beside():
            try:
                return await self._counter.count(plan)
            except EngineGone:
                inside = Inside(
                    digest_of(plan.path, plan.body), key, generation, False, "(being counted)"
                )
                self._tasks.spawn(self._inquest.hold(inside), "inquest")
                return None
