"""The service behind something that scales it from zero and back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.fakes.activator import Activator
from tests.support.aio import DONE, AsyncCaller, contents
from tests.support.engine_stats import engine_stats
from tests.support.pods import Deployment

SCALE = 1 / 100
"""Real seconds for one of the platform's."""
STEADY = "mock: tokens=80 delay_ms=10"
LATE = "mock: prefill_ms=1500 tokens=2"


def client(activator: Activator, deployment: Deployment) -> AsyncCaller:
    return AsyncCaller(activator.url, {"X-API-Key": deployment.key})


def in_front_of(
    deployment: Deployment,
    *,
    idle_s: float = 3000,
    response_start_s: float = 3000,
    total_s: float = 3000,
) -> Activator:
    """An activator with time for a busy machine; 3000 are 30 real seconds."""
    return Activator(
        deployment.pod,
        SCALE,
        readiness_s=3000,
        response_start_s=response_start_s,
        total_s=total_s,
        idle_s=idle_s,
    )


@pytest.mark.parametrize("streamed", [False, True], ids=["one piece", "stream"])
async def test_scale_from_zero_answers_the_first_request(
    serve: Serve, tmp_path: Path, streamed: bool
) -> None:
    deployment = Deployment(serve, tmp_path, EXTRA_ARGS="--load-s 0.5")
    async with in_front_of(deployment) as activator:
        first = await client(activator, deployment).chat(stream=streamed)
        assert first.status_code == 200
        assert first.headers["x-keda-http-cold-start"] == "true"
        assert first.text.endswith("data: [DONE]\n\n") == streamed
        second = await client(activator, deployment).chat(stream=streamed)
        assert second.status_code == 200
        assert second.headers["x-keda-http-cold-start"] == "false"
        assert activator.journal == ["start", "ready"]


async def test_stream_holds_its_pod_and_its_end_lets_it_go(serve: Serve, tmp_path: Path) -> None:
    deployment = Deployment(serve, tmp_path)
    async with in_front_of(deployment, idle_s=30) as activator:  # 0.3 s; the stream takes 0.8 s
        lines = await client(activator, deployment).stream(STEADY, max_tokens=80)
        assert contents(lines) == 80
        assert lines[-1] == DONE
        assert activator.journal == ["start", "ready"]
        await activator.journal.has("exit 0")
        assert activator.journal == ["start", "ready", "to zero", "exit 0"]


async def test_after_zero_the_next_request_starts_it_again(serve: Serve, tmp_path: Path) -> None:
    deployment = Deployment(serve, tmp_path)
    async with in_front_of(deployment, idle_s=5) as activator:
        for _ in range(2):
            assert (await client(activator, deployment).chat()).status_code == 200
            await activator.journal.until(lambda: activator.journal[-1] == "exit 0")
        assert activator.journal == ["start", "ready", "to zero", "exit 0"] * 2


async def test_heartbeat_is_the_start_of_the_response(serve: Serve, tmp_path: Path) -> None:
    """Knative's limit on the response's start is met by a comment, long before the first token."""
    deployment = Deployment(serve, tmp_path, HEARTBEAT_AFTER="0.1")
    async with in_front_of(deployment, response_start_s=75) as activator:  # half of the wait
        lines = await client(activator, deployment).stream(LATE)
        assert lines[0].startswith(":")
        assert lines[-1] == DONE


async def test_without_a_heartbeat_the_same_response_starts_too_late(
    serve: Serve, tmp_path: Path
) -> None:
    deployment = Deployment(serve, tmp_path, HEARTBEAT_AFTER="60")
    async with in_front_of(deployment, response_start_s=75) as activator:
        assert (await client(activator, deployment).chat(LATE, stream=True)).status_code == 504


async def test_stream_that_is_cut_at_the_total_deadline_gives_its_slot_back(
    serve: Serve, tmp_path: Path
) -> None:
    deployment = Deployment(serve, tmp_path)
    async with in_front_of(deployment, total_s=60) as activator:
        endless = "mock: tokens=100000 delay_ms=10"
        got = await client(activator, deployment).broken_stream(endless, max_tokens=4000)
        assert contents(got) > 0
        assert DONE not in got
        assert activator.journal == ["start", "ready", "cut 504"]
        stats = await asyncio.to_thread(engine_stats, deployment.pods[0].service, active=0)
        assert stats["active"] == 0
