"""PURE: what becomes of the engine process, as one table.

Rules of this machine:

1. `advance(machine, event, now)` is the only way to a new state. A pair of phase and event that
   the table does not hold raises `IllegalTransition`: it is a bug, never a thing to shrug off.
2. Events of a process carry the generation that sent them. What arrives from a process that is no
   longer the living one (a probe's late answer) is dropped before the table is asked.
3. There is one alarm, and it is part of the state (`alarm_s`). Who carries out the actions keeps
   one timer in step with it and sends `AlarmRang` when it is due, so no timer can be forgotten;
   one that rings early or late, for a state that is no more, is dropped.
4. A death is counted in one place (`rules.after_death`), which alone decides between a restart,
   sleep and giving up.
5. Who asks for sleep or for waking need not know the phase: every phase has a row for both, and
   most ignore them. Neither forgets a death, or sleep would be a way around giving up.

Restarts wait 0, 1, 2, 4 ... seconds (bounded, with jitter). The count is forgotten after a time of
undisturbed service. Too many deaths within a window without one served request, or two loads that
ran out of time, end in FAILED: a supervisor that retries for ever hides a broken box from the
platform that could replace it.

A process that could not be made because the box was out of descriptors, memory or processes is no
death: nothing is known against the engine, and giving up would help nobody. It is tried again every
second, for as long as it takes.
"""

from collections.abc import Callable
from dataclasses import replace

from backend import rules
from backend.events import (
    AlarmRang,
    Event,
    EvictAsked,
    Exited,
    ProbeNotYet,
    ProbePassed,
    ProcessEvent,
    Served,
    Spawned,
    SpawnFailed,
    StartAsked,
    StopAsked,
    UnloadAsked,
    WakeAsked,
)
from backend.machine import MAY_BE_SHORT, MAY_WAKE, Machine, Phase, SupervisorSettings, snapshot_of
from backend.rules import Step, backoff_s
from backend.status import (
    FAILURE_EXIT_CODES,
    EngineProps,
    EngineSnapshot,
    EngineState,
    Failure,
)

__all__ = [
    "FAILURE_EXIT_CODES",
    "TABLE",
    "EngineProps",
    "EngineSnapshot",
    "EngineState",
    "Failure",
    "IllegalTransition",
    "Machine",
    "Phase",
    "SupervisorSettings",
    "advance",
    "backoff_s",
    "snapshot_of",
]


class IllegalTransition(Exception):  # noqa: N818 - says what happened, as the table's rule does
    """The table holds no entry for this event in this phase."""

    def __init__(self, phase: Phase, event: Event) -> None:
        super().__init__(f"{type(event).__name__} cannot happen in {phase.name}")


def advance(machine: Machine, event: Event, now: float) -> Step:
    """
    Give the next state and what to do, in order.

    Args:
        machine: The state so far; never changed.
        event: What happened.
        now: Seconds on the monotonic clock; never less than in the last call.

    Raises:
        IllegalTransition: The table holds no such pair.
    """
    if isinstance(event, ProcessEvent) and event.generation != machine.live:
        return machine, ()
    if isinstance(event, AlarmRang) and not machine.is_due(now):
        return machine, ()
    rule = TABLE.get((machine.phase, type(event)))
    if rule is None:
        raise IllegalTransition(machine.phase, event)
    after, actions = rule(machine, event, now)
    if after.phase is not machine.phase:
        after = _entered(after, now)
    return after, actions


def _entered(machine: Machine, now: float) -> Machine:
    """Set the time of a new phase, and drop what has no meaning in it."""
    return replace(
        machine,
        since_s=now,
        waking=machine.waking and machine.phase in MAY_WAKE,
        short=machine.short and machine.phase in MAY_BE_SHORT,
        not_before_s=machine.not_before_s if machine.phase is Phase.SLEEPING else None,
    )


# Rules take the event type their row names, which a plain Callable cannot say.
_Rule = Callable[..., Step]

TABLE: dict[tuple[Phase, type[Event]], _Rule] = {
    (Phase.STOPPED, StartAsked): rules.start,
    (Phase.STOPPED, StopAsked): rules.ignore,
    (Phase.STOPPED, UnloadAsked): rules.ignore,
    (Phase.STOPPED, WakeAsked): rules.ignore,
    # ---
    (Phase.STARTING, Spawned): rules.spawned,
    (Phase.STARTING, SpawnFailed): rules.not_spawned,
    (Phase.STARTING, StopAsked): rules.stop_before_spawn,
    (Phase.STARTING, UnloadAsked): rules.ignore,
    (Phase.STARTING, WakeAsked): rules.ignore,
    (Phase.STARTING, EvictAsked): rules.ignore,
    # ---
    (Phase.LOADING, ProbePassed): rules.ready,
    (Phase.LOADING, ProbeNotYet): rules.probe_again,
    (Phase.LOADING, AlarmRang): rules.load_timed_out,
    (Phase.LOADING, Exited): rules.after_death,
    (Phase.LOADING, StopAsked): rules.stop,
    (Phase.LOADING, UnloadAsked): rules.ignore,
    (Phase.LOADING, WakeAsked): rules.ignore,
    (Phase.LOADING, EvictAsked): rules.ignore,
    # ---
    (Phase.READY, Served): rules.served,
    (Phase.READY, AlarmRang): rules.settled,
    (Phase.READY, Exited): rules.after_death,
    (Phase.READY, EvictAsked): rules.evict,
    (Phase.READY, StopAsked): rules.stop,
    (Phase.READY, UnloadAsked): rules.unload,
    (Phase.READY, WakeAsked): rules.ignore,
    # ---
    (Phase.EVICTING, AlarmRang): rules.escalate,
    (Phase.EVICTING, Exited): rules.after_death,
    (Phase.EVICTING, StopAsked): rules.stop_instead,
    (Phase.EVICTING, UnloadAsked): rules.ignore,
    (Phase.EVICTING, WakeAsked): rules.ignore,
    (Phase.EVICTING, ProbePassed): rules.ignore,
    (Phase.EVICTING, ProbeNotYet): rules.ignore,
    (Phase.EVICTING, Served): rules.served,
    (Phase.EVICTING, EvictAsked): rules.ignore,
    # ---
    (Phase.BACKOFF, AlarmRang): rules.restart,
    (Phase.BACKOFF, StopAsked): rules.stop_waiting,
    (Phase.BACKOFF, UnloadAsked): rules.ignore,
    (Phase.BACKOFF, WakeAsked): rules.ignore,
    # ---
    (Phase.UNLOADING, AlarmRang): rules.escalate,
    (Phase.UNLOADING, Exited): rules.unloaded,
    (Phase.UNLOADING, StopAsked): rules.stop_instead,
    (Phase.UNLOADING, UnloadAsked): rules.ignore,
    (Phase.UNLOADING, WakeAsked): rules.wake_after_unload,
    (Phase.UNLOADING, Served): rules.served,
    (Phase.UNLOADING, EvictAsked): rules.ignore,
    # ---
    (Phase.SLEEPING, StopAsked): rules.stop_waiting,
    (Phase.SLEEPING, UnloadAsked): rules.ignore,
    (Phase.SLEEPING, WakeAsked): rules.wake,
    # ---
    (Phase.STOPPING, Spawned): rules.stop_at_birth,
    (Phase.STOPPING, SpawnFailed): rules.stopped,
    (Phase.STOPPING, AlarmRang): rules.escalate,
    (Phase.STOPPING, Exited): rules.stopped,
    (Phase.STOPPING, StopAsked): rules.ignore,
    (Phase.STOPPING, UnloadAsked): rules.ignore,
    (Phase.STOPPING, WakeAsked): rules.ignore,
    (Phase.STOPPING, ProbePassed): rules.ignore,
    (Phase.STOPPING, ProbeNotYet): rules.ignore,
    (Phase.STOPPING, Served): rules.ignore,
    (Phase.STOPPING, EvictAsked): rules.ignore,
    # ---
    (Phase.FAILED, StartAsked): rules.start,
    (Phase.FAILED, StopAsked): rules.ignore,
    (Phase.FAILED, UnloadAsked): rules.ignore,
    (Phase.FAILED, WakeAsked): rules.ignore,
    (Phase.FAILED, Exited): rules.gone_at_last,
    (Phase.FAILED, ProbePassed): rules.ignore,
    (Phase.FAILED, ProbeNotYet): rules.ignore,
    (Phase.FAILED, Served): rules.ignore,
    (Phase.FAILED, EvictAsked): rules.ignore,
}
