"""The service as a pod: probes while it loads, drains, loses its engine or fails for good."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import psutil

from tests.conftest import Serve
from tests.fakes.kubelet import Ending, Kubelet, Probe
from tests.support.aio import DONE, AsyncCaller, contents
from tests.support.pods import Deployment, ServicePod
from tests.support.raw import unfinished_request

SCALE = 1 / 50
"""Real seconds for one of Kubernetes': a readiness period of 5 s is 0.1 s."""
LOOSE_S = 50.0
"""Time limit of each probe: a second, so that a busy machine fails none."""
STARTUP = Probe("/startupz", 5, LOOSE_S, 360)
READINESS = Probe("/readyz", 5, LOOSE_S, 1)
LIVENESS = Probe("/livez", 5, LOOSE_S, 2)
STEADY = "mock: tokens=80 delay_ms=10"


def watch(pod: ServicePod, *, ending: Ending | None = None, startup: Probe = STARTUP) -> Kubelet:
    """A kubelet that is quicker to judge than a real one with our probes."""
    return Kubelet(
        pod,
        SCALE,
        startup=startup,
        readiness=READINESS,
        liveness=LIVENESS,
        ending=ending or Ending(grace_s=300),
    )


def caller(deployment: Deployment) -> AsyncCaller:
    return AsyncCaller(deployment.pods[0].url, {"X-API-Key": deployment.key})


async def engine_pid(deployment: Deployment) -> int:
    pid = (await caller(deployment).get("/info")).json()["engine"]["pid"]
    assert isinstance(pid, int)
    return pid


async def test_loading_pod_is_never_killed_and_gets_no_traffic(
    serve: Serve, tmp_path: Path
) -> None:
    deployment = Deployment(serve, tmp_path, EXTRA_ARGS="--load-s 1")
    async with watch(deployment.pod()) as kubelet:
        await kubelet.run()
        await kubelet.journal.has("ready")
        startups = [status for path, status in kubelet.probes if path == "/startupz"]
        assert len(startups) >= 5
        assert set(startups[:-1]) == {503}
        assert startups[-1] == 200
        assert kubelet.journal == ["started", "ready"]
        assert (await caller(deployment).chat()).status_code == 200
        await kubelet.terminate()
        await kubelet.journal.has("exit 0")
        assert kubelet.kills == []


async def test_pod_that_loads_for_longer_than_the_startup_probe_allows_is_ended_cleanly(
    serve: Serve, tmp_path: Path
) -> None:
    deployment = Deployment(serve, tmp_path, EXTRA_ARGS="--load-s 60")
    startup = Probe("/startupz", 5, LOOSE_S, 3)
    async with watch(deployment.pod(), startup=startup) as kubelet:
        await kubelet.run()
        await kubelet.journal.until(lambda: kubelet.exit_code is not None)
        assert kubelet.kills == ["startup probe failed"]
        assert kubelet.exit_code == 0


async def test_draining_pod_is_unready_at_the_next_probe_and_finishes_its_stream(
    serve: Serve, tmp_path: Path
) -> None:
    deployment = Deployment(serve, tmp_path, DRAIN_TIMEOUT="5", DRAIN_DELAY="0")
    async with watch(deployment.pod(), ending=Ending(pre_stop_s=10, grace_s=330)) as kubelet:
        await kubelet.run()
        await kubelet.journal.has("ready")
        async with caller(deployment).streaming(STEADY, max_tokens=80) as (_, lines):
            got = [await anext(lines)]
            ending = kubelet.spawn(kubelet.terminate())
            await kubelet.journal.has("TERM")
            at_term = len(kubelet.probes)
            await kubelet.journal.has("unready")
            got += [line async for line in lines]
        await ending
        assert contents(got) == 80
        assert got[-1] == DONE
        after = kubelet.probes[at_term:]
        # One may have been under way when the signal came.
        assert [status for path, status in after if path == "/readyz"].count(200) <= 1
        assert {status for path, status in after if path == "/livez"} <= {200, 0}
        assert (kubelet.kills, kubelet.exit_code) == ([], 0)


async def test_pod_that_drains_beyond_its_grace_is_killed_by_the_kubelet_alone(
    serve: Serve, tmp_path: Path
) -> None:
    """What a DRAIN_TIMEOUT longer than the grace costs: the stream is cut, not ended."""
    deployment = Deployment(serve, tmp_path, DRAIN_TIMEOUT="30")
    async with watch(deployment.pod(), ending=Ending(pre_stop_s=5, grace_s=20)) as kubelet:
        await kubelet.run()
        await kubelet.journal.has("ready")
        endless = "mock: tokens=100000 delay_ms=10"
        async with caller(deployment).streaming(endless, max_tokens=4000) as (_, lines):
            await anext(lines)
            await kubelet.terminate()
        await kubelet.journal.has(f"exit {-signal.SIGKILL}")
        assert kubelet.kills == ["grace over"]


async def test_dead_engine_makes_the_pod_unready_and_never_restarts_it(
    serve: Serve, tmp_path: Path
) -> None:
    deployment = Deployment(serve, tmp_path, EXTRA_ARGS="--load-s 0.5")
    async with watch(deployment.pod()) as kubelet:
        await kubelet.run()
        await kubelet.journal.has("ready")
        gateway = deployment.pods[0].service.pid
        os.kill(await engine_pid(deployment), signal.SIGKILL)
        await kubelet.journal.has("unready")
        await kubelet.journal.until(lambda: kubelet.journal[-1] == "ready")
        assert kubelet.journal == ["started", "ready", "unready", "ready"]
        assert {status for path, status in kubelet.probes if path == "/livez"} == {200}
        assert kubelet.kills == []
        assert psutil.pid_exists(gateway)
        assert (await caller(deployment).chat()).status_code == 200


async def test_sleeping_pod_stays_ready_and_probes_do_not_wake_it(
    serve: Serve, tmp_path: Path
) -> None:
    deployment = Deployment(serve, tmp_path, IDLE_ACTION="unload", IDLE_TIMEOUT="0.5")
    async with watch(deployment.pod()) as kubelet:
        await kubelet.run()
        await kubelet.journal.has("ready")
        service = deployment.pods[0].service
        await asyncio.to_thread(service.wait_for, "engine sleeping")
        asked = len(kubelet.probes)
        await kubelet.journal.until(lambda: len(kubelet.probes) >= asked + 20)
        state = (await AsyncCaller(service.health_url, {}).get("/health")).json()
        assert state["state"] == "sleeping"
        assert (await caller(deployment).chat()).status_code == 200
        assert kubelet.journal == ["started", "ready"]
        assert kubelet.kills == []


async def test_idle_exit_comes_although_the_probes_go_on(serve: Serve, tmp_path: Path) -> None:
    deployment = Deployment(serve, tmp_path, IDLE_ACTION="exit", IDLE_TIMEOUT="1")
    async with watch(deployment.pod()) as kubelet:
        await kubelet.run()
        await kubelet.journal.has("ready")
        await kubelet.journal.until(lambda: kubelet.exit_code is not None)
        assert (kubelet.exit_code, kubelet.kills) == (0, [])


async def test_engine_that_dies_at_each_load_ends_the_pod_with_one(
    serve: Serve, tmp_path: Path
) -> None:
    deployment = Deployment(
        serve, tmp_path, EXTRA_ARGS="--fail-load", CRASH_LIMIT="2", RESTART_BACKOFF_MAX="0.1"
    )
    async with watch(deployment.pod()) as kubelet:
        await kubelet.run()
        await kubelet.journal.until(lambda: kubelet.exit_code is not None)
        assert kubelet.exit_code == 1
        assert "failed to load model" in deployment.pods[0].service.output
        assert "started" not in kubelet.journal
        assert kubelet.kills == []


async def test_pod_whose_engine_is_beyond_repair_is_not_live_any_more(
    serve: Serve, tmp_path: Path
) -> None:
    deployment = Deployment(serve, tmp_path, CRASH_LIMIT="1", DRAIN_TIMEOUT="20")
    async with watch(deployment.pod()) as kubelet:
        await kubelet.run()
        await kubelet.journal.has("ready")
        pid = await engine_pid(deployment)
        with unfinished_request(deployment.pods[0].service.port, deployment.key):
            os.kill(pid, signal.SIGKILL)
            await kubelet.journal.until(lambda: ("/livez", 503) in kubelet.probes)
            await kubelet.journal.has("unready")
        await kubelet.journal.has("exit 1")
        assert set(kubelet.kills) <= {"liveness probe failed"}
