"""The table's rows about sleep and about stuck engines."""

import signal
from dataclasses import replace

from backend.events import (
    AlarmRang,
    EvictAsked,
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
    EngineState,
    Failure,
    Phase,
    snapshot_of,
)
from tests.support.machine_script import EVEN, PROPS, crash_loop

WEDGE = ExitCause.WEDGE

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


def test_a_wake_that_meets_a_shortage_goes_on_trying(asleep):
    asleep(WakeAsked(), 20.0)
    report = ExitReport(ExitCause.LOAD_ERROR, 127)
    for second in range(20, 40):
        failed = SpawnFailed(asleep.machine.generation, report, EVEN, shortage=True)
        assert asleep(failed, second) == (Tidy(),)
        shown = snapshot_of(asleep.machine)
        assert (shown.state, shown.waking) == (EngineState.RESTARTING, True)
        assert shown.next_start_s == second + 1
        assert asleep(AlarmRang(), second + 1) == (Spawn(asleep.machine.generation),)
    asleep.spawned(40.0)
    asleep.ready(41.0)
    machine = asleep.machine
    assert (machine.phase, machine.restarts, machine.died) == (Phase.READY, 0, 0)


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
    assert asleep(EvictAsked(1, WEDGE), 12.0) == ()
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
    assert ready(EvictAsked(1, WEDGE), 20.0) == (Signal(signal.SIGTERM),)
    assert ready.phase is Phase.EVICTING
    assert ready.machine.state is EngineState.RESTARTING
    assert ready.machine.evicted_for is ExitCause.WEDGE
    assert ready(EvictAsked(1, WEDGE), 21.0) == ()
    assert ready(UnloadAsked(), 21.0) == ()
    assert ready(AlarmRang(), 23.0) == (Signal(signal.SIGKILL),)
    assert ready.crashed(23.1) == (Tidy(),)
    assert ready.phase is Phase.BACKOFF
    assert (ready.machine.died, ready.machine.streak) == (1, 1)
    assert ready(AlarmRang(), 23.1) == (Spawn(2),)


def test_an_engine_that_was_told_to_end_from_outside_is_replaced_for_that_reason(ready):
    assert ready(EvictAsked(1, ExitCause.SIGNAL), 20.0) == (Signal(signal.SIGTERM),)
    assert ready.machine.evicted_for is ExitCause.SIGNAL
    assert ready(EvictAsked(1, WEDGE), 21.0) == ()
    assert ready.machine.evicted_for is ExitCause.SIGNAL
    ready.exited(22.0)
    assert ready.phase is Phase.BACKOFF
    assert ready(AlarmRang(), 22.0) == (Spawn(2),)


def test_a_stuck_engine_that_nothing_can_kill_is_a_failure(ready):
    ready(EvictAsked(1, WEDGE), 20.0)
    ready(AlarmRang(), 23.0)
    ready(AlarmRang(), 28.0)
    assert ready.machine.failure is Failure.NOT_REAPED


def test_a_request_served_beside_the_stuck_one_counts(loading):
    crash_loop(loading, 4, 0.0)
    loading.ready(10.0)
    generation = loading.machine.generation
    loading(EvictAsked(generation, WEDGE), 20.0)
    loading(Served(generation), 20.0)
    loading.crashed(21.0)
    assert loading.phase is Phase.BACKOFF


def test_an_engine_that_is_not_ready_is_not_stuck(script):
    script(StartAsked())
    assert script(EvictAsked(1, WEDGE), 0.0) == ()
    script.spawned()
    assert script(EvictAsked(1, WEDGE), 0.0) == ()
    assert script.phase is Phase.LOADING


def test_the_word_about_an_earlier_process_does_not_end_this_one(waking):
    before = waking.machine
    assert waking(EvictAsked(1, WEDGE), 21.0) == ()
    assert waking.machine == before


# --- what it says about itself ----------------------------------------------------------------


def test_what_the_last_engine_said_is_known_while_there_is_none(asleep):
    assert asleep.machine.props is None
    assert asleep.machine.known_props == PROPS


def test_changes_of_the_engine_are_named():
    other = replace(PROPS, slots=1, vision=True)
    assert PROPS.changes_to(other) == ("slots 2 -> 1", "vision False -> True")
    assert PROPS.changes_to(PROPS) == ()
