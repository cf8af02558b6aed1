"""The launcher as the real program it is: armed, then gone, the engine in its place."""

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import backend.launcher

LAUNCHER = backend.launcher.__file__
# The same program on a system without F_SETSIG, where a watcher must do the kernel's work.
WITHOUT_SETSIG = f"""
import fcntl, runpy, sys
del fcntl.F_SETSIG
sys.argv = [{LAUNCHER!r}, *sys.argv[1:]]
runpy.run_path({LAUNCHER!r}, run_name="__main__")
"""
ENTRY = {
    "kernel": [sys.executable, "-I", "-S", LAUNCHER],
    "watcher": [sys.executable, "-I", "-S", "-c", WITHOUT_SETSIG],
}
REPORT = """
import json, os, resource, signal, sys
mask = os.umask(0)
facts = {"pid": os.getpid(), "umask": mask, "core": resource.getrlimit(resource.RLIMIT_CORE)}
print(json.dumps(facts), flush=True)
"""
# Two processes that say their pids and then do nothing, deaf to everything but SIGKILL.
PAIR = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.fork()
os.write(1, f"{os.getpid()}\\n".encode())
signal.pause()
"""


@contextlib.contextmanager
def launched(program, *, entry="kernel", parent=0):
    """Run *program*, a few lines of Python, behind the launcher: (process, write end)."""
    read, write = os.pipe()
    argv = [*ENTRY[entry], str(read), str(parent), "--", sys.executable, "-c", program]
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, pass_fds=(read,), start_new_session=True
    )
    os.close(read)
    try:
        yield process, write
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with process:
            pass
        with contextlib.suppress(OSError):
            os.close(write)


def is_gone(pidfd, timeout_s=10.0):
    return bool(select.select([pidfd], [], [], timeout_s)[0])


@pytest.mark.parametrize("entry", ENTRY)
def test_the_engine_takes_the_launchers_place(entry):
    with launched(REPORT, entry=entry, parent=os.getpid()) as (process, _):
        facts = json.loads(process.stdout.readline())
        assert facts == {"pid": process.pid, "umask": 0o077, "core": [0, 0]}


@pytest.mark.parametrize("entry", ENTRY)
def test_the_end_of_the_pipe_kills_the_whole_group(entry):
    with launched(PAIR, entry=entry) as (process, write):
        pids = [int(process.stdout.readline()) for _ in range(2)]
        processes = [os.pidfd_open(pid) for pid in pids]
        assert not any(is_gone(each, 0) for each in processes)
        os.close(write)
        assert all(is_gone(each) for each in processes)
        assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("entry", ENTRY)
def test_a_gateway_that_died_before_the_arming_is_noticed(entry):
    read, write = os.pipe()
    os.close(write)
    argv = [*ENTRY[entry], str(read), "0", "--", sys.executable, "-c", "print('alive')"]
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, pass_fds=(read,), start_new_session=True
    )
    os.close(read)
    assert process.communicate()[0] == b""
    assert process.returncode == -signal.SIGKILL


def test_another_parent_than_the_expected_one_is_noticed():
    with launched("print('alive')", parent=1) as (process, _):
        assert process.communicate()[0] == b""
        assert process.returncode == -signal.SIGKILL


def test_a_program_that_cannot_run_is_named():
    read, write = os.pipe()
    argv = [*ENTRY["kernel"], str(read), "0", "--", "/nowhere/engine", "x"]
    done = subprocess.run(argv, stderr=subprocess.PIPE, pass_fds=(read,), check=False)
    os.close(read)
    os.close(write)
    assert done.returncode == 127
    assert done.stderr == b"launcher: cannot execute /nowhere/engine: No such file or directory\n"


def test_the_launcher_costs_less_than_50_ms_of_processor_time():
    true = next(str(path) for path in (Path("/bin/true"), Path("/usr/bin/true")) if path.exists())
    costs = []
    for _ in range(5):
        read, write = os.pipe()
        argv = [*ENTRY["kernel"], str(read), str(os.getpid()), "--", true]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(argv, pass_fds=(read,), check=True, start_new_session=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        os.close(read)
        os.close(write)
    assert min(costs) < 0.05
