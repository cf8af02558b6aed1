"""RunPod's own SDK takes jobs from a fake queue and carries them out with a real gateway."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.fakes.runpod_queue import Job, RunpodQueue
from tests.support.callers import until
from tests.support.worker import SDK, Worker, running_worker

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
LONG = "mock: tokens=2000 delay_ms=20"


def chat(text: str, **fields: Any) -> dict[str, Any]:
    """The input of a job as the platform makes it of a chat at /openai/v1."""
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 4000, **fields}
    return {"openai_route": CHAT, "openai_input": body}


def events(job: Job) -> list[Any]:
    """The data of a streamed job's events; the end mark as it is."""
    data = "".join(job.pieces).split("\n\n")
    assert data.pop() == "", "a piece splits an event"
    assert all(piece.endswith("\n\n") for piece in job.pieces)
    assert all(each.startswith("data: ") for each in data)
    words = (each.removeprefix("data: ") for each in data)
    return [word if word == "[DONE]" else json.loads(word) for word in words]


def text_of(job: Job) -> str:
    """What a streamed chat said."""
    chunks = [each for each in events(job) if each != "[DONE]"]
    return "".join(c["delta"].get("content") or "" for e in chunks for c in e.get("choices", ()))


@asynccontextmanager
async def at_work(
    folder: Path, scale: float = 0.01, **env: str
) -> AsyncIterator[tuple[Worker, RunpodQueue]]:
    """A worker that takes jobs, and its platform, whose long polls end after 90 s by *scale*."""
    async with RunpodQueue(scale) as queue:
        async with running_worker(folder, {**queue.environment(), **env}) as running:
            await queue.until(lambda: bool(queue.asked_for and queue.beats))
            running.settle()
            assert set(running.family) == {"gateway", "engine", "sdk", "heartbeat"}
            yield running, queue


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[Worker, RunpodQueue]]:
    """One worker for all tests that leave it as it was."""
    async with at_work(tmp_path_factory.mktemp("worker")) as both:
        yield both


@pytest.fixture
def platform(shared: tuple[Worker, RunpodQueue]) -> RunpodQueue:
    """The shared worker's platform."""
    return shared[1]


async def begun(platform: RunpodQueue, job: Job) -> None:
    """Wait until a streamed job has given something."""
    await platform.until(lambda: bool(job.pieces))


async def test_jobs_of_every_shape_are_carried_out(platform: RunpodQueue) -> None:
    streamed = await platform.submit(chat("mock: say=one two three", stream=True))
    assert "error" not in await platform.done(streamed)
    assert streamed.result == {"output": streamed.pieces}
    assert text_of(streamed) == "one two three"
    assert events(streamed)[-1] == "[DONE]"

    whole = await platform.submit(chat("mock: say=all at once"))
    (reply,) = (await platform.done(whole))["output"]
    assert reply["object"] == "chat.completion"
    assert reply["choices"][0]["message"]["content"] == "all at once"

    models = await platform.submit({"openai_route": "/v1/models", "openai_input": {}})
    (listed,) = (await platform.done(models))["output"]
    assert (listed["object"], len(listed["data"])) == ("list", 1)

    plain = await platform.submit({"prompt": "mock: say=plain", "sampling_params": {"n": 1}})
    (reply,) = (await platform.done(plain))["output"]
    assert reply["choices"][0]["text"] == "plain"

    health = await platform.submit({"route": "/health"})
    assert (await platform.done(health))["output"]


async def test_many_tokens_come_in_few_pieces(platform: RunpodQueue) -> None:
    job = await platform.submit(chat("mock: tokens=200 delay_ms=2", stream=True))
    await platform.done(job)
    assert len([e for e in events(job) if e != "[DONE]" and e.get("choices")]) >= 200
    assert len(job.pieces) < 60


async def test_failure_before_any_output_fails_the_job_with_an_openai_error(
    platform: RunpodQueue,
) -> None:
    refused = {
        "invalid_job": {"openai_route": "/reload", "openai_input": {"a": 1}},
        "not_found": {"route": "/v1/nothing"},
    }
    for code, given in refused.items():
        job = await platform.submit(given)
        error = json.loads((await platform.done(job))["error"])["error"]
        assert job.status == "FAILED"
        assert error["code"] == code
        assert error["message"]
    job = await platform.submit(chat("hi", stream=True, max_tokens="many"))
    error = json.loads((await platform.done(job))["error"])["error"]
    assert (job.status, job.pieces) == ("FAILED", [])
    assert error["param"] == "max_tokens"


async def test_failure_in_a_stream_is_an_event_of_it(platform: RunpodQueue) -> None:
    job = await platform.submit(chat("mock: tokens=9 delay_ms=20 crash_after=5", stream=True))
    await platform.done(job)
    assert job.status == "COMPLETED"
    assert len(text_of(job)) > 0
    assert events(job)[-1]["error"]["code"]


@pytest.mark.parametrize("posting", [False, True], ids=["between pieces", "while a piece is sent"])
async def test_cancelled_job_gives_its_slot_back(platform: RunpodQueue, posting: bool) -> None:
    endless = [await platform.submit(chat(LONG, stream=True)) for _ in range(2)]
    if posting:
        platform.kept_waiting |= {job.id for job in endless}
        await platform.until(lambda: platform.waiting_posts == platform.kept_waiting)
    for job in endless:
        await begun(platform, job)
        await platform.stop(job)

    both = [await platform.submit(chat("mock: say=now")) for _ in range(2)]
    for job in both:
        assert "error" not in await platform.done(job)
    platform.answer_all()
    assert [job.result for job in endless] == [None, None]


async def test_as_many_jobs_run_at_a_time_as_there_are_slots(platform: RunpodQueue) -> None:
    jobs = [await platform.submit(chat(LONG, stream=True)) for _ in range(3)]
    await begun(platform, jobs[0])
    await begun(platform, jobs[1])
    assert jobs[2].pieces == []
    assert max(platform.asked_for) == 2
    await platform.stop(jobs[0])
    await begun(platform, jobs[2])
    await platform.until(lambda: jobs[2].id in (platform.beats[-1] or ""))
    for job in jobs[1:]:
        await platform.stop(job)
    await platform.until(lambda: platform.beats[-1] is None)


async def test_sigterm_finishes_what_runs_and_what_still_comes(tmp_path: Path) -> None:
    async with at_work(tmp_path, scale=0.02) as (worker, platform):
        running = await platform.submit(chat("mock: tokens=50 delay_ms=20", stream=True))
        await begun(platform, running)
        # A question for jobs that has just been asked brings one more after the signal.
        asked = len(platform.asked_for)
        await platform.until(lambda: len(platform.asked_for) > asked)
        assert len(list(worker.temporary.glob("llama-gateway-worker-*"))) == 1
        worker.signal()
        await worker.said("SIGTERM")
        late = await platform.submit(chat("mock: say=late"))

        assert await worker.wait() == 0
        assert events(running)[-1] == "[DONE]"
        assert late.status == "COMPLETED"
        assert worker.survivors() == []
        assert list(worker.temporary.glob("llama-gateway-worker-*")) == []


async def test_jobs_that_outlast_the_drain_are_told_so(tmp_path: Path) -> None:
    async with at_work(tmp_path, DRAIN_TIMEOUT="1") as (worker, platform):
        job = await platform.submit(chat(LONG, stream=True))
        await begun(platform, job)
        worker.signal()
        assert await worker.wait() == 0
        assert events(job)[-1]["error"]["code"] == "draining"
        assert job.status == "COMPLETED"
        assert worker.survivors() == []


async def test_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    async with at_work(tmp_path) as (worker, platform):
        await begun(platform, await platform.submit(chat(LONG, stream=True)))
        worker.signal()
        await worker.said("SIGTERM")
        worker.signal(signal.SIGINT)
        assert await worker.wait() == 128 + signal.SIGINT
        assert worker.survivors() == []


async def test_nothing_outlives_a_worker_that_was_killed(tmp_path: Path) -> None:
    async with at_work(tmp_path) as (worker, platform):
        await begun(platform, await platform.submit(chat(LONG, stream=True)))
        worker.signal(signal.SIGKILL)
        assert await worker.wait() == -signal.SIGKILL
        await asyncio.to_thread(until, lambda: worker.survivors() == [])


async def test_gateway_that_dies_takes_the_worker_with_it(tmp_path: Path) -> None:
    async with at_work(tmp_path) as (worker, platform):
        job = await platform.submit(chat(LONG, stream=True))
        await begun(platform, job)
        worker.family["gateway"].kill()
        assert await worker.wait() == 128 + signal.SIGKILL
        await asyncio.to_thread(until, lambda: worker.survivors() == [])
        assert job.status == "COMPLETED"
        assert events(job)[-1]["error"]["code"] == "gateway_unavailable"


async def test_sdk_that_ends_takes_the_gateway_with_it(tmp_path: Path) -> None:
    async def end(number: int) -> int:
        async with at_work(tmp_path / str(number)) as (worker, _):
            worker.family["sdk"].send_signal(number)
            code = await worker.wait()
            assert worker.survivors() == []
            return code

    codes = await asyncio.gather(end(signal.SIGTERM), end(signal.SIGKILL))
    assert codes == [0, 128 + signal.SIGKILL]


async def test_gateway_that_cannot_start_ends_the_worker(tmp_path: Path) -> None:
    async with RunpodQueue() as platform:
        env = {"USE_MOCK_MODEL": "false", "MODEL_PATH": str(tmp_path / "none.gguf")}
        settings = {**platform.environment(), **env, "FAILED_EXIT_DELAY": "0"}
        async with running_worker(tmp_path, settings) as worker:
            assert await worker.wait() == 1
            assert platform.asked_for == []


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({}, "llama-gateway[runpod]"),
        ({"PYTHONPATH": str(SDK)}, "RUNPOD_WEBHOOK_GET_JOB is not set"),
    ],
    ids=["no SDK", "no queue"],
)
async def test_what_stands_in_the_way_is_said(
    tmp_path: Path, env: dict[str, str], words: str
) -> None:
    async with running_worker(tmp_path, {"PYTHONPATH": "", **env}) as worker:
        assert await worker.wait() == 1
        await worker.said(re.escape(words))
