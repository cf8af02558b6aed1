import random
import signal
from dataclasses import replace

import pytest

from backend.events import (
    AlarmRang,
    Exited,
    Probe,
    ProbeNotYet,
    ProbePassed,
    Served,
    Signal,
    Spawn,
    Spawned,
    SpawnFailed,
    StartAsked,
    StopAsked,
    Tidy,
    UnloadAsked,
    WakeAsked,
    WedgeSeen,
)
from backend.exits import ExitCause, ExitFacts, ExitReport, classify, describe
from backend.states import (
    TABLE,
    EngineProps,
    EngineState,
    Failure,
    IllegalTransition,
    Machine,
    Phase,
    SupervisorSettings,
    advance,
    backoff_s,
    snapshot_of,
)

SETTINGS = SupervisorSettings(
    load_timeout_s=100,
    stop_grace_s=10,
    wedge_grace_s=3,
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


@pytest.fixture
def script():
    return Script()


@pytest.fixture
def loading(script):
    script(StartAsked())
    script.spawned()
    return script


@pytest.fixture
def ready(loading):
    loading.ready()
    return loading


@pytest.fixture
def asleep(ready):
    ready(UnloadAsked(), 10.0)
    ready.exited(11.0)
    return ready


@pytest.fixture
def waking(asleep):
    asleep(WakeAsked(), 20.0)
    asleep.spawned(20.0)
    return asleep


def test_the_way_to_ready(script):
    assert script(StartAsked(), 1.0) == (Spawn(1),)
    assert script.machine.state is EngineState.STARTING
    assert script.spawned(1.1) == (Probe(1, 0.0),)
    assert script.machine.state is EngineState.LOADING
    assert script(ProbeNotYet(1), 1.2) == (Probe(1, 0.5),)
    assert script.ready(3.0) == ()
    snapshot = snapshot_of(script.machine, ("last line",))
    assert snapshot.state is EngineState.READY
    assert snapshot.since_s == 3.0
    assert (snapshot.pid, snapshot.generation, snapshot.restarts) == (4242, 1, 0)
    assert snapshot.props == PROPS
    assert snapshot.ready_ever
    assert snapshot.output_tail == ("last line",)


def test_an_event_without_an_entry_names_state_and_event(loading):
    with pytest.raises(IllegalTransition, match="StartAsked cannot happen in LOADING"):
        loading(StartAsked())


def test_every_entry_of_the_table_gives_a_state(script):
    """No rule may raise, whatever the numbers: the owner of the machine would die with it."""
    events = events_of(7)
    for phase, kind in TABLE:
        machine = Machine(settings=SETTINGS, phase=phase, generation=7, live=7, alarm_s=0.0)
        after, _ = advance(machine, events[kind], 1.0)
        assert isinstance(after.state, EngineState)


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
        WedgeSeen: WedgeSeen(generation),
        Exited: Exited(generation, CRASH, roll),
    }


LIVING = (Phase.LOADING, Phase.READY, Phase.EVICTING, Phase.UNLOADING, Phase.STOPPING)


def test_every_living_phase_can_be_stopped_and_survives_a_death():
    assert all((phase, Exited) in TABLE for phase in (*LIVING, Phase.FAILED))
    assert all((phase, StopAsked) in TABLE for phase in Phase)


def test_sleep_and_waking_can_be_asked_for_in_every_phase():
    assert all((phase, kind) in TABLE for phase in Phase for kind in (UnloadAsked, WakeAsked))


@pytest.mark.parametrize("seed", range(50))
def test_no_order_of_events_breaks_what_always_holds(seed):
    """Whatever the table allows, at any time: one process at most, and an alarm while one ends."""
    chance = random.Random(seed)
    machine, now = Machine(settings=SETTINGS), 0.0
    for _ in range(400):
        now += chance.choice((0.0, 0.1, 3.0, 50.0))
        possible = [kind for phase, kind in TABLE if phase is machine.phase]
        event = events_of(machine.generation, chance.random())[chance.choice(possible)]
        before = machine
        machine, actions = advance(before, event, now)
        check(before, machine, actions)


def check(before, after, actions):
    spawns = [action for action in actions if isinstance(action, Spawn)]
    assert not spawns or (before.live is None or type(actions[0]) is Tidy)
    assert len(spawns) == after.generation - before.generation <= 1
    if after.phase in (Phase.EVICTING, Phase.UNLOADING, Phase.BACKOFF, Phase.LOADING):
        assert after.alarm_s is not None
    if after.phase in (Phase.SLEEPING, Phase.BACKOFF, Phase.STOPPED):
        assert after.live is None
    if after.phase in (Phase.SLEEPING, Phase.STOPPED, Phase.FAILED):
        assert after.alarm_s is None
    assert after.restarts >= before.restarts
    assert after.died >= before.died
    shown = snapshot_of(after)
    assert not (shown.waking and shown.state in (EngineState.READY, EngineState.STOPPED))
    assert (shown.next_start_s is not None) <= (after.phase in (Phase.BACKOFF, Phase.SLEEPING))


def test_late_answers_of_a_dead_process_change_nothing(ready):
    ready.crashed(10.0)
    ready(AlarmRang(), 10.0)
    before = ready.machine
    assert ready(ProbePassed(1, PROPS), 10.0) == ()
    assert ready(Served(1), 10.0) == ()
    assert ready(Exited(1, CRASH, EVEN), 10.0) == ()
    assert ready.machine == before


def test_an_alarm_that_is_not_due_is_dropped(loading):
    before = loading.machine
    assert loading(AlarmRang(), 99.9) == ()
    assert loading.machine == before


def test_a_crash_is_followed_by_a_restart_at_once(ready):
    assert ready.crashed(50.0) == (Tidy(),)
    assert ready.machine.state is EngineState.RESTARTING
    assert ready.machine.alarm_s == 50.0
    assert ready(AlarmRang(), 50.0) == (Spawn(2),)
    snapshot = snapshot_of(ready.machine)
    assert snapshot.restarts == 1
    assert snapshot.last_exit == "segv (SIGSEGV)"
    assert snapshot.props is None


def test_waits_grow_and_are_bounded():
    waits = [backoff_s(SETTINGS, streak, EVEN) for streak in range(1, 11)]
    assert waits == [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert backoff_s(SETTINGS, 5000, EVEN) == 60


def test_jitter_stays_within_its_share():
    assert backoff_s(SETTINGS, 3, 0.0) == pytest.approx(1.6)
    assert backoff_s(SETTINGS, 3, 0.999999) == pytest.approx(2.4, rel=1e-4)


def crash_loop(script, count, at_s):
    for _ in range(count):
        script.crashed(at_s)
        if script.phase is Phase.FAILED:
            return
        at_s = script.machine.alarm_s
        script(AlarmRang(), at_s)
        script.spawned(at_s)


def test_a_crash_loop_ends_in_failed(loading):
    crash_loop(loading, 4, 0.0)
    assert loading.phase is Phase.LOADING
    crash_loop(loading, 1, 8.0)
    assert loading.phase is Phase.FAILED
    assert loading.machine.failure is Failure.CRASH_LOOP
    assert loading.machine.at_rest
    assert loading.machine.alarm_s is None


def test_a_served_request_clears_the_crash_budget_but_not_the_wait(loading):
    crash_loop(loading, 4, 0.0)
    loading.ready(10.0)
    loading(Served(loading.machine.generation), 11.0)
    loading.crashed(12.0)
    assert loading.phase is Phase.BACKOFF
    assert loading.machine.alarm_s == 12.0 + 8


def test_old_deaths_do_not_count(loading):
    crash_loop(loading, 4, 0.0)
    loading.crashed(400.0)
    assert loading.phase is Phase.BACKOFF


def test_quiet_service_forgets_earlier_restarts(loading):
    crash_loop(loading, 3, 0.0)
    loading.ready(10.0)
    assert loading.machine.alarm_s == 610.0
    loading(AlarmRang(), 610.0)
    assert loading.phase is Phase.READY
    loading.crashed(700.0)
    assert loading.machine.alarm_s == 700.0


def test_a_load_that_takes_too_long_is_killed_and_tried_once_more(loading):
    assert loading(AlarmRang(), 100.0) == (Signal(signal.SIGKILL),)
    assert loading.machine.state is EngineState.RESTARTING
    loading(ProbeNotYet(1), 100.0)
    loading.crashed(100.1)
    loading(AlarmRang(), 100.1)
    loading.spawned(100.1)
    loading(AlarmRang(), 200.1)
    loading.crashed(200.2)
    assert loading.phase is Phase.FAILED
    assert loading.machine.failure is Failure.LOAD_TIMEOUT


def test_a_load_that_succeeds_forgives_one_that_did_not(loading):
    loading(AlarmRang(), 100.0)
    loading.crashed(100.0)
    loading(AlarmRang(), 100.0)
    loading.spawned(100.0)
    loading.ready(101.0)
    assert loading.machine.load_timeouts == 0


def test_a_process_that_cannot_be_made_counts_as_a_death(script):
    script(StartAsked())
    report = ExitReport(ExitCause.LOAD_ERROR, 127)
    assert script(SpawnFailed(1, report, EVEN)) == (Tidy(),)
    assert script.phase is Phase.BACKOFF


def test_an_orderly_stop(ready):
    assert ready(StopAsked(), 20.0) == (Signal(signal.SIGTERM),)
    assert ready.machine.state is EngineState.STOPPING
    assert ready(StopAsked(), 21.0) == ()
    assert ready.exited(22.0) == (Tidy(),)
    assert ready.machine.state is EngineState.STOPPED
    assert ready.machine.at_rest
    assert ready(StopAsked(), 23.0) == ()


def test_a_process_that_ignores_sigterm_costs_the_grace_and_no_more(ready):
    ready(StopAsked(), 20.0)
    assert ready(AlarmRang(), 30.0) == (Signal(signal.SIGKILL),)
    ready.crashed(30.1)
    assert ready.machine.state is EngineState.STOPPED


def test_a_process_that_survives_sigkill_is_given_up_and_still_watched(ready):
    ready(StopAsked(), 20.0)
    ready(AlarmRang(), 30.0)
    ready(AlarmRang(), 35.0)
    assert ready.machine.state is EngineState.FAILED
    assert ready.machine.failure is Failure.NOT_REAPED
    assert not ready.machine.at_rest
    assert ready.crashed(90.0) == (Tidy(),)
    assert ready.machine.at_rest
    assert ready.machine.state is EngineState.FAILED


def test_a_stop_during_the_wait_starts_nothing(ready):
    ready.crashed(10.0)
    assert ready(StopAsked(), 10.0) == (Tidy(),)
    assert ready.machine.state is EngineState.STOPPED
    assert ready.machine.alarm_s is None


def test_a_stop_during_the_spawn_ends_the_newborn(script):
    script(StartAsked())
    assert script(StopAsked()) == ()
    assert script.spawned(1.0) == (Signal(signal.SIGTERM),)
    assert script.machine.alarm_s == 11.0
    script.exited(2.0)
    assert script.machine.state is EngineState.STOPPED


def test_a_stop_while_being_killed_means_no_restart(loading):
    loading(AlarmRang(), 100.0)
    assert loading(StopAsked(), 100.0) == ()
    loading.crashed(101.0)
    assert loading.machine.state is EngineState.STOPPED


def test_a_stopped_engine_can_be_started_again(ready):
    ready(StopAsked(), 1.0)
    ready.exited(2.0)
    assert ready(StartAsked(), 3.0) == (Spawn(2),)
    assert ready.machine.restarts == 0


def test_a_stop_does_not_forget_how_often_it_was_restarted(ready):
    ready.crashed(1.0)
    ready(AlarmRang(), 1.0)
    ready.spawned(1.0)
    ready(StopAsked(), 2.0)
    ready.exited(3.0)
    ready(StartAsked(), 4.0)
    assert (ready.machine.restarts, ready.machine.died) == (1, 1)


# --- sleep ------------------------------------------------------------------------------------


def test_unloading_ends_the_process_and_starts_no_other(ready):
    assert ready(UnloadAsked(), 20.0) == (Signal(signal.SIGTERM),)
    assert ready.phase is Phase.UNLOADING
    assert ready.machine.state is EngineState.SLEEPING
    assert not ready.machine.at_rest
    assert ready(UnloadAsked(), 21.0) == ()
    assert ready.exited(22.0) == (Tidy(),)
    assert ready.phase is Phase.SLEEPING
    assert ready.machine.at_rest
    assert ready.machine.alarm_s is None
    shown = snapshot_of(ready.machine)
    assert (shown.pid, shown.props, shown.waking, shown.next_start_s) == (None, None, False, None)
    assert shown.last_exit == "clean (exit code 0)"
    assert shown.ready_ever


def test_an_unload_is_neither_a_death_nor_a_restart(asleep):
    asleep(WakeAsked(), 20.0)
    asleep.spawned(20.0)
    asleep.ready(25.0)
    machine = asleep.machine
    assert (machine.restarts, machine.died, machine.streak, machine.deaths) == (0, 0, 0, ())


def test_a_process_that_dies_of_the_unload_is_no_death_either(ready):
    ready(UnloadAsked(), 20.0)
    ready.crashed(21.0)
    assert ready.phase is Phase.SLEEPING
    assert ready.machine.died == 0
    assert snapshot_of(ready.machine).last_exit == "segv (SIGSEGV)"


def test_a_process_that_ignores_the_unload_is_killed_after_the_grace(ready):
    ready(UnloadAsked(), 20.0)
    assert ready(AlarmRang(), 29.9) == ()
    assert ready(AlarmRang(), 30.0) == (Signal(signal.SIGKILL),)
    ready.crashed(30.1)
    assert ready.phase is Phase.SLEEPING


def test_an_unload_that_cannot_be_completed_is_a_failure(ready):
    ready(UnloadAsked(), 20.0)
    ready(WakeAsked(), 20.0)
    ready(AlarmRang(), 30.0)
    ready(AlarmRang(), 35.0)
    assert ready.machine.failure is Failure.NOT_REAPED
    assert not snapshot_of(ready.machine).waking
    assert ready.crashed(90.0) == (Tidy(),)
    assert ready.machine.state is EngineState.FAILED


def test_a_wake_starts_the_engine(asleep):
    assert asleep(WakeAsked(), 20.0) == (Spawn(2),)
    assert snapshot_of(asleep.machine).waking
    assert asleep(WakeAsked(), 20.0) == ()
    asleep.spawned(20.1)
    assert asleep.machine.state is EngineState.LOADING
    assert asleep(WakeAsked(), 21.0) == ()
    assert snapshot_of(asleep.machine).waking
    asleep.ready(25.0)
    assert asleep.phase is Phase.READY
    assert not snapshot_of(asleep.machine).waking
    assert asleep(WakeAsked(), 26.0) == ()


def test_a_wake_while_unloading_waits_for_the_end_of_the_process(ready):
    ready(UnloadAsked(), 20.0)
    alarm_s = ready.machine.alarm_s
    assert ready(WakeAsked(), 21.0) == ()
    assert ready.machine.alarm_s == alarm_s
    assert snapshot_of(ready.machine).waking
    assert ready.exited(22.0) == (Tidy(), Spawn(2))
    shown = snapshot_of(ready.machine)
    assert (shown.state, shown.waking, shown.restarts) == (EngineState.STARTING, True, 0)


def test_a_served_request_counts_while_unloading_too(loading):
    crash_loop(loading, 4, 0.0)
    loading.ready(10.0)
    loading(UnloadAsked(), 11.0)
    assert loading(Served(loading.machine.generation), 11.0) == ()
    assert loading.machine.deaths == ()


def test_what_was_served_by_a_process_that_is_gone_changes_nothing(asleep):
    before = asleep.machine
    assert asleep(Served(1), 12.0) == ()
    assert asleep(WedgeSeen(1), 12.0) == ()
    assert asleep.machine == before


def test_unload_and_wake_reset_nothing(loading):
    """Or sleep would be a way around giving up."""
    crash_loop(loading, 4, 0.0)
    loading.ready(10.0)
    before = loading.machine
    loading(UnloadAsked(), 11.0)
    loading.exited(12.0)
    loading(WakeAsked(), 13.0)
    after = loading.machine
    assert (after.streak, after.deaths, after.restarts) == (4, before.deaths, before.restarts)
    loading.spawned(14.0)
    loading.crashed(15.0)
    assert loading.machine.failure is Failure.CRASH_LOOP


def test_a_stop_while_asleep(asleep):
    assert asleep(StopAsked(), 20.0) == (Tidy(),)
    assert asleep.machine.state is EngineState.STOPPED
    assert asleep(WakeAsked(), 21.0) == ()


def test_a_stop_while_unloading_neither_signals_again_nor_lengthens_the_grace(ready):
    ready(UnloadAsked(), 20.0)
    ready(WakeAsked(), 20.0)
    assert ready(StopAsked(), 25.0) == ()
    assert ready.phase is Phase.STOPPING
    assert not snapshot_of(ready.machine).waking
    assert ready(AlarmRang(), 30.0) == (Signal(signal.SIGKILL),)
    ready.crashed(30.1)
    assert ready.machine.state is EngineState.STOPPED


def test_a_stop_while_waking_means_no_wake(waking):
    assert waking(StopAsked(), 21.0) == (Signal(signal.SIGTERM),)
    assert not snapshot_of(waking.machine).waking
    waking.exited(22.0)
    assert waking.machine.state is EngineState.STOPPED


def test_a_wake_that_dies_leads_back_to_sleep_and_the_next_one_may_try(waking):
    assert waking.crashed(21.0) == (Tidy(),)
    assert waking.phase is Phase.SLEEPING
    shown = snapshot_of(waking.machine)
    assert (shown.waking, shown.deaths, shown.restarts) == (False, 1, 0)
    assert shown.last_exit == "segv (SIGSEGV)"
    assert shown.next_start_s == 21.0
    assert waking(WakeAsked(), 21.0) == (Spawn(3),)
    assert snapshot_of(waking.machine).next_start_s is None


def test_a_wake_soon_after_failed_ones_waits_for_its_moment(waking):
    waking.crashed(21.0)
    waking(WakeAsked(), 21.0)
    waking.spawned(21.0)
    waking.crashed(22.0)
    assert waking(WakeAsked(), 22.5) == ()
    shown = snapshot_of(waking.machine)
    assert (shown.state, shown.waking, shown.next_start_s) == (EngineState.RESTARTING, True, 23.0)
    assert waking(WakeAsked(), 22.6) == ()
    assert waking(AlarmRang(), 23.0) == (Spawn(4),)
    shown = snapshot_of(waking.machine)
    assert (shown.state, shown.waking, shown.restarts) == (EngineState.STARTING, True, 0)


def test_a_stop_while_a_wake_waits_starts_nothing(waking):
    for at_s in (21.0, 21.0):
        waking.crashed(at_s)
        waking(WakeAsked(), at_s)
        if waking.phase is Phase.STARTING:
            waking.spawned(at_s)
    assert waking.phase is Phase.BACKOFF
    assert waking(StopAsked(), 21.5) == (Tidy(),)
    assert not snapshot_of(waking.machine).waking


def test_a_wake_that_cannot_be_spawned_leads_back_to_sleep(asleep):
    asleep(WakeAsked(), 20.0)
    report = ExitReport(ExitCause.LOAD_ERROR, 127)
    assert asleep(SpawnFailed(2, report, EVEN), 20.0) == (Tidy(),)
    assert asleep.phase is Phase.SLEEPING
    assert asleep.machine.died == 1


def test_a_wake_that_takes_too_long_leads_back_to_sleep_once(waking):
    assert waking(AlarmRang(), 120.0) == (Signal(signal.SIGKILL),)
    assert snapshot_of(waking.machine).waking
    waking.crashed(120.1)
    assert waking.phase is Phase.SLEEPING
    waking(WakeAsked(), 130.0)
    waking.spawned(130.0)
    waking(AlarmRang(), 230.0)
    waking.crashed(230.1)
    assert waking.machine.failure is Failure.LOAD_TIMEOUT
    assert waking.machine.at_rest
    assert waking(WakeAsked(), 231.0) == ()


def test_wakes_that_die_again_and_again_end_in_failed(waking):
    for at_s in range(21, 21 + 5 * 10, 10):
        assert waking.phase is Phase.LOADING
        waking.crashed(at_s)
        waking(WakeAsked(), at_s + 9.9)
        if waking.phase is Phase.STARTING:
            waking.spawned(at_s + 9.9)
    assert waking.machine.failure is Failure.CRASH_LOOP
    assert not snapshot_of(waking.machine).waking


def test_a_crash_after_a_wake_is_a_crash_like_any_other(waking):
    waking.ready(25.0)
    waking.crashed(26.0)
    assert waking.phase is Phase.BACKOFF
    assert not snapshot_of(waking.machine).waking
    waking(AlarmRang(), 26.0)
    assert waking.machine.restarts == 1


# --- a stuck engine ---------------------------------------------------------------------------


def test_a_stuck_engine_is_asked_then_killed_then_replaced(ready):
    assert ready(WedgeSeen(1), 20.0) == (Signal(signal.SIGTERM),)
    assert ready.phase is Phase.EVICTING
    assert ready.machine.state is EngineState.RESTARTING
    assert ready.machine.evicted_for is ExitCause.WEDGE
    assert ready(WedgeSeen(1), 21.0) == ()
    assert ready(UnloadAsked(), 21.0) == ()
    assert ready(AlarmRang(), 23.0) == (Signal(signal.SIGKILL),)
    assert ready.crashed(23.1) == (Tidy(),)
    assert ready.phase is Phase.BACKOFF
    assert (ready.machine.died, ready.machine.streak) == (1, 1)
    assert ready(AlarmRang(), 23.1) == (Spawn(2),)


def test_a_stuck_engine_that_nothing_can_kill_is_a_failure(ready):
    ready(WedgeSeen(1), 20.0)
    ready(AlarmRang(), 23.0)
    ready(AlarmRang(), 28.0)
    assert ready.machine.failure is Failure.NOT_REAPED


def test_a_request_served_beside_the_stuck_one_counts(loading):
    crash_loop(loading, 4, 0.0)
    loading.ready(10.0)
    generation = loading.machine.generation
    loading(WedgeSeen(generation), 20.0)
    loading(Served(generation), 20.0)
    loading.crashed(21.0)
    assert loading.phase is Phase.BACKOFF


def test_an_engine_that_is_not_ready_is_not_stuck(script):
    script(StartAsked())
    assert script(WedgeSeen(1), 0.0) == ()
    script.spawned()
    assert script(WedgeSeen(1), 0.0) == ()
    assert script.phase is Phase.LOADING


def test_the_word_about_an_earlier_process_does_not_end_this_one(waking):
    before = waking.machine
    assert waking(WedgeSeen(1), 21.0) == ()
    assert waking.machine == before


# --- what it says about itself ----------------------------------------------------------------


def test_what_the_last_engine_said_is_known_while_there_is_none(asleep):
    assert asleep.machine.props is None
    assert asleep.machine.known_props == PROPS


def test_changes_of_the_engine_are_named():
    other = replace(PROPS, slots=1, vision=True)
    assert PROPS.changes_to(other) == ("slots 2 -> 1", "vision False -> True")
    assert PROPS.changes_to(PROPS) == ()


def test_a_failed_engine_can_be_started_again_with_a_clean_slate(loading):
    crash_loop(loading, 5, 0.0)
    generation = loading.machine.generation
    assert loading(StartAsked(), 60.0) == (Spawn(generation + 1),)
    assert loading.machine.deaths == ()
    assert loading.machine.failure is None


def test_nothing_is_started_beside_a_process_that_cannot_be_killed(ready):
    ready(StopAsked(), 20.0)
    ready(AlarmRang(), 30.0)
    ready(AlarmRang(), 35.0)
    assert ready(StartAsked(), 40.0) == ()
    assert ready.machine.failure is Failure.NOT_REAPED


def test_snapshot_tells_when_the_next_start_is_due(ready):
    ready.crashed(10.0)
    assert snapshot_of(ready.machine).next_start_s == 10.0
    ready(AlarmRang(), 10.0)
    assert snapshot_of(ready.machine).next_start_s is None


@pytest.mark.parametrize(
    ("facts", "cause"),
    [
        (ExitFacts(0), ExitCause.CLEAN),
        (ExitFacts(-11), ExitCause.SEGV),
        (ExitFacts(-6), ExitCause.ABORT),
        (ExitFacts(-9), ExitCause.OOM),
        (ExitFacts(-9, oom_kills=1), ExitCause.OOM),
        (ExitFacts(-9, oom_kills=0), ExitCause.KILLED),
        (ExitFacts(-11, oom_kills=0), ExitCause.SEGV),
        (ExitFacts(-9, signals_sent=frozenset({9}), oom_kills=1), ExitCause.SIGNAL),
        (ExitFacts(-9, signals_sent=frozenset({9})), ExitCause.SIGNAL),
        (ExitFacts(-15, signals_sent=frozenset({15})), ExitCause.SIGNAL),
        (ExitFacts(-15), ExitCause.SIGNAL),
        (ExitFacts(-11, oom_kills=1), ExitCause.OOM),
        (ExitFacts(1), ExitCause.LOAD_ERROR),
        (ExitFacts(127), ExitCause.LOAD_ERROR),
        (ExitFacts(1, last_lines=("couldn't bind HTTP server socket",)), ExitCause.PORT_IN_USE),
        (ExitFacts(1, was_ready=True), ExitCause.ERROR),
        (ExitFacts(-9, evicted_for=ExitCause.LOAD_TIMEOUT), ExitCause.LOAD_TIMEOUT),
        (ExitFacts(-40), ExitCause.SIGNAL),
    ],
)
def test_causes_of_death_are_told_apart(facts, cause):
    assert classify(facts).cause is cause


def test_exit_status_in_words():
    assert [describe(code) for code in (0, 70, -9, -63)] == [
        "exit code 0",
        "exit code 70",
        "SIGKILL",
        "signal 63",
    ]
