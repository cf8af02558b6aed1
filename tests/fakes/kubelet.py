"""Kubernetes' kubelet: the probes of one container, and how it is ended.

From the Kubernetes documentation ("Configure Liveness, Readiness and Startup Probes", and the API's
text on Lifecycle.preStop):

- a probe succeeds with a status from 200 to 399; anything else, or no answer in time, is a failure;
- the startup probe comes first, alone; its success is final. Then liveness and readiness run;
- failureThreshold failures in a row: startup and liveness end the container (and restart it),
  readiness takes it out of the endpoints; one success brings it back;
- ending: preStop, then TERM, then KILL after terminationGracePeriodSeconds (default 30), a
  countdown that begins before preStop.

Newer kubelets stop probing the liveness of a pod that is being ended; this one goes on, as older
ones did, because it is the stricter of the two. A container that ended is not started again: the
journal says that it would have been.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from tests.fakes.journal import Journal
from tests.fakes.pod import Pod, end
from tests.fakes.server import FakeServer

SUCCESS = range(200, 400)


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe of a container; Kubernetes' defaults: 10, 1 and 3."""

    path: str
    period_s: float = 10.0
    timeout_s: float = 1.0
    failure_threshold: int = 3


STARTUP = Probe("/startupz", 5, 2, 360)
READINESS = Probe("/readyz", 5, 2, 2)
LIVENESS = Probe("/livez", 10, 5, 6)
"""The three of a deployment of ours."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a container is ended, in Kubernetes' seconds."""

    pre_stop_s: float = 0.0
    grace_s: float = 30.0


class Kubelet(FakeServer):
    """Runs one pod; `journal` tells what became of it, `probes` what each probe got.

    Args:
        pod: Not started.
        scale: Real seconds for one of Kubernetes'.
        startup, readiness, liveness: The probes of the container.
        ending: preStop and grace.
    """

    def __init__(
        self,
        pod: Pod,
        scale: float,
        *,
        startup: Probe = STARTUP,
        readiness: Probe = READINESS,
        liveness: Probe = LIVENESS,
        ending: Ending = Ending(),
    ) -> None:
        super().__init__(scale)
        self.pod = pod
        self._startup, self._readiness, self._liveness = startup, readiness, liveness
        self._ending = ending
        self._terminating = False
        self.in_endpoints = False
        self.kills: list[str] = []
        """Why the kubelet ended the container, or cut its grace; empty in a good life."""
        self.probes: list[tuple[str, int]] = []
        """Path and status of each probe, in order."""
        self.exit_code: int | None = None
        self.journal = Journal()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """A kubelet serves nobody."""
        raise web.HTTPNotFound

    async def run(self) -> None:
        """Start the pod and watch over it; `journal` says "started" once it is up."""
        await self.pod.open()
        self.spawn(self._see_end())
        self.spawn(self._startup_then_others())

    async def terminate(self, *, why: str = "") -> None:
        """End the pod; returns when it is gone.

        Args:
            why: A probe that failed; empty when somebody deleted the pod.
        """
        if why and why not in self.kills:
            self.kills.append(why)
        if self._terminating:
            return
        self._terminating = True
        self.journal.note("terminating")
        pre_stop_s = min(self._ending.pre_stop_s, self._ending.grace_s)
        await self.pause(pre_stop_s)
        self.journal.note("TERM")
        _, killed = await end(self.pod, self.real(self._ending.grace_s - pre_stop_s))
        if killed:
            self.kills.append("grace over")

    # -- probes

    async def _startup_then_others(self) -> None:
        done = await self._until_verdict(self._startup)
        if not done:
            await self.terminate(why="startup probe failed")
            return
        self.journal.note("started")
        self.spawn(self._watch(self._liveness, self._on_liveness))
        self.spawn(self._watch(self._readiness, self._on_readiness))

    async def _until_verdict(self, probe: Probe) -> bool:
        """Whether the first success came before too many failures in a row."""
        for _ in range(probe.failure_threshold):
            if await self._ask(probe):
                return True
            await self.pause(probe.period_s)
        return False

    async def _watch(self, probe: Probe, tell: Callable[[bool], None]) -> None:
        """Probe for as long as the container lives, and tell each verdict."""
        failures = 0
        while self.exit_code is None:
            good = await self._ask(probe)
            failures = 0 if good else failures + 1
            if good or failures >= probe.failure_threshold:
                tell(good)
            await self.pause(probe.period_s)

    async def _ask(self, probe: Probe) -> bool:
        status = await self.poll(self.pod.health_url + probe.path, probe.timeout_s)
        self.probes.append((probe.path, status))
        self.journal.wake()
        return status in SUCCESS

    def _on_liveness(self, good: bool) -> None:
        # Of a container that ended by itself the last probes find nothing; that is no verdict.
        if not good and self.exit_code is None:
            self.spawn(self.terminate(why="liveness probe failed"))

    def _on_readiness(self, good: bool) -> None:
        if good != self.in_endpoints:
            self.in_endpoints = good
            self.journal.note("ready" if good else "unready")

    async def _see_end(self) -> None:
        self.exit_code = await self.pod.ended()
        self.journal.note(f"exit {self.exit_code}")
