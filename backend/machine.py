"""PURE: the whole state of the engine's supervision, as one frozen value.

Only `backend.states.advance` makes new ones.
"""

from dataclasses import dataclass, field
from enum import Enum

from backend.exits import ExitCause, ExitReport
from backend.status import EngineProps, EngineSnapshot, EngineState, Failure


class Phase(Enum):
    """Where the machine is; finer than `EngineState`, see `_SHOWN_AS`."""

    STOPPED = EngineState.STOPPED
    STARTING = EngineState.STARTING
    LOADING = EngineState.LOADING
    READY = EngineState.READY
    EVICTING = "evicting"  # alive, but being ended so that a fresh one can take its place
    BACKOFF = EngineState.RESTARTING
    STOPPING = EngineState.STOPPING
    FAILED = EngineState.FAILED
    UNLOADING = "unloading"  # alive, but being ended to give its memory back until it is needed
    SLEEPING = EngineState.SLEEPING


_SHOWN_AS = {
    Phase.EVICTING: EngineState.RESTARTING,
    Phase.UNLOADING: EngineState.SLEEPING,
}

MAY_BE_SHORT = frozenset({Phase.BACKOFF, Phase.STARTING})

MAY_WAKE = frozenset(
    {Phase.UNLOADING, Phase.BACKOFF, Phase.STARTING, Phase.LOADING, Phase.EVICTING}
)


@dataclass(frozen=True, slots=True)
class SupervisorSettings:
    """
    Times and budgets, all in seconds on the monotonic clock.

    Attributes:
        load_timeout_s: From spawn to the first good probe; beyond it the process is killed.
        stop_grace_s: From SIGTERM to SIGKILL, at a stop and when unloading.
        evict_grace_s: From SIGTERM to SIGKILL for a process that is to be replaced.
        reap_timeout_s: From SIGKILL to giving the process up as uninterruptible.
        backoff_first_s: Wait before the second restart in a row; the first is immediate.
        backoff_cap_s: Longest wait, before jitter.
        jitter: Share by which a wait may be longer or shorter, 0 to 1.
        crash_budget: Deaths within *crash_window_s* without a served request that mean FAILED.
        settled_after_s: Undisturbed service after which earlier restarts are forgotten.
        probe_interval_s: Between two probes while loading.
        shortage_wait_s: Between two tries to make a process, before jitter, while the box has not
            what one takes.
    """

    load_timeout_s: float = 1800.0
    stop_grace_s: float = 10.0
    evict_grace_s: float = 5.0
    reap_timeout_s: float = 10.0
    backoff_first_s: float = 1.0
    backoff_cap_s: float = 60.0
    jitter: float = 0.2
    crash_budget: int = 5
    crash_window_s: float = 300.0
    settled_after_s: float = 600.0
    probe_interval_s: float = 0.1
    shortage_wait_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Machine:
    """
    The whole state. Times are seconds on the monotonic clock.

    Attributes:
        alarm_s: When `AlarmRang` is due, or None.
        generation: How many processes were asked for so far.
        live: Generation of the process that exists, or is being made; None when there is none.
        restarts: Spawns that followed a death, over the whole life of the machine.
        streak: Deaths since the last time of undisturbed service; sets the wait.
        deaths: When the deaths happened that count towards giving up.
        load_timeouts: Loads that ran out of time since one succeeded.
        died: Processes that ended unasked, or could not be made, over the whole life.
        evicted_for: Why the living process is being ended, in EVICTING.
        killed: SIGKILL was sent already, in EVICTING, STOPPING and UNLOADING.
        waking: It was asked to wake and is not ready yet; in UNLOADING: it is to start again at
            once. Never in a phase outside `MAY_WAKE`.
        short: The last try to make a process met a shortage, in BACKOFF and STARTING.
        not_before_s: After a wake that failed: when the next may start a process, in SLEEPING.
        known_props: What the last process that was ready said about itself.
    """

    settings: SupervisorSettings = field(default_factory=SupervisorSettings)
    phase: Phase = Phase.STOPPED
    since_s: float = 0.0
    alarm_s: float | None = None
    generation: int = 0
    live: int | None = None
    pid: int | None = None
    props: EngineProps | None = None
    ready_ever: bool = False
    restarts: int = 0
    streak: int = 0
    deaths: tuple[float, ...] = ()
    load_timeouts: int = 0
    last_exit: ExitReport | None = None
    failure: Failure | None = None
    died: int = 0
    evicted_for: ExitCause | None = None
    killed: bool = False
    waking: bool = False
    short: bool = False
    not_before_s: float | None = None
    known_props: EngineProps | None = None

    @property
    def state(self) -> EngineState:
        """The phase as others see it."""
        return _SHOWN_AS.get(self.phase) or EngineState(self.phase.value)

    @property
    def at_rest(self) -> bool:
        """No process is left and none will come without being asked for."""
        resting = (Phase.STOPPED, Phase.FAILED, Phase.SLEEPING)
        return self.phase in resting and self.live is None

    @property
    def next_start_s(self) -> float | None:
        """When the next process may be, or will be, made; None where nothing waits for a time."""
        return self.alarm_s if self.phase is Phase.BACKOFF else self.not_before_s

    def is_due(self, now: float) -> bool:
        """Tell whether the alarm, if any is set, should have rung at *now*."""
        return self.alarm_s is not None and now >= self.alarm_s

    def __repr__(self) -> str:
        return f"<Machine {self.phase.name} generation={self.generation} restarts={self.restarts}>"


def snapshot_of(machine: Machine, output_tail: tuple[str, ...] = ()) -> EngineSnapshot:
    """Give the view of *machine* that others may have."""
    return EngineSnapshot(
        state=machine.state,
        since_s=machine.since_s,
        pid=machine.pid,
        restarts=machine.restarts,
        last_exit=str(machine.last_exit) if machine.last_exit else None,
        ready_ever=machine.ready_ever,
        generation=machine.generation,
        props=machine.props,
        next_start_s=machine.next_start_s,
        output_tail=output_tail,
        failure=machine.failure,
        waking=machine.waking,
        deaths=machine.died,
    )
