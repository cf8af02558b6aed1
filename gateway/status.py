"""What the service is doing, in one word and a few numbers: for probes, metrics and /info.

Written by the API loop, read by it and by the health thread. Every attribute is replaced as a
whole, never changed in place, so a reader in another thread sees an old or a new value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from backend import EngineSnapshot, EngineState
from gateway.activity import Activity
from gateway.engine.last_words import last_words
from gateway.queue.admission import Admission
from health import ServiceState, Snapshot

__all__ = ["ServiceStatus"]


class ServiceStatus:
    """The state of the whole service.

    Args:
        admission: The queue and the slots.
        activity: Whether anybody is being served.
        clock: Monotonic seconds.
        version: Version of the service.
        platform: Where it runs, in one word.
        node_id: The operator's name of this box, or nothing.
        slots_limit: Requests at a time, when fewer than the engine's slots are wanted.
    """

    def __init__(
        self,
        admission: Admission,
        activity: Activity,
        *,
        clock: Callable[[], float],
        version: str,
        platform: str,
        node_id: str | None,
        slots_limit: int | None = None,
    ) -> None:
        self._admission = admission
        self._activity = activity
        self._clock = clock
        self.version = version
        self.platform = platform
        self.node_id = node_id
        self._slots_limit = slots_limit
        self.engine = EngineSnapshot()
        self.preparing = False
        """The engine or the model is being fetched, built or checked."""
        self.draining = False
        self.failure: str | None = None
        """Why nothing can be served any more, in one word."""
        self.reasons: tuple[str, ...] = ()
        self.loop_seen_s: float | None = None

    def __repr__(self) -> str:
        return f"<ServiceStatus {self.state()}>"

    def state(self) -> ServiceState:
        """The word for it."""
        if self.draining:
            return ServiceState.DRAINING
        if self.failure or self.engine.state is EngineState.FAILED:
            return ServiceState.FAILED
        if self.engine.state is EngineState.READY:
            return ServiceState.BUSY if self._admission.full else ServiceState.READY
        if self.engine.state is EngineState.SLEEPING or self.engine.waking:
            return ServiceState.SLEEPING
        if self.engine.ready_ever:
            return ServiceState.RESTARTING
        if self.preparing or self.engine.state in (EngineState.STARTING, EngineState.LOADING):
            return ServiceState.LOADING
        if self.engine.state is EngineState.RESTARTING:
            return ServiceState.RESTARTING
        return ServiceState.STARTING

    def keys_are_stale(self, stale: bool) -> None:
        """Show, or stop showing, that the keys in use are not those on disk."""
        others = tuple(reason for reason in self.reasons if reason != "keys_stale")
        self.reasons = (*others, "keys_stale") if stale else others

    def beat(self, now: float) -> None:
        """The API loop is alive."""
        self.loop_seen_s = now

    def snapshot(self) -> Snapshot:
        """All of it at this moment; safe to call from another thread."""
        return Snapshot(
            state=self.state(),
            ready_ever=self.engine.ready_ever,
            reasons=(*self.reasons, "waking") if self.engine.waking else self.reasons,
            in_flight=self._admission.in_flight,
            queued=self._admission.queued,
            lingering=self._admission.lingering,
            slots=self._slots(),
            engine=self.engine_facts(),
            loop_seen_s=self.loop_seen_s,
            idle_s=self._activity.idle_s,
            version=self.version,
            platform=self.platform,
        )

    def _slots(self) -> int:
        """Requests that may run at once; 0 before the engine has told."""
        if self.engine.props is None:
            return 0
        return min(self.engine.props.slots, self._slots_limit or self.engine.props.slots)

    def engine_facts(self) -> dict[str, Any]:
        """Facts about the engine, for holders of a key; probes show a part of them."""
        engine = self.engine
        facts: dict[str, Any] = {
            "state": engine.state,
            "pid": engine.pid,
            "restarts": engine.restarts,
            "uptime_s": round(self._clock() - engine.since_s, 1) if engine.pid else 0.0,
            "last_exit": engine.last_exit,
        }
        if self.failure is not None:
            facts |= {"failure": self.failure, "last_words": last_words(engine.output_tail)}
        if engine.props is not None:
            facts |= {
                "build": engine.props.build,
                "slots": engine.props.slots,
                "context_tokens": engine.props.context_tokens,
                "trained_context_tokens": engine.props.trained_context,
                "vision": engine.props.vision,
                "audio": engine.props.audio,
            }
        return facts
