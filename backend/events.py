"""PURE: what may happen to the engine process, and what may be done about it.

Events go into `backend.states.advance`, actions come out of it.
"""

from dataclasses import dataclass

from backend.exits import ExitCause, ExitReport
from backend.status import EngineProps


@dataclass(frozen=True, slots=True)
class StartAsked:
    """Someone wants the engine up."""


@dataclass(frozen=True, slots=True)
class StopAsked:
    """Someone wants the engine down. Its upstream connections are closed already."""


@dataclass(frozen=True, slots=True)
class UnloadAsked:
    """Nobody needs the engine now: its memory is to be given back until it is asked to wake."""


@dataclass(frozen=True, slots=True)
class WakeAsked:
    """Someone needs an engine that sleeps."""


@dataclass(frozen=True, slots=True)
class AlarmRang:
    """The time in `Machine.alarm_s` has come."""


@dataclass(frozen=True, slots=True)
class Spawned:
    """The process exists."""

    generation: int
    pid: int


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """
    The process could not be made.

    Attributes:
        roll: Random number in [0, 1) for the jitter.
        shortage: For want of something that comes back (descriptors, memory, processes).
    """

    generation: int
    report: ExitReport
    roll: float
    shortage: bool = False


@dataclass(frozen=True, slots=True)
class ProbePassed:
    """It serves, and it is ours."""

    generation: int
    props: EngineProps


@dataclass(frozen=True, slots=True)
class ProbeNotYet:
    """It does not serve yet."""

    generation: int


@dataclass(frozen=True, slots=True)
class Served:
    """A request was answered in full: deaths before it do not count towards giving up."""

    generation: int


@dataclass(frozen=True, slots=True)
class Exited:
    """The process is gone and reaped. *roll* is a random number in [0, 1) for the jitter."""

    generation: int
    report: ExitReport
    roll: float


@dataclass(frozen=True, slots=True)
class EvictAsked:
    """It lives but is of no use any more; only a fresh process can help."""

    generation: int
    cause: ExitCause


ProcessEvent = Spawned | SpawnFailed | ProbePassed | ProbeNotYet | Served | Exited | EvictAsked
Event = StartAsked | StopAsked | UnloadAsked | WakeAsked | AlarmRang | ProcessEvent


# --- actions ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spawn:
    """Make the process of this generation; answer with Spawned or SpawnFailed."""

    generation: int


@dataclass(frozen=True, slots=True)
class Signal:
    """Send *signum* to the whole process group."""

    signum: int


@dataclass(frozen=True, slots=True)
class Probe:
    """After *delay_s* ask once whether it serves; answer with ProbePassed or ProbeNotYet."""

    generation: int
    delay_s: float


@dataclass(frozen=True, slots=True)
class Tidy:
    """No process is left: remove its socket file and its pid file."""


Action = Spawn | Signal | Probe | Tidy
