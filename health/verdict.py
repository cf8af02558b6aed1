"""Which status each probe gets in each state of the service: one table, no input or output.

Platforms ask different questions, so there are different paths and not one clever one:

- ``/ping``: 200 serve me, 204 still initialising, 503 take me out (load balancers that know 204);
- ``/livez``: should this process be restarted?
- ``/startupz``: has it come up?
- ``/readyz``: may traffic be routed here?
- ``/health``: exactly 200 or 503, with the details as JSON.

Two traps shape the table. A 204 counts as success for probes that take any 2xx, so only the ping
row has one. And a full service stays ready: if every replica turned unready at once, its front
would refuse everybody; load is shed by 429 and 503 on the API port instead.

What is shown here is open to anyone who reaches the port: state words and totals, never a model
name, a path, a key id or a version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import orjson

__all__ = [
    "HEALTH_PATHS",
    "TABLE",
    "Answer",
    "Probe",
    "ServiceState",
    "Snapshot",
    "VerdictOptions",
    "answer",
    "is_stalled",
    "probe_of",
]


class ServiceState(StrEnum):
    """What the service is doing, in one word; the same word in replies, logs and metrics."""

    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    BUSY = "busy"
    SLEEPING = "sleeping"
    RESTARTING = "restarting"
    FAILED = "failed"
    DRAINING = "draining"


class Probe(StrEnum):
    """The five questions."""

    PING = "ping"
    LIVE = "livez"
    STARTUP = "startupz"
    READY = "readyz"
    HEALTH = "health"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """
    What the service knows about itself at one moment.

    Args:
        state: The service's state.
        ready_ever: Whether it has been ready once since it was started.
        reasons: Short words for what is wrong or unusual, such as ``keys_stale``.
        in_flight: Requests the engine works on.
        queued: Requests that wait for a slot.
        lingering: Slots whose client left, and that the engine has not let go of yet.
        slots: Requests the engine can work on at once; 0 while not known.
        engine: Facts about the engine. Only those in `ENGINE_FACTS` are shown to anyone.
        loop_seen_s: Monotonic time of the API loop's last beat, in seconds; None before it runs.
        idle_s: Seconds since the last byte of the last reply; 0 while there is work.
        version: The service's own version, for metrics.
        platform: The platform's short name, for metrics.
    """

    state: ServiceState
    ready_ever: bool = False
    reasons: tuple[str, ...] = ()
    in_flight: int = 0
    queued: int = 0
    lingering: int = 0
    slots: int = 0
    engine: Mapping[str, object] = field(default_factory=dict)
    loop_seen_s: float | None = None
    idle_s: float = 0.0
    version: str = ""
    platform: str = ""


@dataclass(frozen=True, slots=True)
class VerdictOptions:
    """
    What an operator may choose about the probes.

    Args:
        health_check_path: One more path that answers like ``/ping``; it wins over a probe that
            has the same path, since the platform asks there with ping's meaning.
        ping_while_loading: 204 says "initialising"; 200 takes requests early, to wait here.
        ready_when_busy: Whether ``/readyz`` stays 200 while all slots and the queue are full.
        stalled_after_s: An API loop that has not beaten for longer is taken for stuck.
    """

    health_check_path: str = "/ping"
    ping_while_loading: Literal[200, 204] = 204
    ready_when_busy: bool = True
    stalled_after_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole reply; *content_type* is None when there is no body."""

    status: int
    content_type: str | None
    body: bytes


_INIT = 204
"""Initialising; `VerdictOptions.ping_while_loading` may turn it to 200."""
_ONCE = 0
"""200 when the service has been ready before, else 503."""

_COLUMNS = ("starting", "loading", "ready", "busy", "sleeping", "restarting", "failed", "draining")
_ROWS: dict[Probe, tuple[int, ...]] = {
    Probe.PING: (_INIT, _INIT, 200, 200, 200, _INIT, 503, 503),
    Probe.LIVE: (200, 200, 200, 200, 200, 200, 503, 200),
    Probe.STARTUP: (503, 503, 200, 200, 200, _ONCE, 503, 200),
    Probe.READY: (503, 503, 200, 200, 200, 503, 503, 503),
    Probe.HEALTH: (503, 503, 200, 200, 200, 503, 503, 503),
}
TABLE: dict[Probe, dict[ServiceState, int]] = {
    probe: {ServiceState(name): cell for name, cell in zip(_COLUMNS, row, strict=True)}
    for probe, row in _ROWS.items()
}

_PATHS: dict[str, Probe] = {
    "/ping": Probe.PING,
    "/livez": Probe.LIVE,
    "/startupz": Probe.STARTUP,
    "/readyz": Probe.READY,
    "/ready": Probe.READY,
    "/health": Probe.HEALTH,
    "/healthz": Probe.HEALTH,
    "/v1/healthz": Probe.HEALTH,
}
HEALTH_PATHS: frozenset[str] = frozenset(_PATHS)
"""Paths `answer` knows whatever the options; ``/metrics`` is not among them."""

ENGINE_FACTS = ("state", "restarts", "uptime_s", "last_exit", "failure", "last_words")
"""Keys of `Snapshot.engine` that may be shown without a key."""

_UNTIL_STALLED = frozenset({Probe.PING, Probe.LIVE, Probe.READY, Probe.HEALTH})
"""Probes a stuck API loop turns to 503. Start-up is over by then, so its probe keeps its word."""


def probe_of(path: str, options: VerdictOptions) -> Probe | None:
    """The question *path* (without a query) asks; None when it is no health path."""
    if path == options.health_check_path:
        return Probe.PING
    return _PATHS.get(path)


def is_stalled(snapshot: Snapshot, now: float, options: VerdictOptions) -> bool:
    """
    Whether the API loop has gone silent.

    Args:
        snapshot: The newest snapshot.
        now: Seconds on the clock of `Snapshot.loop_seen_s`.
        options: Holds the limit.
    """
    seen_s = snapshot.loop_seen_s
    return seen_s is not None and now - seen_s > options.stalled_after_s


def answer(path: str, snapshot: Snapshot, now: float, options: VerdictOptions) -> Answer | None:
    """
    The reply to a GET of *path*, or None when it is no health path.

    Args:
        path: The path as sent, without its query.
        snapshot: The newest snapshot.
        now: Seconds on the monotonic clock.
        options: The operator's choices.
    """
    probe = probe_of(path, options)
    if probe is None:
        return None
    stalled = is_stalled(snapshot, now, options)
    status = _status(probe, snapshot, stalled, options)
    if status == 204:
        return Answer(204, None, b"")
    reasons = (*snapshot.reasons, "api_loop_stalled") if stalled else snapshot.reasons
    body: dict[str, object] = {
        "status": _word(status, snapshot.state),
        "state": snapshot.state,
        "reasons": reasons,
    }
    if _PATHS.get(path) is Probe.HEALTH:
        body |= _details(status, snapshot)
    return Answer(status, "application/json", orjson.dumps(body))


def _status(probe: Probe, snapshot: Snapshot, stalled: bool, options: VerdictOptions) -> int:
    if stalled and probe in _UNTIL_STALLED:
        return 503
    cell = TABLE[probe][snapshot.state]
    if cell == _INIT:
        return options.ping_while_loading
    if cell == _ONCE:
        return 200 if snapshot.ready_ever else 503
    if probe is Probe.READY and snapshot.state is ServiceState.BUSY and not options.ready_when_busy:
        return 503
    return cell


def _word(status: int, state: ServiceState) -> str:
    """What llama-server's own ``/health`` says: ``ok``, or why not."""
    if status == 200:
        return "ok"
    return "loading model" if state is ServiceState.LOADING else "unavailable"


def _details(status: int, snapshot: Snapshot) -> dict[str, object]:
    facts = snapshot.engine
    details: dict[str, object] = {
        "queue": {
            "in_flight": snapshot.in_flight,
            "queued": snapshot.queued,
            "slots": snapshot.slots,
        },
        "engine": {name: facts[name] for name in ENGINE_FACTS if name in facts},
    }
    if status == 503:
        # The same object as llama-server's, for programs that look at it.
        word = _word(status, snapshot.state).capitalize()
        details["error"] = {"code": 503, "message": word, "type": "unavailable_error"}
    return details
