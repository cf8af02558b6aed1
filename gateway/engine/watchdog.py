"""Has a stuck engine replaced: asks and listens; what its silence means is decided in `silence`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from gateway.engine.silence import Sign, Silence, Trouble
from gateway.queue.admission import Admission

__all__ = ["Watchdog"]

_log = logging.getLogger(__name__)

_MOST_TICK_S = 1.0
_PROBES_PER_LIMIT = 6
_MOST_PROBE_PAUSE_S = 2.0
_MOST_PROBE_TIMEOUT_S = 5.0
_LEAST_PROBE_TIMEOUT_S = 1.0


class Watchdog:
    """Watches the engine while it serves.

    Args:
        limit_s: How long it may be silent; above 0.
        admission: Knows what the engine works on.
        serving: The generation of the engine process that serves; None while none does.
        ask: Asks the engine for a sign of life.
        on_stuck: Told the generation of a process that must be replaced, and why.
    """

    def __init__(
        self,
        limit_s: float,
        admission: Admission,
        *,
        serving: Callable[[], int | None],
        ask: Callable[[], Awaitable[Sign]],
        on_stuck: Callable[[int, Trouble], None],
    ) -> None:
        self._limit_s = limit_s
        self._tick_s = min(_MOST_TICK_S, limit_s / 4)
        self._probe_every_s = min(limit_s / _PROBES_PER_LIMIT, _MOST_PROBE_PAUSE_S)
        self._probe_timeout_s = min(
            max(limit_s / _PROBES_PER_LIMIT, _LEAST_PROBE_TIMEOUT_S), _MOST_PROBE_TIMEOUT_S
        )
        self._admission = admission
        self._serving = serving
        self._ask = ask
        self._on_stuck = on_stuck

    def __repr__(self) -> str:
        return f"<Watchdog limit_s={self._limit_s:g}>"

    async def run(self) -> None:
        """Watch until cancelled."""
        time = asyncio.get_running_loop().time
        silence = Silence(self._limit_s, time())
        watched: int | None = None
        next_probe_s = 0.0
        while True:
            await asyncio.sleep(self._tick_s)
            silence.tick(time(), self._tick_s)
            generation = self._serving()
            if generation != watched:
                watched = generation
                silence.start_anew(time())
            if generation is None:
                continue
            if time() >= next_probe_s:
                asked_s = time()
                await self._probe(silence)
                next_probe_s = asked_s + (0.0 if silence.in_doubt else self._probe_every_s)
                silence.tick(time(), self._probe_timeout_s)
            trouble = silence.verdict(self._admission.signs(), time())
            if trouble is not None and self._serving() == generation:
                _log.error("%s; it is replaced", trouble.why)
                self._on_stuck(generation, trouble)

    async def _probe(self, silence: Silence) -> None:
        asked_s = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self._probe_timeout_s):
                sign = await self._ask()
        except TimeoutError:
            sign = Sign.NONE
        silence.probed(sign, asked_s)
