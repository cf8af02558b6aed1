"""PURE: the rules of the engine's table, one for each kind of transition.

Each takes the machine, the event and the time, and gives the next machine and what to do, in order.
Which rule is for which phase and event is said in `backend.states`.

A death is counted in one place (`after_death`), which alone decides what follows it: a restart,
sleep (when nobody but a wake asked for the process), or giving up.
"""

import signal
from dataclasses import replace

from backend.events import (
    Action,
    Event,
    EvictAsked,
    Exited,
    Probe,
    ProbeNotYet,
    ProbePassed,
    Served,
    Signal,
    Spawn,
    Spawned,
    SpawnFailed,
    Tidy,
)
from backend.exits import ExitCause, ExitReport
from backend.machine import Machine, Phase, SupervisorSettings
from backend.status import Failure

Step = tuple[Machine, tuple[Action, ...]]

# A load that ran out of time once may have met a cold disk; twice is the model or the box.
LOAD_TIMEOUT_LIMIT = 2


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
    return _jittered_s(settings, wait_s, roll)


def _jittered_s(settings: SupervisorSettings, wait_s: float, roll: float) -> float:
    return wait_s * (1.0 + settings.jitter * (2.0 * roll - 1.0))


def ignore(machine: Machine, event: Event, now: float) -> Step:
    return machine, ()


def start(machine: Machine, event: Event, now: float) -> Step:
    if machine.live is not None:
        # A process that nothing could kill: a second one beside it would find no memory.
        return machine, ()
    return _spawn(replace(machine, failure=None, deaths=(), streak=0, load_timeouts=0))


def restart(machine: Machine, event: Event, now: float) -> Step:
    if machine.waking or machine.short:
        # Somebody asked for it, which is no restart; or it was counted at the first try.
        return _spawn(machine)
    return _spawn(replace(machine, restarts=machine.restarts + 1))


def _spawn(machine: Machine) -> Step:
    generation = machine.generation + 1
    after = replace(
        machine, phase=Phase.STARTING, generation=generation, live=generation, alarm_s=None
    )
    return after, (Spawn(generation),)


def spawned(machine: Machine, event: Spawned, now: float) -> Step:
    after = replace(
        machine,
        phase=Phase.LOADING,
        pid=event.pid,
        alarm_s=now + machine.settings.load_timeout_s,
    )
    return after, (Probe(event.generation, 0.0),)


def probe_again(machine: Machine, event: ProbeNotYet, now: float) -> Step:
    return machine, (Probe(event.generation, machine.settings.probe_interval_s),)


def ready(machine: Machine, event: ProbePassed, now: float) -> Step:
    after = replace(
        machine,
        phase=Phase.READY,
        props=event.props,
        known_props=event.props,
        ready_ever=True,
        load_timeouts=0,
        alarm_s=now + machine.settings.settled_after_s,
    )
    return after, ()


def settled(machine: Machine, event: Event, now: float) -> Step:
    return replace(machine, streak=0, deaths=(), alarm_s=None), ()


def served(machine: Machine, event: Served, now: float) -> Step:
    return replace(machine, deaths=()), ()


def load_timed_out(machine: Machine, event: Event, now: float) -> Step:
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


def evict(machine: Machine, event: EvictAsked, now: float) -> Step:
    """Ask first: what is stuck may only be one slot, and a process that ends by itself logs why."""
    after = replace(
        machine,
        phase=Phase.EVICTING,
        evicted_for=event.cause,
        killed=False,
        alarm_s=now + machine.settings.evict_grace_s,
    )
    return after, (Signal(signal.SIGTERM),)


def unload(machine: Machine, event: Event, now: float) -> Step:
    after = replace(
        machine, phase=Phase.UNLOADING, alarm_s=now + machine.settings.stop_grace_s, killed=False
    )
    return after, (Signal(signal.SIGTERM),)


def wake_after_unload(machine: Machine, event: Event, now: float) -> Step:
    """Remembered: two engines at a time would not fit into the memory."""
    return replace(machine, waking=True), ()


def unloaded(machine: Machine, event: Exited, now: float) -> Step:
    """An end that was asked for: neither a death nor a reason to forget earlier ones."""
    after = _gone(machine, event.report)
    if not machine.waking:
        return replace(after, phase=Phase.SLEEPING), (Tidy(),)
    after, actions = _spawn(after)
    return after, (Tidy(), *actions)


def wake(machine: Machine, event: Event, now: float) -> Step:
    """Start, or wait for the moment that the last wake, which failed, has left behind."""
    after = replace(machine, waking=True)
    if machine.not_before_s is None or now >= machine.not_before_s:
        return _spawn(after)
    return replace(after, phase=Phase.BACKOFF, alarm_s=machine.not_before_s), ()


def stop_before_spawn(machine: Machine, event: Event, now: float) -> Step:
    return replace(machine, phase=Phase.STOPPING, alarm_s=None), ()


def stop_at_birth(machine: Machine, event: Spawned, now: float) -> Step:
    return stop(replace(machine, pid=event.pid), event, now)


def stop(machine: Machine, event: Event, now: float) -> Step:
    after = replace(
        machine, phase=Phase.STOPPING, alarm_s=now + machine.settings.stop_grace_s, killed=False
    )
    return after, (Signal(signal.SIGTERM),)


def stop_instead(machine: Machine, event: Event, now: float) -> Step:
    """It is being ended already; only what follows changes."""
    return replace(machine, phase=Phase.STOPPING), ()


def stop_waiting(machine: Machine, event: Event, now: float) -> Step:
    return replace(machine, phase=Phase.STOPPED, alarm_s=None), (Tidy(),)


def escalate(machine: Machine, event: Event, now: float) -> Step:
    if machine.killed:
        # Killed and still there: uninterruptible, in practice a stuck driver. It stays `live`, so
        # that nothing is started beside it and a late death is still noticed.
        return replace(machine, phase=Phase.FAILED, failure=Failure.NOT_REAPED, alarm_s=None), ()
    after = replace(machine, killed=True, alarm_s=now + machine.settings.reap_timeout_s)
    return after, (Signal(signal.SIGKILL),)


def stopped(machine: Machine, event: Exited | SpawnFailed, now: float) -> Step:
    return replace(_gone(machine, event.report), phase=Phase.STOPPED), (Tidy(),)


def gone_at_last(machine: Machine, event: Exited, now: float) -> Step:
    return _gone(machine, event.report), (Tidy(),)


def not_spawned(machine: Machine, event: SpawnFailed, now: float) -> Step:
    """A shortage is the box's and passes: neither a death nor a reason to forget earlier ones."""
    if not event.shortage:
        return after_death(machine, event, now)
    wait_s = _jittered_s(machine.settings, machine.settings.shortage_wait_s, event.roll)
    after = replace(_gone(machine, machine.last_exit), phase=Phase.BACKOFF, alarm_s=now + wait_s)
    return replace(after, short=True), (Tidy(),)


def after_death(machine: Machine, event: Exited | SpawnFailed, now: float) -> Step:
    settings = machine.settings
    recent = tuple(at_s for at_s in machine.deaths if now - at_s < settings.crash_window_s)
    after = replace(
        _gone(machine, event.report),
        deaths=(*recent, now),
        streak=machine.streak + 1,
        died=machine.died + 1,
    )
    failure = _reason_to_give_up(after)
    if failure is not None:
        return replace(after, phase=Phase.FAILED, failure=failure), (Tidy(),)
    next_s = now + backoff_s(settings, after.streak, event.roll)
    if machine.waking:
        # Who waits for it is told now, instead of waiting through one load after the other.
        return replace(after, phase=Phase.SLEEPING, not_before_s=next_s), (Tidy(),)
    return replace(after, phase=Phase.BACKOFF, alarm_s=next_s), (Tidy(),)


def _reason_to_give_up(machine: Machine) -> Failure | None:
    if machine.load_timeouts >= LOAD_TIMEOUT_LIMIT:
        return Failure.LOAD_TIMEOUT
    if len(machine.deaths) >= machine.settings.crash_budget:
        return Failure.CRASH_LOOP
    return None


def _gone(machine: Machine, report: ExitReport | None) -> Machine:
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
