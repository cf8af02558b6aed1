"""The service behind RunPod's load balancer: cold start, keys, idle, the end of a worker."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import httpx
import pytest

from tests.conftest import Serve
from tests.fakes.journal import without_repeats
from tests.fakes.runpod_lb import RunpodLoadBalancer, Worker
from tests.support.aio import DONE, AsyncCaller, contents
from tests.support.pods import Deployment, ServicePod, children_end_with

RUNPOD_KEY = "rpa_0123456789"
SCALE = 1 / 10
"""Real seconds for one of RunPod's: the hold of 2 min is 12 s, which a busy machine needs."""
STEADY = "mock: tokens=60 delay_ms=10"


def endpoint(serve: Serve, folder: Path, **env: str) -> Deployment:
    """The settings of an endpoint, as RunPod and our template give them."""
    here = {
        "PLATFORM": "runpod-serverless",
        "RUNPOD_ENDPOINT_ID": "ep1",
        "RUNPOD_POD_ID": "pod1",
        "HEALTH_CHECK_PATH": "/ping",
    }
    return Deployment(serve, folder, **here, **env)


def client(balancer: RunpodLoadBalancer, key: str | None) -> AsyncCaller:
    """With the caller's RunPod key where the platform wants it, and ours beside it."""
    ours = {"X-API-Key": key} if key is not None else {}
    return AsyncCaller(balancer.url, {"Authorization": f"Bearer {RUNPOD_KEY}", **ours})


def balance(
    deployment: Deployment,
    scale: float = SCALE,
    *,
    forward_bearer: bool = True,
    idle_timeout_s: float = 600.0,
    grace_s: float = 10.0,
    poll_s: float = 0.5,
) -> RunpodLoadBalancer:
    """A balancer that looks more often and is more patient with idle workers than RunPod's."""
    return RunpodLoadBalancer(
        deployment.pod,
        scale,
        forward_bearer=forward_bearer,
        idle_timeout_s=idle_timeout_s,
        grace_s=grace_s,
        poll_s=poll_s,
    )


def only(balancer: RunpodLoadBalancer) -> tuple[Worker, ServicePod]:
    (worker,) = balancer.workers
    assert isinstance(worker.pod, ServicePod)
    return worker, worker.pod


@pytest.mark.parametrize("streamed", [False, True], ids=["one piece", "stream"])
async def test_first_request_is_held_until_the_worker_is_up_and_then_answered(
    serve: Serve, tmp_path: Path, streamed: bool
) -> None:
    deployment = endpoint(serve, tmp_path, EXTRA_ARGS="--load-s 0.5")
    async with balance(deployment) as balancer:
        reply = await client(balancer, deployment.key).chat(stream=streamed)
        assert reply.status_code == 200
        worker, _ = only(balancer)
        assert reply.headers["x-runpod-worker-id"] == worker.id
        assert without_repeats(worker.statuses) == [204, 200]
        assert worker.cold_start_s >= 0.4


async def test_worker_that_loads_for_longer_than_the_hold_refuses_nobody_itself(
    serve: Serve, tmp_path: Path
) -> None:
    deployment = endpoint(serve, tmp_path, EXTRA_ARGS="--load-s 30")
    async with balance(deployment, scale=1 / 120) as balancer:  # a hold of one second
        worker = balancer.start_worker()
        await balancer.journal.until(lambda: bool(worker.statuses))
        reply = await client(balancer, deployment.key).chat()
        assert (reply.status_code, reply.json()) == (400, {"error": "no workers available"})
        assert set(worker.statuses) == {204}


async def test_ping_while_loading_lets_requests_wait_here_instead_of_at_the_balancer(
    serve: Serve, tmp_path: Path
) -> None:
    deployment = endpoint(
        serve, tmp_path, EXTRA_ARGS="--load-s 0.6", PING_WHILE_LOADING="200", HEARTBEAT_AFTER="0.1"
    )
    async with balance(deployment) as balancer:
        lines = await client(balancer, deployment.key).stream("hi")
        assert lines[0].startswith(":")
        assert lines[-1] == DONE
        assert set(only(balancer)[0].statuses) == {200}


@pytest.mark.parametrize("forward", [True, False], ids=["bearer forwarded", "bearer stripped"])
async def test_key_in_its_own_header_works_whatever_becomes_of_the_bearer(
    serve: Serve, tmp_path: Path, forward: bool
) -> None:
    deployment = endpoint(serve, tmp_path)
    async with balance(deployment, forward_bearer=forward) as balancer:
        good = await client(balancer, deployment.key).chat()
        assert good.status_code == 200
        without = await client(balancer, None).chat()
        assert without.status_code == 401
        assert "X-API-Key" in without.json()["error"]["hint"]
        nobody = await AsyncCaller(balancer.url, {"X-API-Key": deployment.key}).chat()
        assert (nobody.status_code, nobody.json()) == (401, {"error": "unauthorized"})
        output = only(balancer)[1].service.output
        assert RUNPOD_KEY not in output


async def test_body_beyond_our_limit_is_refused_here_and_one_beyond_30_mb_by_the_balancer(
    serve: Serve, tmp_path: Path
) -> None:
    deployment = endpoint(serve, tmp_path, MAX_REQUEST_BODY_SIZE="64KiB")
    async with balance(deployment) as balancer:
        caller = client(balancer, deployment.key)
        ours = await caller.chat("a" * 70_000)
        assert (ours.status_code, ours.json()["error"]["code"]) == (413, "payload_too_large")
        theirs = await caller.chat("a" * 30_000_000)
        assert (theirs.status_code, theirs.json()) == (413, {"error": "body too large"})


@pytest.mark.parametrize(("limit_s", "status"), [("1", 504), ("60", 524)])
async def test_our_time_limit_is_told_as_json_when_it_is_shorter_than_the_platforms(
    serve: Serve, tmp_path: Path, limit_s: str, status: int
) -> None:
    deployment = endpoint(serve, tmp_path, REQUEST_TIMEOUT=limit_s)
    async with balance(deployment, scale=1 / 110, poll_s=5.0) as balancer:  # 5.5 min are 3 s
        worker = balancer.start_worker()
        await balancer.journal.until(lambda: worker.healthy)
        reply = await client(balancer, deployment.key).chat("mock: hang_head")
        assert reply.status_code == status
        ours = {504: "engine_timeout"}.get(status)
        error = reply.json()["error"]
        assert error == "timeout" if ours is None else error["code"] == ours


async def test_worker_killed_at_once_leaves_no_engine_behind(serve: Serve, tmp_path: Path) -> None:
    deployment = endpoint(serve, tmp_path)
    async with balance(deployment, grace_s=0.0) as balancer:
        caller = client(balancer, deployment.key)
        async with caller.streaming(STEADY, max_tokens=60) as (_, lines):
            await anext(lines)
            worker, pod = only(balancer)
            with children_end_with(pod.service):
                balancer.scale_down(worker)
                await balancer.journal.has(f"end {worker.id}")
            assert worker.killed
            assert worker.exit_code == -signal.SIGKILL
            with pytest.raises(httpx.TransportError):
                _ = [line async for line in lines]


async def test_running_stream_ends_well_within_a_grace_of_ten_seconds(
    serve: Serve, tmp_path: Path
) -> None:
    deployment = endpoint(serve, tmp_path, DRAIN_TIMEOUT="2.5")
    async with balance(deployment, scale=1 / 3) as balancer:  # 10 s of grace are 3.3 s
        caller = client(balancer, deployment.key)
        async with caller.streaming(STEADY, max_tokens=60) as (_, lines):
            got = [await anext(lines)]
            worker, pod = only(balancer)
            with children_end_with(pod.service):
                balancer.scale_down(worker)
                got += [line async for line in lines]
                await balancer.journal.has(f"end {worker.id}")
        assert contents(got) == 60
        assert got[-1] == DONE
        assert (worker.exit_code, worker.killed) == (0, False)
        assert set(worker.statuses[worker.statuses.index(200) :]) <= {200, 503, 0}


async def test_polls_of_health_alone_never_keep_a_worker_up(serve: Serve, tmp_path: Path) -> None:
    deployment = endpoint(serve, tmp_path)
    async with balance(deployment, idle_timeout_s=12.0, poll_s=0.25) as balancer:
        assert (await client(balancer, deployment.key).chat()).status_code == 200
        worker, pod = only(balancer)
        polls = len(worker.statuses)
        await balancer.journal.until(lambda: len(worker.statuses) >= polls + 20)
        assert await idle_s(pod) > 0.4  # twenty polls, 25 ms apart
        await balancer.journal.has(f"end {worker.id}")
        assert (worker.exit_code, worker.killed) == (0, False)


async def test_our_own_idle_clock_does_not_count_polls_either(serve: Serve, tmp_path: Path) -> None:
    deployment = endpoint(serve, tmp_path, IDLE_ACTION="exit", IDLE_TIMEOUT="1")
    async with balance(deployment, poll_s=0.25) as balancer:
        assert (await client(balancer, deployment.key).chat()).status_code == 200
        _, pod = only(balancer)
        async with asyncio.timeout(10):
            assert await pod.ended() == 0


async def test_stream_is_a_request_in_flight_until_its_end(serve: Serve, tmp_path: Path) -> None:
    deployment = endpoint(serve, tmp_path)
    async with balance(
        deployment, idle_timeout_s=2.0
    ) as balancer:  # the stream is three times as long
        lines = await client(balancer, deployment.key).stream(STEADY, max_tokens=60)
        assert lines[-1] == DONE
        assert balancer.journal == ["start worker-0"]
        await balancer.journal.has("end worker-0")
        again = await client(balancer, deployment.key).chat()
        assert again.headers["x-runpod-worker-id"] == "worker-1"


async def test_process_that_was_stopped_and_revived_serves_on(serve: Serve, tmp_path: Path) -> None:
    """FlashBoot may freeze a worker and revive it later."""
    deployment = endpoint(serve, tmp_path)
    async with balance(deployment) as balancer:
        caller = client(balancer, deployment.key)
        assert (await caller.chat()).status_code == 200
        worker, pod = only(balancer)
        pod.signal(signal.SIGSTOP)
        await balancer.journal.until(lambda: worker.statuses[-1] == 0)
        pod.signal(signal.SIGCONT)
        await balancer.journal.until(lambda: worker.statuses[-1] == 200)
        assert (await caller.chat()).status_code == 200


async def idle_s(pod: ServicePod) -> float:
    """What the service's own metrics say."""
    text = (await AsyncCaller(pod.health_url, {}).get("/metrics")).text
    (line,) = [line for line in text.splitlines() if line.startswith("gateway_idle_seconds ")]
    return float(line.split()[1])
