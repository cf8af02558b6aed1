"""The SDK's process: ``python -m gateway.runpod.worker``, started by `supervision.py`.

The only module that imports RunPod's SDK, which reads its settings from the environment when it is
imported and takes over signals, the event loop and a heartbeat process.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import time
from collections.abc import Awaitable, Callable

import aiohttp

from gateway.config import environment
from gateway.runpod.environments import WORKER_KEY, WORKER_SLOTS, WORKER_URL
from gateway.runpod.handler import make_handler

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1
_READY_S = 10.0


def main() -> None:
    """Take jobs until told to stop."""
    environ = environment()
    url, key, slots = environ[WORKER_URL], environ[WORKER_KEY], int(environ[WORKER_SLOTS])
    _tie_forks()
    import runpod.serverless

    runpod.serverless.register_fitness_check(_readiness_check(url))
    runpod.serverless.start(
        {
            "handler": make_handler(url, key, time.monotonic),
            "concurrency_modifier": lambda _: slots,
            "return_aggregate_stream": True,
        }
    )


def _tie_forks() -> None:
    """The SDK's heartbeat process would tell the platform for ever that a killed worker is well."""
    multiprocessing.set_start_method("fork")
    library = ctypes.CDLL(None)
    if hasattr(library, "prctl"):
        os.register_at_fork(after_in_child=lambda: library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL))


def _readiness_check(url: str) -> Callable[[], Awaitable[None]]:
    """Asked by the SDK before it takes the first job; RuntimeError ends the worker with 1."""

    async def gateway_is_ready() -> None:
        timeout = aiohttp.ClientTimeout(total=_READY_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            async with session.get(f"{url}/readyz") as reply:
                if reply.status != 200:
                    raise RuntimeError(f"the gateway is not ready: {reply.status}")

    return gateway_is_ready


if __name__ == "__main__":
    main()
