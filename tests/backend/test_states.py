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
    SpawnFailed,
    StartAsked,
    StopAsked,
    Tidy,
    UnloadAsked,
    WakeAsked,
)
from backend.exits import ExitCause, ExitReport
from backend.states import (
    TABLE,
    EngineState,
    Failure,
    IllegalTransition,
    Machine,
    Phase,
    advance,
    backoff_s,
    snapshot_of,
)
from tests.support.machine_script import (
    CRASH,
    EVEN,
    PROPS,
    SETTINGS,
    crash_loop,
    events_of,
)


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
        if isinstance(event, SpawnFailed):
            event = replace(event, shortage=chance.random() < 0.5)
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
    assert not after.short or after.phase in (Phase.BACKOFF, Phase.STARTING)
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


def without_room(script, now):
    """The process that was just asked for cannot be made for want of descriptors or memory."""
    report = ExitReport(ExitCause.LOAD_ERROR, 127)
    return script(SpawnFailed(script.machine.generation, report, EVEN, shortage=True), now)


def test_a_shortage_of_any_length_is_no_death(ready):
    ready.crashed(10.0)
    now = 10.0
    for _ in range(1000):
        assert type(ready(AlarmRang(), now)[0]) is Spawn
        assert without_room(ready, now) == (Tidy(),)
        assert ready.machine.state is EngineState.RESTARTING
        assert ready.machine.alarm_s == now + 1.0
        now += 1.0
    machine = ready.machine
    assert (machine.died, machine.streak, machine.restarts, machine.deaths) == (1, 1, 1, (10.0,))
    assert snapshot_of(machine).last_exit == "segv (SIGSEGV)"
    ready(AlarmRang(), now)
    ready.spawned(now)
    assert not ready.machine.short
    ready.ready(now)
    assert ready.machine.state is EngineState.READY


def test_a_shortage_does_not_forget_the_deaths_before_it(loading):
    crash_loop(loading, 3, 0.0)
    loading.crashed(10.0)
    loading(AlarmRang(), loading.machine.alarm_s)
    without_room(loading, 20.0)
    loading(AlarmRang(), 21.0)
    loading.spawned(21.0)
    loading.crashed(22.0)
    assert loading.machine.failure is Failure.CRASH_LOOP


def test_the_wait_in_a_shortage_has_jitter(script):
    script(StartAsked())
    script(SpawnFailed(1, ExitReport(ExitCause.LOAD_ERROR, 127), 0.0, shortage=True), 5.0)
    assert script.machine.alarm_s == pytest.approx(5.8)


def test_a_stop_ends_the_wait_of_a_shortage(script):
    script(StartAsked())
    without_room(script, 1.0)
    assert script(StopAsked(), 1.5) == (Tidy(),)
    assert script.machine.state is EngineState.STOPPED
    assert not script.machine.short


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
