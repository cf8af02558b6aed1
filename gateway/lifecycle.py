"""Starts and stops everything, in order, within one shutdown budget.

Start: the public port opens before anything slow, then the engine and the model are found, then the
child is started. (The health port is open before all this and closes after it; its thread belongs
to the caller.)

Stop, on SIGTERM or SIGINT:
1. the state is ``draining``: probes say so, while new work is still taken for ``drain_delay_s``,
   because a platform's routers hear of it late;
2. new work is refused, idle connections close, those who queue are told;
3. running calls may finish, until ``drain_timeout_s`` after the signal;
4. what still runs then is ended with an error, and has a second to be told so;
5. the connections to the engine close first (llama-server does not leave while one is open), then
   the engine is stopped, then the port closes.
A second signal skips to step 4. One budget covers it all: the process is gone at the latest 15 s
after ``drain_timeout_s``, whatever the engine does, unless ENGINE_STOP_TIMEOUT gives it more.

When nothing can be served the state is ``failed`` for a moment, so that probes can see why, and the
process ends with an exit code that is not 0: the platform may have a better machine.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from backend import (
    FAILURE_EXIT_CODES,
    BackendError,
    EngineCommand,
    EngineSnapshot,
    EngineState,
    Failure,
    Supervisor,
)
from gateway.access.keywatch import KeyWatch
from gateway.app import App
from gateway.engine.last_words import complaints
from gateway.engine.link import EngineLink
from gateway.engine.watchdog import Watchdog
from gateway.errors import ApiError
from gateway.front.listener import BACKLOG
from gateway.front.server import FrontServer
from gateway.idle import IdleKeeper
from gateway.limits.keeper import LedgerKeeper
from gateway.observe.accesslog import AccessLog
from gateway.observe.startwatch import StartWatch
from gateway.off_loop import in_daemon_thread
from gateway.queue.admission import Admission
from gateway.status import ServiceStatus
from gateway.tasks import Tasks

__all__ = ["DrainSettings", "Lifecycle", "Parts"]

_log = logging.getLogger(__name__)

_BEAT_S = 0.25
_LAG_S = 0.25
_FLUSH_S = 1.0
_FORCED_STOP_S = 1.0
_ENGINE_END_S = 11.0


@dataclass(frozen=True, slots=True)
class DrainSettings:
    """The shutdown budget, in seconds."""

    delay_s: float
    """For so long new work is still taken; a part of *timeout_s*."""
    timeout_s: float
    """From the signal to the end of the last call."""
    engine_s: float = 10.0
    """What the engine gets between SIGTERM and SIGKILL."""
    failed_s: float = 0.0
    """How long a service that failed shows why before it ends."""


class SupervisorMaker(Protocol):
    """Makes the supervisor of a command; it reports each state to *on_change*."""

    def __call__(
        self, command: EngineCommand, on_change: Callable[[EngineSnapshot], None]
    ) -> Supervisor:
        """Make it."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What there is to start and stop."""

    app: App
    front: FrontServer
    listener: socket.socket
    admission: Admission
    link: EngineLink
    status: ServiceStatus
    tasks: Tasks
    access_log: AccessLog
    keywatch: KeyWatch | None
    keeper: LedgerKeeper
    prepare: Callable[[], EngineCommand]
    """Finds engine and model; slow, runs in a thread.

    Raises:
        BackendError: The operator must change something, or the network failed.
    """
    supervise: SupervisorMaker
    starts: StartWatch
    drain: DrainSettings
    on_lag: Callable[[float], None]
    watchdog: Watchdog | None
    idle_keeper: Callable[[Callable[[], None]], IdleKeeper | None]
    """Makes what watches for a time without work; it is handed the way to end the service."""
    announce: Callable[[], None]
    """Tells the person at the terminal that the service is ready; called once."""
    report_fatal: Callable[[str], None]
    """Tells, in one word, whoever waits for the service that it will not serve any more."""


class Lifecycle:
    """One run of the service, from open port to exit code."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._stop = asyncio.Event()
        self._force = asyncio.Event()
        self._told_to_stop = asyncio.Event()
        self._signal: signal.Signals | None = None
        self._exit_code = 0
        self._supervisor: Supervisor | None = None
        self._announced = False
        self._hurry = False
        """No router has to hear of the end first."""

    def mind_signals(self) -> None:
        """Take over the signals; nothing is announced before."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._on_reload_signal)

    async def run(self) -> int:
        """Serve until told to stop; returns the exit code."""
        parts = self._parts
        loop = asyncio.get_running_loop()
        server = await loop.create_server(parts.front, sock=parts.listener, backlog=BACKLOG)
        parts.starts.ports_open()
        parts.tasks.spawn(self._beat(), "beat")
        if parts.keywatch is not None:
            parts.tasks.spawn(parts.keywatch.run(), "keywatch")
        parts.tasks.spawn(parts.keeper.run(), "keeper")
        self._spawn_watches()
        parts.tasks.spawn(self._bring_up(), "bring-up")
        try:
            await self._stop.wait()
            await self._drain()
        finally:
            parts.starts.close()
            await self._stop_engine()
            server.close()
            await parts.front.shutdown(_FLUSH_S)
            await parts.tasks.stop()
            await parts.keeper.save()
            parts.access_log.close()
        _log.info("stopped with exit code %d", self._exit_code)
        return self._exit_code

    def _spawn_watches(self) -> None:
        parts = self._parts
        if parts.watchdog is not None:
            parts.tasks.spawn(parts.watchdog.run(), "watchdog")
        idle_keeper = parts.idle_keeper(self._leave)
        if idle_keeper is not None:
            parts.tasks.spawn(idle_keeper.run(), "idle-keeper")

    def _leave(self) -> None:
        """Nobody needs the service any more."""
        self._hurry = True
        self._stop.set()

    # -- start

    async def _bring_up(self) -> None:
        parts = self._parts
        parts.status.preparing = True
        try:
            command = await in_daemon_thread(parts.prepare, "find-engine-and-model")
            if self._stop.is_set():
                return  # told to stop meanwhile: nothing is started any more
            parts.link.aim(command.address, command.key)
            self._supervisor = parts.supervise(command, self._on_engine)
            parts.link.control(self._supervisor)
            await self._supervisor.start()
        except BackendError as exc:
            _log.error("cannot start: %s", exc)
            self._fail("cannot_start", 1)
        except Exception:
            _log.exception("cannot start")
            self._fail("cannot_start", 1)
        finally:
            parts.status.preparing = False

    def _on_engine(self, snapshot: EngineSnapshot) -> None:
        self._parts.link.take_state(snapshot)
        self._parts.starts.take_state(snapshot)
        if snapshot.state is EngineState.READY and not self._announced:
            self._announced = True
            self._parts.announce()
        elif snapshot.state is EngineState.FAILED:
            for line in complaints(snapshot.output_tail):
                _log.error("the engine's last words: %s", line)
            failure = snapshot.failure or Failure.INTERNAL
            self._fail(failure, FAILURE_EXIT_CODES[failure])

    def _fail(self, reason: str, exit_code: int) -> None:
        """Nothing can be served: leave, so that the platform replaces this box."""
        if self._stop.is_set():
            return  # it ends already, for a reason of its own
        self._parts.status.failure = reason
        self._parts.admission.close("engine_unavailable", retry_after_s=30.0)
        self._parts.report_fatal(reason)
        self._exit_code = exit_code
        self._stop.set()

    # -- while it runs

    async def _beat(self) -> None:
        """Show that the loop is alive, and notice when it was not."""
        parts = self._parts
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + _BEAT_S
            parts.status.beat(loop.time())
            await asyncio.sleep(_BEAT_S)
            lag_s = loop.time() - due_s
            parts.on_lag(lag_s)
            if lag_s > _LAG_S:
                _log.warning("the event loop was late by %.2f s", lag_s)

    def _on_reload_signal(self) -> None:
        if self._parts.keywatch is not None:
            self._parts.tasks.spawn(self._parts.keywatch.reload(), "reload-on-signal")

    def _on_stop_signal(self, number: signal.Signals) -> None:
        if self._signal is None:
            self._signal = number
            _log.info("%s: draining; the same again stops at once", signal.Signals(number).name)
        else:
            _log.warning("%s again: stopping now", signal.Signals(number).name)
            self._exit_code = 128 + number
            self._force.set()
        self._told_to_stop.set()
        self._stop.set()

    # -- stop

    async def _drain(self) -> None:
        parts = self._parts
        budget = _Budget(parts.drain.timeout_s)
        if parts.status.failure:
            await self._unless_forced(self._told_to_stop.wait(), parts.drain.failed_s)
        else:
            parts.status.draining = True
            # A person at a terminal, or an idle service: no router has to hear of it first.
            at_terminal = self._signal is signal.SIGINT and parts.status.platform == "generic"
            delay_s = 0.0 if at_terminal or self._hurry else budget.of(parts.drain.delay_s)
            await self._unless_forced(asyncio.sleep(delay_s), delay_s)
        parts.app.draining = True
        parts.admission.close("draining", retry_after_s=1.0)
        parts.front.close_idle()
        if parts.app.calls:
            _log.info("waiting for %d running calls", len(parts.app.calls))
        await self._unless_forced(self._calls_over(), budget.left_s())
        for call in tuple(parts.app.calls):
            call.kill(ApiError("draining", retry_after_s=1.0))
        try:
            await asyncio.wait_for(self._calls_over(), _FLUSH_S)
        except TimeoutError:
            _log.warning("%d calls did not end in time", len(parts.app.calls))

    async def _calls_over(self) -> None:
        over = asyncio.Event()
        self._parts.app.on_quiet = over.set
        if self._parts.app.calls:
            await over.wait()

    async def _unless_forced(self, work: Coroutine[Any, Any, object], limit_s: float) -> None:
        """Wait for *work*, for *limit_s*, or for a second signal, whichever comes first."""
        waits = (asyncio.ensure_future(work), asyncio.ensure_future(self._force.wait()))
        await asyncio.wait(waits, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _stop_engine(self) -> None:
        self._parts.link.hang_up()
        if self._supervisor is None:
            return
        await self._end_supervision(self._supervisor)
        self._parts.link.close()

    async def _end_supervision(self, supervisor: Supervisor) -> None:
        stopping = asyncio.ensure_future(supervisor.stop())
        limit_s = max(_ENGINE_END_S, self._parts.drain.engine_s + _FORCED_STOP_S)
        await self._unless_forced(asyncio.wait((stopping,)), limit_s)
        await asyncio.wait((stopping,), timeout=_FORCED_STOP_S)
        if not stopping.done():
            supervisor.kill()
            await asyncio.wait((stopping,), timeout=_FORCED_STOP_S)
        if not stopping.done():
            _log.error("the engine cannot be killed")
            self._exit_code = FAILURE_EXIT_CODES[Failure.NOT_REAPED]


class _Budget:
    """What is left of a time that several steps share."""

    def __init__(self, seconds: float) -> None:
        self._time = asyncio.get_running_loop().time
        self._ends_s = self._time() + seconds

    def left_s(self) -> float:
        return max(self._ends_s - self._time(), 0.0)

    def of(self, seconds: float) -> float:
        """*seconds*, or what is left if that is less."""
        return min(seconds, self.left_s())
