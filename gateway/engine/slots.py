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
from gateway.queue.admission import Admission
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
    """

    def __init__(
        self,
        admission: Admission,
        client: Callable[[], EngineClient | None],
        tasks: Tasks,
        *,
        on_leak: Callable[[int], None],
    ) -> None:
        self._admission = admission
        self._client = client
        self._tasks = tasks
        self._on_leak = on_leak
        self._inquiry: asyncio.Task[None] | None = None
        admission.on_abandoned = self._notice

    def __repr__(self) -> str:
        return f"<SlotWatch {self._admission.lingering} slots in doubt>"

    def _notice(self) -> None:
        if self._inquiry is None or self._inquiry.done():
            self._inquiry = self._tasks.spawn(self._inquire(), "slots-in-doubt")

    async def _inquire(self) -> None:
        time = asyncio.get_running_loop().time
        admission = self._admission
        pause_s, since_s = _FIRST_PAUSE_S, time()
        while admission.lingering:
            await asyncio.sleep(max(pause_s, admission.left_unseen_s + _BEGINS_S - time()))
            if time() < admission.left_unseen_s + _BEGINS_S:
                continue  # another one was left meanwhile
            if await self._ask_once():
                pause_s, since_s = _FIRST_PAUSE_S, time()
            elif time() - since_s >= _PATIENCE_S:
                _log.warning("%d slots are at work for nobody", admission.lingering)
                self._on_leak(admission.lingering)
                admission.settled()
            else:
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _ask_once(self) -> bool:
        """Ask the engine; returns whether a slot became free."""
        admission, client = self._admission, self._client()
        if client is None:  # no engine, no slots
            admission.settled()
            return True
        doubtful, known = admission.lingering, admission.at_work()
        try:
            busy = await busy_slots(client, _ANSWER_TIMEOUT_S)
        except BackendError:
            return False
        # What ran before and after the question has kept its slots at work meanwhile. It does not
        # run any more if its end is only on its way here.
        if busy and known:
            await asyncio.sleep(_ON_ITS_WAY_S)
        surely = sum(min(lease.slots, lease.unfinished()) for lease in known & admission.at_work())
        freed = doubtful - max(busy - surely, 0)
        if freed <= 0:
            return False
        admission.settled(freed)
        return True
