"""The supervisor with real child processes, on asyncio's loop and on uvloop's."""

import asyncio
import contextlib
import json
import logging
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from backend.address import UnixAddress
from backend.command import EngineCommand
from backend.exits import ExitCause
from backend.machine import SupervisorSettings
from backend.probe import ProbeLoading, ProbeReady, ProbeWrong
from backend.probe import probe as ask
from backend.rundir import RunDir, RunDirUnsafe
from backend.spare import SPAWN_DESCRIPTORS
from backend.status import EngineProps, EngineState, Failure
from tests.support.supervised import (
    KEY,
    QUICK,
    Engine,
    is_gone,
    python_command,
    socket_probe,
)


def pid_pipe(address):
    """A named pipe beside the socket; the pid that the engine's program writes into it."""
    pipe = Path(address.path + ".pid")
    os.mkfifo(pipe)

    async def read():
        return int(await asyncio.to_thread(pipe.read_text))

    return asyncio.ensure_future(read())


def test_an_engine_comes_up_serves_and_ends_properly(run, run_dir):
    async def scenario():
        async with Engine(run_dir) as engine:
            ready = await engine.until(EngineState.READY)
            assert (await engine.get("/health")) == {"status": "ok"}
            assert os.getpgid(ready.pid) == ready.pid
            assert os.getsid(ready.pid) == ready.pid
        return engine, ready

    engine, ready = run(scenario())
    assert [each.state for each in engine.seen] == [
        EngineState.STARTING,
        EngineState.LOADING,
        EngineState.READY,
        EngineState.STOPPING,
        EngineState.STOPPED,
    ]
    assert ready.props == EngineProps(
        slots=2,
        context_tokens=512,
        build="b1-mock",
        vocab_size=410,
        embedding_size=64,
        trained_context=8192,
    )
    assert engine.seen[-1].last_exit == "clean (exit code 0)"
    assert not engine.socket.exists()
    assert list(run_dir.iterdir()) == []


def test_key_is_in_no_argument_list_and_no_log(run, run_dir, caplog):
    caplog.set_level(logging.DEBUG)

    async def scenario():
        async with Engine(run_dir) as engine:
            ready = await engine.until(EngineState.READY)
            return Path(f"/proc/{ready.pid}/cmdline").read_bytes()

    assert KEY.encode() not in run(scenario())
    assert "engine: " in caplog.text
    assert KEY not in caplog.text


def test_socket_and_its_directory_are_private(run, run_dir):
    async def scenario():
        async with Engine(run_dir / "sub") as engine:
            await engine.until(EngineState.READY)
            return engine.socket.stat().st_mode, engine.socket.parent.stat().st_mode

    socket_mode, directory_mode = run(scenario())
    assert socket_mode & 0o077 == 0
    assert directory_mode & 0o777 == 0o700


def test_loading_is_told_from_ready(run, run_dir):
    async def scenario():
        async with Engine(run_dir, load_s=0.3) as engine:
            await engine.until(EngineState.LOADING)
            await engine.until(EngineState.READY)

    run(scenario())


def test_a_crash_is_noticed_and_the_engine_comes_back(run, run_dir):
    async def scenario():
        async with Engine(run_dir) as engine:
            first = await engine.until(EngineState.READY)
            os.kill(first.pid, signal.SIGSEGV)
            second = await engine.until(EngineState.READY, generation=2)
            return first, second, (await engine.get("/health"))

    first, second, health = run(scenario())
    assert health == {"status": "ok"}
    assert second.pid != first.pid
    assert second.restarts == 1
    assert second.last_exit == f"{ExitCause.SEGV} (SIGSEGV)"


def test_a_crash_loop_ends_in_failed_with_the_reason_at_hand(run, run_dir):
    async def scenario():
        async with Engine(run_dir, fail_load=True) as engine:
            return await engine.until(EngineState.FAILED)

    failed = run(scenario())
    assert failed.failure is Failure.CRASH_LOOP
    assert failed.last_exit == "load_error (exit code 1)"
    assert failed.generation == QUICK.crash_budget
    assert any("failed to load model" in line for line in failed.output_tail)


def test_a_served_request_clears_the_crash_budget(run, run_dir):
    async def scenario():
        async with Engine(run_dir) as engine:
            for generation in range(1, QUICK.crash_budget + 2):
                ready = await engine.until(EngineState.READY, generation)
                engine.supervisor.note_served()
                engine.supervisor.note_served()
                os.kill(ready.pid, signal.SIGKILL)
            await engine.until(EngineState.READY, QUICK.crash_budget + 2)

    run(scenario())


def test_a_program_that_is_not_there_fails_and_says_so(run, run_dir):
    async def scenario():
        address = RunDir(run_dir).address
        command = EngineCommand(("/nowhere/llama-server",), MappingProxyType({}), address, KEY)
        async with Engine(run_dir, command=command) as engine:
            return await engine.until(EngineState.FAILED)

    failed = run(scenario())
    assert failed.last_exit == "load_error (exit code 127)"
    assert "cannot execute /nowhere/llama-server" in failed.output_tail[-1]


def test_load_time_is_bounded(run, run_dir):
    settings = SupervisorSettings(load_timeout_s=0.3, probe_interval_s=0.02)

    async def scenario():
        async with Engine(run_dir, settings=settings, load_s=60) as engine:
            return await engine.until(EngineState.FAILED)

    failed = run(scenario())
    assert failed.failure is Failure.LOAD_TIMEOUT
    assert failed.generation == 2
    assert failed.last_exit == "load_timeout (SIGKILL)"


def test_an_engine_that_ignores_sigterm_costs_the_grace(run, run_dir):
    settings = SupervisorSettings(stop_grace_s=0.2, probe_interval_s=0.02)

    async def scenario():
        async with Engine(run_dir, settings=settings, ignore_sigterm=True) as engine:
            await engine.until(EngineState.READY)
        return engine

    last = run(scenario()).seen[-1]
    assert last.state is EngineState.STOPPED
    assert last.last_exit == "signal (SIGKILL)"


@pytest.mark.parametrize("state", [None, EngineState.LOADING, EngineState.READY])
def test_stop_is_safe_at_any_moment_and_twice(run, run_dir, state):
    async def scenario():
        engine = Engine(run_dir, load_s=0.1)
        await engine.supervisor.start()
        if state is not None:
            await engine.until(state)
        await asyncio.gather(engine.supervisor.stop(), engine.supervisor.stop())
        await engine.supervisor.stop()
        return engine

    assert run(scenario()).supervisor.snapshot.state is EngineState.STOPPED
    assert list(run_dir.iterdir()) == []


def test_stop_without_start_is_nothing(run, run_dir):
    async def scenario():
        await Engine(run_dir).supervisor.stop()

    run(scenario())


def test_stop_during_the_wait_for_a_restart_starts_nothing(run, run_dir):
    settings = SupervisorSettings(backoff_first_s=60, probe_interval_s=0.02)

    async def scenario():
        async with Engine(run_dir, settings=settings, fail_load=True) as engine:
            snapshot = await engine.until(EngineState.RESTARTING, generation=2)
            assert snapshot.next_start_s is not None
        return engine

    assert run(scenario()).supervisor.snapshot.state is EngineState.STOPPED


def test_a_stopped_supervisor_can_start_again(run, run_dir):
    async def scenario():
        engine = Engine(run_dir)
        for generation in (1, 2):
            async with engine:
                await engine.until(EngineState.READY, generation)
                with pytest.raises(RuntimeError):
                    await engine.supervisor.start()

    run(scenario())


def test_a_line_without_end_neither_blocks_the_engine_nor_hides_its_death(run, run_dir):
    """A pipe nobody reads would stop the engine at its next write; this one must reach its exit."""
    program = """
        import os
        for _ in range(64):
            os.write(1, b"x" * 65536)
        os._exit(3)
    """

    async def scenario():
        command = python_command(RunDir(run_dir).address, program)
        async with Engine(run_dir, command=command) as engine:
            return await engine.until(EngineState.FAILED)

    failed = run(scenario())
    assert failed.last_exit == "load_error (exit code 3)"
    assert "bytes cut" in failed.output_tail[-1]


def test_a_grandchild_that_keeps_the_pipe_does_not_matter(run, run_dir):
    """It leaves the group and the session, so that nothing here can or should end it."""
    program = """
        import os, signal, sys
        read, write = os.pipe()
        if not os.fork():
            os.setsid()
            with open(sys.argv[1] + ".pid", "w") as file:
                file.write(str(os.getpid()))
            os.close(write)
            signal.pause()
        os.close(write)
        os.read(read, 1)
        os._exit(5)
    """
    settings = SupervisorSettings(crash_budget=1, probe_interval_s=0.02)

    async def scenario():
        address = RunDir(run_dir).address
        pid = pid_pipe(address)
        async with Engine(
            run_dir, command=python_command(address, program), settings=settings
        ) as engine:
            os.kill(await pid, 0)
            failed = await engine.until(EngineState.FAILED)
            os.kill(await pid, signal.SIGKILL)
            return failed

    assert run(scenario()).last_exit == "load_error (exit code 5)"


def test_what_is_left_of_the_group_ends_with_the_engine(run, run_dir):
    program = """
        import os, signal, sys
        if not os.fork():
            with open(sys.argv[1] + ".pid", "w") as file:
                file.write(str(os.getpid()))
            signal.pause()
        signal.pause()
    """

    async def scenario():
        address = RunDir(run_dir).address
        pid = pid_pipe(address)
        async with Engine(run_dir, command=python_command(address, program)) as engine:
            loading = await engine.until(EngineState.LOADING)
            helper = os.pidfd_open(await pid)
            os.kill(loading.pid, signal.SIGKILL)
            await engine.until(EngineState.RESTARTING)
            return is_gone(helper)

    assert run(scenario())


def test_a_listener_that_fails_does_not_end_the_supervision(run, run_dir, caplog):
    async def scenario():
        async with Engine(run_dir, listener_fails=True) as engine:
            await engine.until(EngineState.READY)

    run(scenario())
    assert "a listener of the engine's state failed" in caplog.text


def test_an_engine_with_another_key_is_never_ready(run, run_dir, caplog):
    complained = []
    enough = asyncio.Event()

    async def wrong_key(address, key):
        result = await socket_probe(address, "another-key")
        if isinstance(result, ProbeWrong):
            complained.append(result)
        if len(complained) >= 3:
            enough.set()
        return result

    async def scenario():
        async with Engine(run_dir, probe=wrong_key) as engine:
            await engine.until(EngineState.LOADING)
            await enough.wait()
            assert engine.supervisor.snapshot.state is EngineState.LOADING

    run(scenario())
    assert caplog.text.count("/props answered 401 to our key") == 1


def test_a_probe_that_raises_or_hangs_is_asked_again(run, run_dir):
    calls = []

    async def shaky(address, key):
        calls.append(key)
        if len(calls) == 1:
            raise ValueError("probe")
        return await socket_probe(address, key)

    async def scenario():
        async with Engine(run_dir, probe=shaky) as engine:
            await engine.until(EngineState.READY)

    run(scenario())
    assert len(calls) > 1


# --- death with the gateway -------------------------------------------------------------------

GATEWAY = """
import asyncio, os, sys, threading
from pathlib import Path
import uvloop
from backend.command import EngineSettings, build_command
from backend.probe import ProbeLoading
from backend.machine import SupervisorSettings
from backend.rundir import RunDir
from backend.supervisor import Supervisor

async def never(address, key):
    return ProbeLoading()

async def main():
    run_dir = RunDir(Path(sys.argv[1]))
    settings = EngineSettings(kind="mock", extra_args=("--ignore-sigterm",))
    command = build_command(settings, address=run_dir.address, key="k", environ=os.environ)
    def tell(snapshot):
        if snapshot.state == "loading":
            os.write(1, f"{snapshot.pid}\\n".encode())
    supervisor = Supervisor(
        command, SupervisorSettings(), probe=never, on_change=tell, run_dir=run_dir
    )
    await supervisor.start()
    await asyncio.Event().wait()

run = {"asyncio": asyncio.run, "uvloop": uvloop.run}[sys.argv[2]]
if sys.argv[3] == "main":
    run(main())
else:
    thread = threading.Thread(target=lambda: run(main()))
    thread.start()
    thread.join()
"""


def start_gateway(run_dir, loop="asyncio", thread="main"):
    argv = [sys.executable, "-c", GATEWAY, str(run_dir), loop, thread]
    gateway = subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    pid = int(gateway.stdout.readline())
    return gateway, pid, os.pidfd_open(pid)


@pytest.mark.parametrize("thread", ["main", "other"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_engine_dies_with_a_killed_gateway(run_dir, loop, thread):
    """On the main thread two means are armed, on another one only the pipe."""
    gateway, _, engine = start_gateway(run_dir, loop, thread)
    try:
        assert not is_gone(engine, 0)
    finally:
        gateway.kill()
        gateway.communicate()
    assert is_gone(engine)
    os.close(engine)


# --- the run directory ------------------------------------------------------------------------


def orphan(run_dir, gateway_pid, mark=None):
    """An engine without a gateway: a process of ours with the note of a gateway that is gone."""
    socket = run_dir / f"engine-{gateway_pid}.sock"
    argv = [sys.executable, "-c", "import signal; print(flush=True); signal.pause()", str(socket)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True)
    process.stdout.readline()
    stat = Path(f"/proc/{process.pid}/stat").read_text()
    note = {
        "pid": process.pid,
        "start_ticks": int(stat.rpartition(")")[2].split()[19]),
        "gateway_pid": gateway_pid,
        "gateway_start_ticks": 1,
        "mark": mark or str(socket),
    }
    socket.touch()
    socket.with_suffix(".json").write_text(json.dumps(note))
    return process


@contextlib.contextmanager
def ended(process):
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_leftover_engine_is_killed_at_start(run, run_dir):
    with ended(orphan(run_dir, gateway_pid=999_999)) as process:
        assert run(RunDir(run_dir).clear_stale()) == [process.pid]
        assert process.wait() == -signal.SIGKILL
    assert list(run_dir.iterdir()) == []


def test_a_reused_pid_is_left_alone(run, run_dir):
    """The note names a process, but its start time or command line says it is another one."""
    with ended(orphan(run_dir, gateway_pid=999_999, mark="/elsewhere.sock")) as process:
        assert run(RunDir(run_dir).clear_stale()) == []
        assert process.poll() is None
    assert list(run_dir.iterdir()) == []


def test_the_engine_of_a_living_gateway_is_left_alone(run, run_dir):
    gateway, engine_pid, engine = start_gateway(run_dir)
    try:
        assert run(RunDir(run_dir).clear_stale()) == []
        assert not is_gone(engine, 0)
        assert (run_dir / f"engine-{gateway.pid}.json").exists()
        assert engine_pid
    finally:
        gateway.kill()
        gateway.communicate()
        assert is_gone(engine)
        os.close(engine)


def test_notes_that_make_no_sense_are_removed(run, run_dir):
    (run_dir / "engine-1.json").write_text("{")
    (run_dir / "engine-2.json").write_text('{"pid": 1}')
    assert run(RunDir(run_dir).clear_stale()) == []
    assert list(run_dir.iterdir()) == []


def test_a_directory_that_others_can_enter_is_closed(run_dir):
    run_dir.chmod(0o777)
    RunDir(run_dir)
    assert run_dir.stat().st_mode & 0o777 == 0o700


def test_a_planted_link_is_refused(run_dir):
    (run_dir / "target").mkdir()
    (run_dir / "link").symlink_to(run_dir / "target")
    with pytest.raises(RunDirUnsafe):
        RunDir(run_dir / "link")


# --- the probe --------------------------------------------------------------------------------

PROPS = {"total_slots": 2, "default_generation_settings": {"n_ctx": 512}, "build_info": "b1"}


def fetch_of(**pages):
    async def fetch(method, path):
        status, body = pages[path.strip("/").replace("/", "_")]
        return status, body if isinstance(body, bytes) else json.dumps(body).encode()

    return fetch


READY = {
    "health": (200, {"status": "ok"}),
    "props": (200, PROPS),
    "v1_models": (200, {"data": [{"meta": {"n_vocab": 5, "n_embd": 6, "n_ctx_train": 7}}]}),
}


async def test_probe_reads_the_engines_facts():
    facts = EngineProps(2, 512, "b1", vocab_size=5, embedding_size=6, trained_context=7)
    assert await ask(fetch_of(**READY)) == ProbeReady(facts)


@pytest.mark.parametrize(
    ("page", "answer", "result"),
    [
        ("health", (503, {}), ProbeLoading()),
        ("props", (503, {}), ProbeLoading()),
        ("props", (401, {}), ProbeWrong("/props answered 401 to our key")),
        ("props", (200, b"<html>"), ProbeWrong("/props is not llama-server's")),
        ("props", (200, []), ProbeWrong("/props is not llama-server's")),
        (
            "props",
            (200, {**PROPS, "total_slots": 0}),
            ProbeWrong("/props tells of no slot or no context"),
        ),
        ("v1_models", (500, b"?"), ProbeReady(EngineProps(2, 512, "b1"))),
        ("v1_models", (200, {"data": []}), ProbeReady(EngineProps(2, 512, "b1"))),
    ],
)
async def test_probe_believes_only_our_own_engine(page, answer, result):
    assert await ask(fetch_of(**{**READY, page: answer})) == result


async def test_nobody_at_the_address_means_not_yet(run_dir):
    address = UnixAddress(str(run_dir / "x.sock"))
    assert await socket_probe(address, KEY) == ProbeLoading()


# --- file descriptors -------------------------------------------------------------------------


@contextlib.contextmanager
def descriptors_below(limit):
    """No new descriptor of this process may have a number of *limit* or more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def no_descriptors():
    """All that may be open are open."""
    with contextlib.ExitStack() as held, descriptors_below(256):
        with contextlib.suppress(OSError):
            while True:
                held.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        yield


SHORT_OF = replace(QUICK, shortage_wait_s=0.01)


def test_a_shortage_longer_than_the_crash_budget_ends_in_service(run, run_dir, caplog):
    """The reserve is of no use here: no descriptor at all may be made."""
    caplog.set_level(logging.INFO)

    async def scenario():
        async with Engine(run_dir, settings=SHORT_OF) as engine:
            ready = await engine.until(EngineState.READY)
            with descriptors_below(3):
                os.kill(ready.pid, signal.SIGKILL)
                await engine.until(EngineState.RESTARTING, 4 * QUICK.crash_budget)
            return await engine.until(EngineState.READY, 2), await engine.get("/health")

    ready, health = run(scenario())
    assert health == {"status": "ok"}
    assert (ready.deaths, ready.restarts) == (1, 1)
    said = [record.getMessage() for record in caplog.records]
    assert said.count("cannot spawn the engine: Too many open files") == 1
    assert said.count("engine starting pid=None") == 2


def test_a_wake_waits_for_descriptors_as_well(run, run_dir):
    async def scenario():
        async with Engine(run_dir, settings=SHORT_OF) as engine:
            await engine.until(EngineState.READY)
            engine.supervisor.unload()
            await engine.asleep()
            with descriptors_below(3):
                engine.supervisor.wake()
                short = await engine.until(EngineState.RESTARTING, 2 * QUICK.crash_budget)
            return short, await engine.until(EngineState.READY, 2)

    short, ready = run(scenario())
    assert short.waking
    assert (ready.deaths, ready.restarts) == (0, 0)


def test_an_engine_is_restarted_while_there_are_no_descriptors(run, run_dir):
    async def scenario():
        async with Engine(run_dir) as engine:
            ready = await engine.until(EngineState.READY)
            with no_descriptors():
                os.kill(ready.pid, signal.SIGKILL)
                loading = await engine.until(EngineState.LOADING, 2)
            await engine.until(EngineState.READY, 2)
            return loading

    loading = run(scenario())
    assert (loading.generation, loading.restarts) == (2, 1)


def put_by():
    """How many descriptors of this process are open on nothing."""
    return sum(os.path.realpath(each) == os.devnull for each in Path("/proc/self/fd").iterdir())


def test_nothing_of_the_reserve_is_left_after_a_stop(run, run_dir):
    async def scenario():
        async with Engine(run_dir) as engine:
            await engine.until(EngineState.READY)
            during = put_by()
        return during, put_by()

    during, after = run(scenario())
    assert during - after == SPAWN_DESCRIPTORS
