"""Streams through proxies that give up on silence, or that hold responses back."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.conftest import Serve
from tests.fakes.read_timeout_proxy import ReadTimeoutProxy
from tests.support.aio import DONE, AsyncCaller, comments, contents
from tests.support.pods import Deployment, ServicePod

SCALE = 1 / 100
"""Real seconds for one of the proxy's: its limit of 100 s is one second."""
HEARTBEATS = {"HEARTBEAT_AFTER": "0.05", "HEARTBEAT_INTERVAL": "0.15"}
"""The defaults, 5 and 15 s, at the same scale."""
SILENT = {"HEARTBEAT_AFTER": "60", "HEARTBEAT_INTERVAL": "60"}
LATE = "mock: prefill_ms=4000 tokens=3"
"""The first token after 400 s, at the same scale."""


async def ready(serve: Serve, folder: Path, **env: str) -> tuple[Deployment, ServicePod]:
    deployment = Deployment(serve, folder, **env)
    pod = deployment.pod()
    await pod.open()
    await pod.ready()
    return deployment, pod


def client(base: str, deployment: Deployment) -> AsyncCaller:
    return AsyncCaller(base, {"X-API-Key": deployment.key})


async def test_stream_whose_first_token_comes_after_400_s_survives_a_limit_of_100_s(
    serve: Serve, tmp_path: Path
) -> None:
    deployment, pod = await ready(serve, tmp_path, **HEARTBEATS)
    async with ReadTimeoutProxy(pod.url, SCALE) as proxy:
        lines = await client(proxy.url, deployment).stream(LATE, max_tokens=3)
        assert len(comments(lines)) >= 10  # about 27 when nothing else runs
        assert contents(lines) == 3
        assert lines[-1] == DONE
        assert proxy.journal == ["passed"]


async def test_the_same_stream_without_heartbeats_is_given_up_with_524(
    serve: Serve, tmp_path: Path
) -> None:
    deployment, pod = await ready(serve, tmp_path, **SILENT)
    async with ReadTimeoutProxy(pod.url, SCALE) as proxy:
        reply = await client(proxy.url, deployment).chat(LATE, stream=True)
        assert reply.status_code == 524
        assert proxy.journal == ["524"]


async def test_stream_that_falls_silent_after_its_head_is_cut_and_never_looks_finished(
    serve: Serve, tmp_path: Path
) -> None:
    deployment, pod = await ready(serve, tmp_path, HEARTBEAT_AFTER="0.05", HEARTBEAT_INTERVAL="60")
    async with ReadTimeoutProxy(pod.url, SCALE) as proxy:
        got = await client(proxy.url, deployment).broken_stream(LATE)
        assert len(comments(got)) == 1
        assert DONE not in got
        assert proxy.journal == ["cut"]


async def test_heartbeats_carry_a_stream_through_the_load_of_a_model(
    serve: Serve, tmp_path: Path
) -> None:
    deployment = Deployment(serve, tmp_path, EXTRA_ARGS="--load-s 2.5", **HEARTBEATS)
    pod = deployment.pod()
    await pod.open()
    async with ReadTimeoutProxy(pod.url, SCALE) as proxy:
        lines = await client(proxy.url, deployment).stream("hi")
        assert len(comments(lines)) >= 2
        assert lines[-1] == DONE


async def test_heartbeats_carry_a_stream_through_the_wake_of_a_sleeping_engine(
    serve: Serve, tmp_path: Path
) -> None:
    sleepy = {"IDLE_ACTION": "unload", "IDLE_TIMEOUT": "0.3", "EXTRA_ARGS": "--load-s 2"}
    deployment, pod = await ready(serve, tmp_path, **HEARTBEATS, **sleepy)
    await asyncio.to_thread(pod.service.wait_for, "engine sleeping")
    async with ReadTimeoutProxy(pod.url, SCALE) as proxy:
        lines = await client(proxy.url, deployment).stream("hi")
        assert len(comments(lines)) >= 2
        assert lines[-1] == DONE


async def test_proxy_that_buffers_lets_our_streams_through_because_the_header_says_so(
    serve: Serve, tmp_path: Path
) -> None:
    deployment, pod = await ready(serve, tmp_path)
    endless = "mock: tokens=100000 delay_ms=10"
    async with ReadTimeoutProxy(pod.url, SCALE, read_timeout_s=1000, buffering=True) as proxy:
        async with client(proxy.url, deployment).streaming(endless, max_tokens=4000) as (
            reply,
            lines,
        ):
            assert reply.headers["x-accel-buffering"] == "no"
            assert (await anext(lines)).startswith("data: {")
        assert proxy.journal == []  # it was not over when the first event was here


async def test_proxy_that_ignores_the_header_holds_everything_back(
    serve: Serve, tmp_path: Path
) -> None:
    """The control of the test above: this proxy does buffer."""
    deployment, pod = await ready(serve, tmp_path)
    proxy = ReadTimeoutProxy(
        pod.url, SCALE, read_timeout_s=1000, buffering=True, obeys_origin=False
    )
    async with proxy:
        steady = "mock: tokens=30 delay_ms=10"
        async with client(proxy.url, deployment).streaming(steady, max_tokens=30) as (_, lines):
            await anext(lines)
            assert proxy.journal == ["passed"]
