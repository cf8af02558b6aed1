"""Runs the gateway and RunPod's SDK side by side, and ends them in the right order.

The SDK goes first when told to stop: what runs is finished, and so is what its open question for
jobs still brings. Only then is the gateway stopped. Whichever process ends by itself takes the
other with it. Both die with this one, whatever kills it (see `backend.TiedProcess`).
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass

import aiohttp

from backend import TiedProcess
from gateway.runpod.environments import Endpoint, sdk_env

__all__ = ["Plan", "supervise"]

_log = logging.getLogger(__name__)

_POLL_S = 0.1
_LAST_POSTS_S = 5.0
"""For posting what the jobs came to, once the gateway ended them."""
_STOP_MARGIN_S = 20.0
"""What the gateway may take beyond its drain: the engine's stop, and its own end."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run."""

    endpoint: Endpoint
    environ: Mapping[str, str]
    """Ours; the SDK's process gets it with few changes."""
    gateway_env: Mapping[str, str]
    drain_timeout_s: float
    engine_stop_s: float


class _Signals:
    """How often we were told to stop, and waiting for it."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self.last = 0

    def install(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._take, number)

    def _take(self, number: int) -> None:
        _log.info("%s", signal.Signals(number).name)
        self.last = number
        (self.second if self.first.is_set() else self.first).set()


async def supervise(plan: Plan) -> int:
    """Run both until the end; returns the exit code for this process."""
    signals = _Signals()
    signals.install()
    gateway = TiedProcess(_program("gateway", "serve"), plan.gateway_env)
    sdk: TiedProcess | None = None
    try:
        slots = await _first_of(_slots_when_ready(plan.endpoint), gateway.wait(), signals.first)
        if slots is not None:
            _log.info("the gateway is ready: taking up to %d jobs at a time", slots)
            env = sdk_env(plan.environ, plan.endpoint, slots)
            sdk = TiedProcess(_program("gateway.runpod.worker"), env)
            await _first_of(sdk.wait(), gateway.wait(), signals.first)
        return await _end(plan, signals, gateway, sdk)
    finally:
        for process in (sdk, gateway):
            if process is not None:
                process.kill()


def _program(module: str, *words: str) -> list[str]:
    return [sys.executable, "-m", module, *words]


async def _end(plan: Plan, signals: _Signals, gateway: TiedProcess, sdk: TiedProcess | None) -> int:
    if not gateway.running:
        return await _after_gateway(await gateway.wait(), sdk, signals)
    if sdk is not None and not sdk.running:
        code = _exit_code(await sdk.wait())
        _log.log(logging.ERROR if code else logging.INFO, "RunPod's worker ended with %d", code)
        await _stop_gateway(plan, signals, gateway)
        return code
    if sdk is not None:
        await _drain(plan, signals, gateway, sdk)
    await _stop_gateway(plan, signals, gateway)
    return 128 + signals.last if signals.second.is_set() else 0


async def _after_gateway(code: int, sdk: TiedProcess | None, signals: _Signals) -> int:
    """The gateway is gone: jobs that ran have failed, and nobody is to take more."""
    _log.error("the gateway ended with %d", code)
    if sdk is not None:
        sdk.signal(signal.SIGTERM)
        await _within(_LAST_POSTS_S, sdk.wait(), signals.second)
        sdk.kill()
        await sdk.wait()
    return _exit_code(code)


async def _drain(plan: Plan, signals: _Signals, gateway: TiedProcess, sdk: TiedProcess) -> None:
    """Let the SDK finish; at the deadline the gateway ends what runs, so that it can be told."""
    sdk.signal(signal.SIGTERM)
    await _within(plan.drain_timeout_s, sdk.wait(), gateway.wait(), signals.second)
    if sdk.running:
        if not signals.second.is_set():
            _log.warning("jobs still run after %g s: they are cut off", plan.drain_timeout_s)
        # Its second signal is the one that waits for nothing.
        gateway.signal(signal.SIGTERM)
        gateway.signal(signal.SIGINT)
        await _within(_LAST_POSTS_S, sdk.wait())
    sdk.kill()
    await sdk.wait()


async def _stop_gateway(plan: Plan, signals: _Signals, gateway: TiedProcess) -> None:
    limit_s = plan.drain_timeout_s + plan.engine_stop_s + _STOP_MARGIN_S
    gateway.signal(signal.SIGTERM)
    await _within(limit_s, gateway.wait(), signals.second)
    if gateway.running and signals.second.is_set():
        gateway.signal(signal.SIGTERM)
        await _within(plan.engine_stop_s + _STOP_MARGIN_S, gateway.wait())
    gateway.kill()
    await gateway.wait()


def _exit_code(code: int) -> int:
    return code if code >= 0 else 128 - code


async def _slots_when_ready(endpoint: Endpoint) -> int:
    """Wait until the gateway may be sent requests; how many at a time."""
    timeout = aiohttp.ClientTimeout(total=5.0)
    headers = {"Authorization": f"Bearer {endpoint.key}"}
    async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
        while True:
            try:
                async with session.get(endpoint.ready_url) as reply:
                    ready = reply.status == 200
                if ready:
                    async with session.get(f"{endpoint.url}/gpu/status") as reply:
                        reply.raise_for_status()
                        slots = int((await reply.json())["slots"])
                    if slots > 0:
                        return slots
            except (aiohttp.ClientError, OSError):
                # Not open yet; whether it lives is somebody else's question.
                pass
            await asyncio.sleep(_POLL_S)


async def _first_of(what: Awaitable[int], other: Awaitable[int], told: asyncio.Event) -> int | None:
    """The result of *what*, or None when *other* or the event came first."""
    first = asyncio.ensure_future(what)
    others = [asyncio.ensure_future(other), asyncio.ensure_future(told.wait())]
    try:
        await asyncio.wait([first, *others], return_when=asyncio.FIRST_COMPLETED)
        came_first = first.done() and not any(each.done() for each in others)
        return first.result() if came_first else None
    finally:
        for each in (first, *others):
            each.cancel()


async def _within(limit_s: float, *what: Awaitable[int] | asyncio.Event) -> None:
    """Wait for the first of *what*, for *limit_s* at most."""
    tasks = [
        asyncio.ensure_future(each.wait() if isinstance(each, asyncio.Event) else each)
        for each in what
    ]
    try:
        await asyncio.wait(tasks, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
