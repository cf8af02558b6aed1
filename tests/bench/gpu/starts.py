"""How long until the first token: from a start, both ways, and from an idle unload.

The model is in the page cache each time, so what is measured is the way from memory to the GPU, not
the disk. The gateway is asked as soon as its port is open; the request waits there for the engine.
Starts of the two ways take turns.
"""

from __future__ import annotations

import re
from pathlib import Path
from time import perf_counter

from tests.bench.gpu.asking import ask, run
from tests.bench.gpu.figures import Start
from tests.bench.gpu.replies import Load
from tests.bench.gpu.ways import Setup, bare, behind

__all__ = ["starts"]

_READY = re.compile(r"ready: http://")
_ASLEEP = re.compile("engine sleeping")


def starts(setup: Setup, load: Load, times: int, folder: Path) -> dict[str, list[Start]]:
    """
    Start each way so many *times*.

    Args:
        load: What the first question is.
        folder: For the gateway's keys.
    """
    found: dict[str, list[Start]] = {
        "start of llama-server": [],
        "start of the gateway": [],
        "asked after an idle unload": [],
    }
    direct, gateway, wake = found.values()
    for number in range(times):
        direct.append(_bare_start(setup, load))
        begun, woken = _gateway_start(setup, load, folder / f"start-{number}")
        gateway.append(begun)
        wake.append(woken)
    return found


def _bare_start(setup: Setup, load: Load) -> Start:
    with bare(setup) as served:
        ready_s = perf_counter()
        first_s = run(ask(served.target, load, 0))
        return Start(first_s - served.started_s, ready_s - served.started_s)


def _gateway_start(setup: Setup, load: Load, folder: Path) -> tuple[Start, Start]:
    with behind(setup, folder, IDLE_ACTION="unload", IDLE_TIMEOUT="1") as served:
        assert served.service is not None
        first_s = run(ask(served.target, load, 0))
        begun = Start(first_s - served.started_s)
        served.service.wait_for(_ASLEEP, 120)
        asked_s = perf_counter()
        first_s = run(ask(served.target, load, 1))
        return begun, Start(first_s - asked_s)
