"""A script of events for the engine's table, and what the scripts share."""

import signal

from backend.events import (
    AlarmRang,
    EvictAsked,
    Exited,
    ProbeNotYet,
    ProbePassed,
    Served,
    Spawned,
    SpawnFailed,
    StartAsked,
    StopAsked,
    UnloadAsked,
    WakeAsked,
)
from backend.exits import ExitCause, ExitReport
from backend.states import (
    EngineProps,
    Machine,
    Phase,
    SupervisorSettings,
    advance,
)

SETTINGS = SupervisorSettings(
    load_timeout_s=100,
    stop_grace_s=10,
    evict_grace_s=3,
    reap_timeout_s=5,
    backoff_first_s=1,
    backoff_cap_s=60,
    jitter=0.2,
    crash_budget=5,
    crash_window_s=300,
    settled_after_s=600,
    probe_interval_s=0.5,
)
PROPS = EngineProps(slots=2, context_tokens=512)
CRASH = ExitReport(ExitCause.SEGV, -signal.SIGSEGV)
CLEAN = ExitReport(ExitCause.CLEAN, 0)
EVEN = 0.5  # the roll that adds no jitter


class Script:
    """Feeds events one by one and remembers what the machine wanted done."""

    def __init__(self):
        self.machine = Machine(settings=SETTINGS)
        self.actions = ()

    def __call__(self, event, now=0.0):
        self.machine, self.actions = advance(self.machine, event, now)
        return self.actions

    @property
    def phase(self):
        return self.machine.phase

    def spawned(self, now=0.0):
        return self(Spawned(self.machine.generation, 4242), now)

    def ready(self, now=0.0):
        return self(ProbePassed(self.machine.generation, PROPS), now)

    def crashed(self, now=0.0, roll=EVEN):
        return self(Exited(self.machine.generation, CRASH, roll), now)

    def exited(self, now=0.0):
        return self(Exited(self.machine.generation, CLEAN, EVEN), now)


def crash_loop(script, count, at_s):
    for _ in range(count):
        script.crashed(at_s)
        if script.phase is Phase.FAILED:
            return
        at_s = script.machine.alarm_s
        script(AlarmRang(), at_s)
        script.spawned(at_s)


def events_of(generation, roll=0.9):
    """One of each kind."""
    return {
        StartAsked: StartAsked(),
        StopAsked: StopAsked(),
        UnloadAsked: UnloadAsked(),
        WakeAsked: WakeAsked(),
        AlarmRang: AlarmRang(),
        Spawned: Spawned(generation, 1),
        SpawnFailed: SpawnFailed(generation, CRASH, roll),
        ProbePassed: ProbePassed(generation, PROPS),
        ProbeNotYet: ProbeNotYet(generation),
        Served: Served(generation),
        EvictAsked: EvictAsked(generation, ExitCause.WEDGE),
        Exited: Exited(generation, CRASH, roll),
    }
