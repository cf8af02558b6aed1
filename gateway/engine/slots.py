"""When has the engine let go of the slots whose clients left?

llama-server notices that a client is gone when it writes to it, which it does between two batches,
and tells nobody. So the engine is asked which slots are at work, and only while there are slots
in doubt. The answer has no names, only a number; whatever of it cannot be put down to requests
that are known to run is put down to those that were left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from backend import BackendError, EngineClient, busy_slots
from gateway.engine.silence import SLOWEST_PREFILL
from gateway.queue.admission import Admission, Lease
from gateway.tasks import Tasks

__all__ = ["SlotWatch"]

_log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.05
_ANSWER_TIMEOUT_S = 2.0
_BEGINS_S = 0.1
"""Until then a request that was sent is at work: llama-server takes the prompt apart first, and
does so, and begins, also for a client who has left meanwhile."""
_ON_ITS_WAY_S = 0.01
"""Until then the end of an answer has arrived here, after its slot became free."""
_PATIENCE_S = 30.0
"""After this long a slot that nobody listens to is given out again: better a request that waits
inside the engine than a slot that is lost."""


class SlotWatch:
    """Tells the door when lingering slots are free.

    Args:
        admission: The door.
        client: The way to the engine that runs; None while none does.
        tasks: Holder of the inquiry.
        on_leak: Told the number of slots that the engine did not let go of in time.
        patience_s: That time.
    """

    def __init__(
        self,
        admission: Admission,
        client: Callable[[], EngineClient | None],
        tasks: Tasks,
        *,
        on_leak: Callable[[int], None],
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._admission = admission
        self._client = client
        self._tasks = tasks
        self._on_leak = on_leak
        self._patience_s = patience_s
        self._inquiry: asyncio.Task[None] | None = None
        admission.on_abandoned = self._notice

    def __repr__(self) -> str:
        return f"<SlotWatch {self._admission.lingering} slots in doubt>"

    def _notice(self) -> None:
        if self._inquiry is None or self._inquiry.done():
            self._inquiry = self._tasks.spawn(self._inquire(), "slots-in-doubt")

    async def _inquire(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while self._admission.lingering:
            await asyncio.sleep(pause_s)
            freed = await self._ask_once()
            self._give_up()
            pause_s = _FIRST_PAUSE_S if freed else min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _ask_once(self) -> bool:
        """Ask the engine; returns whether a slot became free."""
        admission, client = self._admission, self._client()
        if client is None:  # no engine, no slots
            admission.settled()
            return True
        doubtful, known = self._doubtful(), admission.at_work()
        if not doubtful:
            return False
        try:
            busy = await busy_slots(client, _ANSWER_TIMEOUT_S)
        except BackendError:
            return False
        # What ran before and after the question has kept its slots at work meanwhile. It does not
        # run any more if its end is only on its way here.
        if busy and known:
            await asyncio.sleep(_ON_ITS_WAY_S)
        still = known & admission.at_work()
        surely = sum(min(lease.slots, lease.unfinished()) for lease in still)
        freed = _first(doubtful, busy - surely, left=frozenset(admission.left()))
        admission.settled(freed)
        return bool(freed)

    def _doubtful(self) -> tuple[Lease, ...]:
        """Those whose slots may be free: not what was left before it began, and may yet begin."""
        now = asyncio.get_running_loop().time()
        return tuple(
            lease
            for lease in self._admission.left()
            if lease.at_work or now - lease.released_s >= _BEGINS_S
        )

    def _give_up(self) -> None:
        now = asyncio.get_running_loop().time()
        left = self._admission.left()
        lost = [lease for lease in left if now - lease.released_s >= self._patience_with(lease)]
        if lost:
            slots = sum(lease.slots for lease in lost)
            _log.warning("%d slots are at work for nobody", slots)
            self._on_leak(slots)
            self._admission.settled(lost)

    def _patience_with(self, lease: Lease) -> float:
        """A prompt is let go of when the batch is over that the engine reads of it."""
        signs = lease.signs() if lease.signs is not None else None
        tokens = signs.unreported_tokens if signs is not None else 0
        return self._patience_s + tokens / SLOWEST_PREFILL


def _first(doubtful: tuple[Lease, ...], busy: int, *, left: frozenset[Lease]) -> list[Lease]:
    """Those of *doubtful* whose slots are free if *busy* of them are not; the earliest first.

    Args:
        doubtful: Leases that were left.
        busy: Slots at work that nobody else accounts for.
        left: Those that still linger now; an engine that died meanwhile has none.
    """
    free = sum(lease.slots for lease in doubtful) - max(busy, 0)
    found = []
    for lease in doubtful:
        if lease.slots <= free and lease in left:
            free -= lease.slots
            found.append(lease)
    return found
