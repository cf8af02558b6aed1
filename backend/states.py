"""PURE: what becomes of the engine process, as one table.

Rules of this machine:

1. `advance(machine, event, now)` is the only way to a new state. A pair of phase and event that
   the table does not hold raises `IllegalTransition`: it is a bug, never a thing to shrug off.
2. Events of a process carry the generation that sent them. What arrives from a process that is no
   longer the living one (a probe's late answer) is dropped before the table is asked.
3. There is one alarm, and it is part of the state (`alarm_s`). Who carries out the actions keeps
   one timer in step with it and sends `AlarmRang` when it is due, so no timer can be forgotten;
   one that rings early or late, for a state that is no more, is dropped.
4. A death is counted in one place (`_after_death`), which alone decides between a restart
   and giving up.

Restarts wait 0, 1, 2, 4 ... seconds (bounded, with jitter). The count is forgotten after a time of
undisturbed service. Too many deaths within a window without one served request, or two loads that
ran out of time, end in FAILED: a supervisor that retries for ever hides a broken box from the
platform that could replace it.
"""

import signal
from collections.abc import Callable
from dataclasses import replace

from backend.events import (
    Action,
    AlarmRang,
    Event,
    Exited,
    Probe,
    ProbeNotYet,
    ProbePassed,
    ProcessEvent,
    Served,
    Signal,
    Spawn,
    Spawned,
    SpawnFailed,
    StartAsked,
    StopAsked,
    Tidy,
)
from backend.exits import ExitCause, ExitReport
from backend.machine import Machine, Phase, SupervisorSettings, snapshot_of
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


# A load that ran out of time once may have met a cold disk; twice is the model or the box.
LOAD_TIMEOUT_LIMIT = 2


class IllegalTransition(Exception):  # noqa: N818 - says what happened, as the table's rule does
    """The table holds no entry for this event in this phase."""

    def __init__(self, phase: Phase, event: Event) -> None:
        super().__init__(f"{type(event).__name__} cannot happen in {phase.name}")


Step = tuple[Machine, tuple[Action, ...]]


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
        after = replace(after, since_s=now)
    return after, actions


def backoff_s(settings: SupervisorSettings, streak: int, roll: float) -> float:
    """
    Seconds to wait before the restart that follows death number *streak* (1 is the first).

    Args:
        settings: Gives the base, the bound and the jitter.
        streak: At least 1.
        roll: Random number in [0, 1).
    """
    if streak <= 1:
        return 0.0
    # The exponent is bounded as well: 2**1100 does not fit a float.
    wait_s = min(settings.backoff_first_s * 2.0 ** min(streak - 2, 60), settings.backoff_cap_s)
    return wait_s * (1.0 + settings.jitter * (2.0 * roll - 1.0))


# --- rules, one per kind of transition --------------------------------------------------------


def _ignore(machine: Machine, event: Event, now: float) -> Step:
    return machine, ()


def _start(machine: Machine, event: Event, now: float) -> Step:
    if machine.live is not None:
        # A process that nothing could kill: a second one beside it would find no memory.
        return machine, ()
    return _spawn(replace(machine, failure=None, deaths=(), streak=0, load_timeouts=0))


def _restart(machine: Machine, event: Event, now: float) -> Step:
    return _spawn(replace(machine, restarts=machine.restarts + 1))


def _spawn(machine: Machine) -> Step:
    generation = machine.generation + 1
    after = replace(
        machine, phase=Phase.STARTING, generation=generation, live=generation, alarm_s=None
    )
    return after, (Spawn(generation),)


def _spawned(machine: Machine, event: Spawned, now: float) -> Step:
    after = replace(
        machine,
        phase=Phase.LOADING,
        pid=event.pid,
        alarm_s=now + machine.settings.load_timeout_s,
    )
    return after, (Probe(event.generation, 0.0),)


def _probe_again(machine: Machine, event: ProbeNotYet, now: float) -> Step:
    return machine, (Probe(event.generation, machine.settings.probe_interval_s),)


def _ready(machine: Machine, event: ProbePassed, now: float) -> Step:
    after = replace(
        machine,
        phase=Phase.READY,
        props=event.props,
        ready_ever=True,
        load_timeouts=0,
        alarm_s=now + machine.settings.settled_after_s,
    )
    return after, ()


def _settled(machine: Machine, event: Event, now: float) -> Step:
    return replace(machine, streak=0, deaths=(), alarm_s=None), ()


def _served(machine: Machine, event: Served, now: float) -> Step:
    return replace(machine, deaths=()), ()


def _load_timed_out(machine: Machine, event: Event, now: float) -> Step:
    """Handlers for SIGTERM do not exist yet while loading; there is nothing to ask for politely."""
    after = replace(
        machine,
        phase=Phase.EVICTING,
        evicted_for=ExitCause.LOAD_TIMEOUT,
        load_timeouts=machine.load_timeouts + 1,
        killed=True,
        alarm_s=now + machine.settings.reap_timeout_s,
    )
    return after, (Signal(signal.SIGKILL),)


def _stop_before_spawn(machine: Machine, event: Event, now: float) -> Step:
    return replace(machine, phase=Phase.STOPPING, alarm_s=None), ()


def _stop_at_birth(machine: Machine, event: Spawned, now: float) -> Step:
    return _stop(replace(machine, pid=event.pid), event, now)


def _stop(machine: Machine, event: Event, now: float) -> Step:
    after = replace(
        machine, phase=Phase.STOPPING, alarm_s=now + machine.settings.stop_grace_s, killed=False
    )
    return after, (Signal(signal.SIGTERM),)


def _stop_instead(machine: Machine, event: Event, now: float) -> Step:
    """It is being ended already; only what follows changes."""
    return replace(machine, phase=Phase.STOPPING), ()


def _stop_waiting(machine: Machine, event: Event, now: float) -> Step:
    return replace(machine, phase=Phase.STOPPED, alarm_s=None), (Tidy(),)


def _escalate(machine: Machine, event: Event, now: float) -> Step:
    if machine.killed:
        # Killed and still there: uninterruptible, in practice a stuck driver. It stays `live`, so
        # that nothing is started beside it and a late death is still noticed.
        return replace(machine, phase=Phase.FAILED, failure=Failure.NOT_REAPED, alarm_s=None), ()
    after = replace(machine, killed=True, alarm_s=now + machine.settings.reap_timeout_s)
    return after, (Signal(signal.SIGKILL),)


def _stopped(machine: Machine, event: Exited | SpawnFailed, now: float) -> Step:
    return replace(_gone(machine, event.report), phase=Phase.STOPPED), (Tidy(),)


def _gone_at_last(machine: Machine, event: Exited, now: float) -> Step:
    return _gone(machine, event.report), (Tidy(),)


def _after_death(machine: Machine, event: Exited | SpawnFailed, now: float) -> Step:
    settings = machine.settings
    recent = tuple(at_s for at_s in machine.deaths if now - at_s < settings.crash_window_s)
    after = replace(_gone(machine, event.report), deaths=(*recent, now), streak=machine.streak + 1)
    failure = _reason_to_give_up(after)
    if failure is not None:
        return replace(after, phase=Phase.FAILED, failure=failure), (Tidy(),)
    wait_s = backoff_s(settings, after.streak, event.roll)
    return replace(after, phase=Phase.BACKOFF, alarm_s=now + wait_s), (Tidy(),)


def _reason_to_give_up(machine: Machine) -> Failure | None:
    if machine.load_timeouts >= LOAD_TIMEOUT_LIMIT:
        return Failure.LOAD_TIMEOUT
    if len(machine.deaths) >= machine.settings.crash_budget:
        return Failure.CRASH_LOOP
    return None


def _gone(machine: Machine, report: ExitReport) -> Machine:
    return replace(
        machine,
        live=None,
        pid=None,
        props=None,
        alarm_s=None,
        evicted_for=None,
        killed=False,
        last_exit=report,
    )


# Rules take the event type their row names, which a plain Callable cannot say.
_Rule = Callable[..., Step]

TABLE: dict[tuple[Phase, type[Event]], _Rule] = {
    (Phase.STOPPED, StartAsked): _start,
    (Phase.STOPPED, StopAsked): _ignore,
    # ---
    (Phase.STARTING, Spawned): _spawned,
    (Phase.STARTING, SpawnFailed): _after_death,
    (Phase.STARTING, StopAsked): _stop_before_spawn,
    # ---
    (Phase.LOADING, ProbePassed): _ready,
    (Phase.LOADING, ProbeNotYet): _probe_again,
    (Phase.LOADING, AlarmRang): _load_timed_out,
    (Phase.LOADING, Exited): _after_death,
    (Phase.LOADING, StopAsked): _stop,
    # ---
    (Phase.READY, Served): _served,
    (Phase.READY, AlarmRang): _settled,
    (Phase.READY, Exited): _after_death,
    (Phase.READY, StopAsked): _stop,
    # ---
    (Phase.EVICTING, AlarmRang): _escalate,
    (Phase.EVICTING, Exited): _after_death,
    (Phase.EVICTING, StopAsked): _stop_instead,
    (Phase.EVICTING, ProbePassed): _ignore,
    (Phase.EVICTING, ProbeNotYet): _ignore,
    (Phase.EVICTING, Served): _ignore,
    # ---
    (Phase.BACKOFF, AlarmRang): _restart,
    (Phase.BACKOFF, StopAsked): _stop_waiting,
    # ---
    (Phase.STOPPING, Spawned): _stop_at_birth,
    (Phase.STOPPING, SpawnFailed): _stopped,
    (Phase.STOPPING, AlarmRang): _escalate,
    (Phase.STOPPING, Exited): _stopped,
    (Phase.STOPPING, StopAsked): _ignore,
    (Phase.STOPPING, ProbePassed): _ignore,
    (Phase.STOPPING, ProbeNotYet): _ignore,
    (Phase.STOPPING, Served): _ignore,
    # ---
    (Phase.FAILED, StartAsked): _start,
    (Phase.FAILED, StopAsked): _ignore,
    (Phase.FAILED, Exited): _gone_at_last,
    (Phase.FAILED, ProbePassed): _ignore,
    (Phase.FAILED, ProbeNotYet): _ignore,
    (Phase.FAILED, Served): _ignore,
}
