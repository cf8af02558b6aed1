"""Sleep, waking and stuck engines, with real child processes."""

import os
import signal
import sys
import textwrap
from dataclasses import replace

import pytest

from backend.exits import ExitCause
from backend.rundir import RunDir
from backend.status import EngineState
from tests.support.supervised import LIMIT_S, QUICK, Engine, is_gone, mock_command


def second_start_fails(command, folder, then=()):
    """The mock, but its second start ends at once; from the third on with more arguments."""
    program = """
        import os, sys
        from pathlib import Path
        starts = Path(sys.argv[1])
        number = len(starts.read_text()) + 1 if starts.exists() else 1
        starts.write_text("x" * number)
        then = sys.argv[2].split()
        more = ["--fail-load"] if number == 2 else then if number > 2 else []
        os.execv(sys.argv[3], [*sys.argv[3:], *more])
    """
    wrapper = (sys.executable, "-c", textwrap.dedent(program), str(folder / "starts"))
    return replace(command, argv=(*wrapper, " ".join(then), *command.argv))


def test_unloading_frees_the_process_and_a_wake_brings_another(run, run_dir):
    async def scenario():
        async with Engine(run_dir) as engine:
            first = await engine.until(EngineState.READY)
            pidfd = os.pidfd_open(first.pid)
            engine.supervisor.unload()
            asleep = await engine.asleep()
            left = (is_gone(pidfd, 0), list(run_dir.iterdir()))
            engine.supervisor.wake()
            second = await engine.until(EngineState.READY, generation=2)
            assert await engine.get("/health") == {"status": "ok"}
            os.close(pidfd)
        return first, asleep, left, second, engine

    first, asleep, left, second, engine = run(scenario())
    assert left == (True, [])
    assert asleep.last_exit == "clean (exit code 0)"
    assert (second.generation, second.restarts, second.deaths) == (2, 0, 0)
    assert second.pid != first.pid
    assert [(each.state, each.waking) for each in engine.seen if each.generation == 2][:3] == [
        (EngineState.STARTING, True),
        (EngineState.LOADING, True),
        (EngineState.READY, False),
    ]


def test_an_engine_that_ignores_the_unload_costs_the_grace(run, run_dir):
    settings = replace(QUICK, stop_grace_s=0.2)

    async def scenario():
        async with Engine(run_dir, settings=settings, ignore_sigterm=True) as engine:
            await engine.until(EngineState.READY)
            engine.supervisor.unload()
            return await engine.asleep()

    assert run(scenario()).last_exit == "signal (SIGKILL)"


def test_a_wake_during_the_unload_is_not_lost(run, run_dir):
    async def scenario():
        async with Engine(run_dir) as engine:
            await engine.until(EngineState.READY)
            engine.supervisor.unload()
            engine.supervisor.wake()
            await engine.until(EngineState.READY, generation=2)
            assert await engine.get("/health") == {"status": "ok"}

    run(scenario())


def test_unload_and_wake_at_any_other_time_are_nothing(run, run_dir):
    async def scenario():
        engine = Engine(run_dir, load_s=0.1)
        engine.supervisor.unload()
        engine.supervisor.wake()
        async with engine:
            for state in (EngineState.LOADING, EngineState.READY):
                await engine.until(state)
                engine.supervisor.wake()
                engine.supervisor.evict(0, ExitCause.WEDGE)
                if state is EngineState.LOADING:
                    engine.supervisor.unload()
                    engine.supervisor.evict(1, ExitCause.WEDGE)
                    engine.supervisor.note_served()
        engine.supervisor.wake()
        return engine

    last = run(scenario()).seen[-1]
    assert (last.state, last.generation) == (EngineState.STOPPED, 1)


def test_a_wake_that_fails_leads_back_to_sleep_and_the_next_one_works(run, run_dir, tmp_path):
    async def scenario():
        command = second_start_fails(mock_command(RunDir(run_dir).address), tmp_path)
        async with Engine(run_dir, command=command) as engine:
            await engine.until(EngineState.READY)
            engine.supervisor.unload()
            await engine.asleep()
            engine.supervisor.wake()
            failed = await engine.asleep(generation=2)
            assert list(run_dir.iterdir()) == []
            engine.supervisor.wake()
            return failed, await engine.until(EngineState.READY, generation=3)

    failed, third = run(scenario())
    assert failed.last_exit == "load_error (exit code 1)"
    assert (failed.deaths, failed.waking) == (1, False)
    assert any("failed to load model" in line for line in failed.output_tail)
    assert (third.deaths, third.restarts) == (1, 0)


def test_a_stop_while_asleep_leaves_nothing_behind(run, run_dir):
    async def scenario():
        async with Engine(run_dir) as engine:
            await engine.until(EngineState.READY)
            engine.supervisor.unload()
            await engine.asleep()
        return engine

    assert run(scenario()).supervisor.snapshot.state is EngineState.STOPPED
    assert list(run_dir.iterdir()) == []


@pytest.mark.parametrize("cause", [ExitCause.WEDGE, ExitCause.SIGNAL])
def test_an_evicted_engine_is_killed_within_its_grace_and_replaced(run, run_dir, cause):
    """One that is stopped does not even see the SIGTERM."""
    settings = replace(QUICK, evict_grace_s=0.2, stop_grace_s=LIMIT_S)

    async def scenario():
        async with Engine(run_dir, settings=settings) as engine:
            first = await engine.until(EngineState.READY)
            os.kill(first.pid, signal.SIGSTOP)
            engine.supervisor.evict(first.generation, cause)
            second = await engine.until(EngineState.READY, generation=2)
            engine.supervisor.evict(first.generation, cause)
            assert await engine.get("/health") == {"status": "ok"}
            return second

    second = run(scenario())
    assert second.last_exit == f"{cause} (SIGKILL)"
    assert (second.generation, second.restarts, second.deaths) == (2, 1, 1)


def test_an_engine_that_comes_back_different_is_named_in_the_log(run, run_dir, tmp_path, caplog):
    async def scenario():
        command = mock_command(RunDir(run_dir).address)
        command = second_start_fails(command, tmp_path, then=("--parallel", "1"))
        async with Engine(run_dir, command=command) as engine:
            first = await engine.until(EngineState.READY)
            os.kill(first.pid, signal.SIGKILL)
            third = await engine.until(EngineState.READY, generation=3)
            assert third.props.slots == 1

    run(scenario())
    expected = "engine came back different: slots 2 -> 1, context_tokens 512 -> 1024"
    assert expected in caplog.text


def test_the_last_lines_of_a_dead_engine_are_at_hand_until_the_next_one(run, run_dir):
    settings = replace(QUICK, backoff_first_s=60)

    async def scenario():
        async with Engine(run_dir, settings=settings) as engine:
            for generation in (1, 2):
                ready = await engine.until(EngineState.READY, generation)
                os.kill(ready.pid, signal.SIGKILL)
            return await engine.until(EngineState.RESTARTING, generation=2)

    assert any("model loaded" in line for line in run(scenario()).output_tail)
