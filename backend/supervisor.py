"""Keeps one engine process running: the thin edge around `backend.states`.

Who owns what: one task (`_own`) takes events from one queue, asks the table, and carries out
the actions. Nothing else changes the machine. Everything that happens outside (an exit, a probe's
answer, a timer, a call to `stop`) only puts an event into the queue. Nothing here waits for the
process itself, so a process that cannot die cannot hold anything up.

It must run on the main thread's loop, where a second tie between the engine's life and ours is
available; see `backend.launcher`. It works on asyncio's loop and on uvloop's.
"""

import asyncio
import errno
import logging
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from backend.address import UnixAddress
from backend.child import Child
from backend.command import EngineCommand
from backend.events import (
    Action,
    AlarmRang,
    Event,
    EvictAsked,
    Exited,
    Probe,
    ProbeNotYet,
    ProbePassed,
    Served,
    Signal,
    Spawn,
    Spawned,
    SpawnFailed,
    StartAsked,
    StopAsked,
    Tidy,
    UnloadAsked,
    WakeAsked,
)
from backend.exits import ExitCause, ExitFacts, ExitReport, classify
from backend.machine import Machine, Phase, SupervisorSettings, snapshot_of
from backend.probe import Probe as AskEngine
from backend.probe import ProbeReady, ProbeWrong
from backend.rundir import RunDir
from backend.spare import SpareDescriptors
from backend.state_log import log_change
from backend.states import advance
from backend.status import EngineSnapshot, Failure

_PROBE_LIMIT_S = 5.0
_CANNOT_SPAWN = 127
# What the box may be out of and have again; fork(2) and open(2) say so in these words.
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM})

_LOG = logging.getLogger(__name__)


class Supervisor:
    """
    One engine, kept running.

    Args:
        command: How to start it.
        settings: Times and budgets.
        probe: Asks the engine once whether it is ready; see `backend.probe`.
        on_change: Called on the loop after every change, with the new view. Must not block.
        jitter: Random numbers in [0, 1).
        run_dir: Where notes about running engines are kept; None keeps none.
        clock: The monotonic clock, in seconds.
    """

    def __init__(
        self,
        command: EngineCommand,
        settings: SupervisorSettings,
        *,
        probe: AskEngine,
        on_change: Callable[[EngineSnapshot], None],
        jitter: Callable[[], float] = random.random,
        run_dir: RunDir | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command = command
        self._machine = Machine(settings=settings)
        self._probe = probe
        self._on_change = on_change
        self._jitter = jitter
        self._run_dir = run_dir
        self._clock = clock
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._owner: asyncio.Task[None] | None = None
        self._child: Child | None = None
        self._spare = SpareDescriptors()
        self._probing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = False
        self._served_generation = 0
        self._last_complaint = ""

    @property
    def snapshot(self) -> EngineSnapshot:
        """The state now."""
        if self._child is None:
            return snapshot_of(self._machine)
        lines = self._child.lines
        return replace(snapshot_of(self._machine, tuple(lines.tail)), loaded_s=lines.loaded_s)

    def __repr__(self) -> str:
        return f"<Supervisor {self._machine!r} {self._child!r}>"

    async def start(self) -> None:
        """
        Bring the engine up, beginning now; returns at once.

        Raises:
            RuntimeError: It is running already.
        """
        if self._owner is not None and not self._owner.done():
            raise RuntimeError("the supervisor is running already")
        self._stopping = False
        self._events = asyncio.Queue()
        self._put(StartAsked())
        loop = asyncio.get_running_loop()
        self._owner = loop.create_task(self._own(), name="engine-supervisor")

    async def stop(self) -> None:
        """
        End the engine and wait until it is gone; safe in every state, and twice.

        Close the connections to it first: llama-server does not end on SIGTERM while a request is
        in flight, and would cost the whole grace time.
        """
        if self._owner is None:
            return
        if not self._stopping:
            self._stopping = True
            self._put(StopAsked())
        # A shield, because two may wait, and one who gives up must not end the owner.
        await asyncio.shield(self._owner)

    def kill(self) -> None:
        """Kill the engine's group now, whatever grace it was given; for an end that was forced."""
        if self._child is not None:
            self._child.signal_group(signal.SIGKILL)

    def unload(self) -> None:
        """
        End a ready engine to give its memory back, and keep it away until `wake`; returns at once.

        Without effect on an engine that is not ready. Close the connections to it first, as for
        `stop`.
        """
        self._put(UnloadAsked())

    def wake(self) -> None:
        """Start an engine that sleeps, or is on the way there; returns at once, else no effect."""
        self._put(WakeAsked())

    def evict(self, generation: int, cause: ExitCause) -> None:
        """
        End the process *generation*, which is of no use any more, and start another.

        Returns at once. Without effect when that process is not the ready one any more.

        Args:
            generation: As in the snapshots.
            cause: What its end is put down to: WEDGE for one that lives and gets nothing done,
                SIGNAL for one that somebody else has told to end and that does not.
        """
        self._put(EvictAsked(generation, cause))

    def note_served(self) -> None:
        """Tell that a request was answered in full. Cheap: counts once for each process."""
        if self._machine.props is None:
            # The process that served has ended, and this one has not served yet.
            return
        generation = self._machine.generation
        if generation != self._served_generation:
            self._served_generation = generation
            self._put(Served(generation))

    def _put(self, event: Event) -> None:
        self._events.put_nowait(event)

    # --- the owner

    async def _own(self) -> None:
        self._spare.fill()
        try:
            if self._run_dir is not None:
                await self._run_dir.clear_stale()
            while not self._is_over():
                self._step(await self._events.get())
        except Exception:
            _LOG.exception("the supervisor failed; the engine is given up")
            self._give_up()
        finally:
            self._spare.drop()
            self._set_timer(None)
            self._stop_probing()
            if self._child is not None and not self._machine.at_rest:
                self._child.signal_group(signal.SIGKILL)

    def _is_over(self) -> bool:
        return (
            self._stopping
            and self._machine.phase in (Phase.STOPPED, Phase.FAILED)
            and (self._events.empty())
        )

    def _step(self, event: Event) -> None:
        """One event: decide, remember, act, tell."""
        before = self._machine
        self._machine, actions = advance(before, event, self._clock())
        for action in actions:
            self._do(action)
        if self._machine.alarm_s != before.alarm_s or isinstance(event, AlarmRang):
            self._set_timer(self._machine.alarm_s)
        self._tell(before)

    def _do(self, action: Action) -> None:
        if isinstance(action, Spawn):
            self._spawn(action.generation)
        elif isinstance(action, Signal):
            self._stop_probing()
            if self._child is not None:
                self._child.signal_group(action.signum)
        elif isinstance(action, Probe):
            self._start_probing(action)
        elif isinstance(action, Tidy):
            self._stop_probing()
            self._remove_files()

    def _set_timer(self, alarm_s: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if alarm_s is not None:
            wait_s = max(0.0, alarm_s - self._clock())
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(wait_s, self._put, AlarmRang())

    def _give_up(self) -> None:
        before = self._machine
        self._machine = replace(
            before, phase=Phase.FAILED, failure=Failure.INTERNAL, since_s=self._clock()
        )
        self._tell(before)

    # --- the process

    def _spawn(self, generation: int) -> None:
        self._remove_files()
        with self._spare.lent():
            try:
                self._child = self._child_of(generation)
            except OSError as exc:
                self._put(self._spawn_failed(generation, exc))
                return
            if self._run_dir is not None:
                self._run_dir.note(self._child.pid, self._mark())
        self._put(Spawned(generation, self._child.pid))

    def _child_of(self, generation: int) -> Child:
        child = Child(
            self._command,
            loading=self._is_loading,
            on_exit=lambda returncode: self._exited(generation, child, returncode),
            clock=self._clock,
        )
        return child

    def _spawn_failed(self, generation: int, exc: OSError) -> SpawnFailed:
        if not self._machine.short:  # once for a shortage, not once for a try
            _LOG.error("cannot spawn the engine: %s", exc.strerror)
        report = ExitReport(ExitCause.LOAD_ERROR, _CANNOT_SPAWN)
        shortage = exc.errno in _SHORTAGES
        return SpawnFailed(generation, report, self._jitter(), shortage)

    def _exited(self, generation: int, child: Child, returncode: int) -> None:
        machine = self._machine
        facts = ExitFacts(
            returncode=returncode,
            signals_sent=frozenset(child.signals_sent),
            was_ready=machine.props is not None,
            oom_kills=child.oom_kills,
            evicted_for=machine.evicted_for,
            last_lines=tuple(child.lines.tail),
        )
        self._put(Exited(generation, classify(facts), self._jitter()))

    def _is_loading(self) -> bool:
        return self._machine.phase in (Phase.STARTING, Phase.LOADING)

    def _mark(self) -> str:
        address = self._command.address
        return address.path if isinstance(address, UnixAddress) else str(address.port)

    def _remove_files(self) -> None:
        """The engine never removes its socket file, and refuses to start if there is one."""
        if isinstance(self._command.address, UnixAddress):
            Path(self._command.address.path).unlink(missing_ok=True)
        if self._run_dir is not None:
            self._run_dir.forget()

    # --- probing

    def _start_probing(self, action: Probe) -> None:
        self._stop_probing()
        loop = asyncio.get_running_loop()
        self._probing = loop.create_task(self._ask(action), name="engine-probe")

    def _stop_probing(self) -> None:
        if self._probing is not None:
            self._probing.cancel()
            self._probing = None

    async def _ask(self, action: Probe) -> None:
        """One probe; always ends in an event, or probing would stop for ever."""
        await asyncio.sleep(action.delay_s)
        answer: Event = ProbeNotYet(action.generation)
        try:
            async with asyncio.timeout(_PROBE_LIMIT_S):
                result = await self._probe(self._command.address, self._command.key)
            if isinstance(result, ProbeReady):
                answer = ProbePassed(action.generation, result.props)
            elif isinstance(result, ProbeWrong):
                self._complain(result.reason)
        except TimeoutError:
            self._complain("no answer in time")
        except Exception:
            _LOG.exception("the engine's probe failed")
        self._put(answer)

    def _complain(self, reason: str) -> None:
        """Log a new reason; the same one comes ten times a second."""
        if reason != self._last_complaint:
            self._last_complaint = reason
            _LOG.warning("the engine is not ready: %s", reason)

    # --- telling

    def _tell(self, before: Machine) -> None:
        after = self._machine
        if snapshot_of(before) == snapshot_of(after):
            return
        log_change(before, after)
        try:
            self._on_change(self.snapshot)
        except Exception:
            # What others do with the news must not end the supervision.
            _LOG.exception("a listener of the engine's state failed")
