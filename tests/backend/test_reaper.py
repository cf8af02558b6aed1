import asyncio
import os
import subprocess
import sys

import pytest
import uvloop

from backend.reaper import PidfdWatch, ThreadWatch, watch_exit

WAITS_FOR_INPUT = "import sys; sys.stdin.read(); sys.exit(3)"


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request):
    return lambda coroutine: request.param(asyncio.wait_for(coroutine, 20))


@pytest.fixture
def child():
    argv = [sys.executable, "-I", "-S", "-c", WAITS_FOR_INPUT]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    yield process
    process.kill()
    with process:
        pass


def by_pidfd(pid, callback):
    return PidfdWatch(os.pidfd_open(pid), callback)


@pytest.mark.parametrize("watch", [by_pidfd, ThreadWatch, watch_exit])
def test_a_death_is_an_event_and_leaves_the_exit_status_to_be_collected(run, child, watch):
    async def scenario():
        ended = asyncio.Event()
        watching = watch(child.pid, ended.set)
        assert not ended.is_set()
        child.stdin.close()
        await ended.wait()
        os.killpg(os.getpgid(child.pid), 0)
        watching.close()

    run(scenario())
    assert child.wait() == 3


@pytest.mark.parametrize("watch", [by_pidfd, ThreadWatch])
def test_a_closed_watch_calls_nobody(run, child, watch):
    async def scenario():
        calls = []
        other = asyncio.Event()
        first = watch(child.pid, lambda: calls.append(1))
        first.close()
        first.close()
        second = watch(child.pid, other.set)
        child.stdin.close()
        await other.wait()
        second.close()
        return calls

    assert run(scenario()) == []


def test_a_child_that_was_collected_already_counts_as_ended(run, child):
    child.stdin.close()
    child.wait(10)

    async def scenario():
        ended = asyncio.Event()
        ThreadWatch(child.pid, ended.set)
        await ended.wait()

    run(scenario())


def test_a_child_that_is_dead_already_is_noticed_too(run, child):
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    async def scenario():
        ended = asyncio.Event()
        watch_exit(child.pid, ended.set)
        await ended.wait()

    run(scenario())
