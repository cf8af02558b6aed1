"""Where a test of this room begins: an engine's machine, a run directory, a loop."""

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest
import uvloop

from backend.events import (
    StartAsked,
    UnloadAsked,
    WakeAsked,
)
from tests.support.machine_script import Script
from tests.support.supervised import LIMIT_S


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


@pytest.fixture
def run_dir():
    path = Path(tempfile.mkdtemp(prefix="lg-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request):
    def bounded(coroutine):
        return request.param(asyncio.wait_for(coroutine, LIMIT_S))

    return bounded
