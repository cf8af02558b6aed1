"""The load generator counts right answers only: what is broken must not look fast."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from tests.bench import generator
from tests.bench.callers import Asker, Caller, Paced, Reader, Tally
from tests.bench.generator import perform
from tests.bench.job import Job
from tests.bench.upstream import EXTRA_EVENTS, Connection
from tests.bench.workloads import Workload, request_of

TOKENS = 5
RIGHT = b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"mark":true}'
Answer = Callable[[asyncio.StreamWriter], None]


@pytest.fixture
async def engine(short_dir: Path) -> AsyncIterator[str]:
    """The bench's own engine, in this process."""
    path = str(short_dir / "engine.sock")
    loop = asyncio.get_running_loop()
    async with await loop.create_unix_server(lambda: Connection({}, "bench"), path):
        yield path


def streams(path: str, kind: str, *, more: int = 0, pace_ms: float = 1.0) -> Job:
    workload = Workload("x", "x", "chat", kind, "event", 2, TOKENS, pace_ms, stream=True)
    events, request = TOKENS + EXTRA_EVENTS + more, request_of(workload, "sk-x")
    return Job(kind, request, 2, path, seconds=0.2, events=events, closes=True)


@pytest.mark.parametrize("pace_ms", [0.0, 1.0])
async def test_every_event_of_whole_streams_is_counted(engine: str, pace_ms: float) -> None:
    told = await perform(streams(engine, "stampede", pace_ms=pace_ms))
    assert told["errors"] == []
    assert told["answers"] == 2
    assert told["events"] == 2 * (TOKENS + EXTRA_EVENTS)
    assert told["first_ms"]["p50"] > 0


@pytest.mark.parametrize("pace_ms", [0.0, 1.0])
async def test_a_stream_follows_each_that_ended_on_a_new_connection(
    engine: str, pace_ms: float
) -> None:
    told = await perform(streams(engine, "streams", pace_ms=pace_ms))
    assert told["errors"] == []
    assert told["answers"] > 2
    assert told["events"] > 2 * (TOKENS + EXTRA_EVENTS)


async def test_only_what_follows_the_ramp_up_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job("closed", "", 0, over_s=1.0, warm_s=0.5, seconds=2.0)
    tally = Tally()
    paused: list[tuple[float, bool]] = []

    async def pause(seconds: float) -> None:
        paused.append((seconds, tally.measuring))

    monkeypatch.setattr(generator, "pause", pause)
    await generator._closed(job, [], tally, asyncio.get_running_loop().create_future())
    assert paused == [(1.5, False), (2.0, True)]
    assert not tally.measuring


@pytest.mark.parametrize("kind", [Asker, Reader])
def test_what_comes_while_nothing_is_measured_is_not_counted(kind: type[Asker | Reader]) -> None:
    tally = Tally()
    events = "x\n\ndata: [DONE]\n\n"
    answer = RIGHT if kind is Asker else RIGHT[:17] + f"\r\n{events}\r\n0\r\n\r\n".encode()
    for measuring in (False, True, False):
        tally.measuring = measuring
        job = Job("once", "", 1, mark='"mark"', events=2 if kind is Reader else 0)
        kind(job, b"", tally, lambda: None).data_received(answer)
    assert (tally.answers, tally.events, tally.failed) == (1, 2 if kind is Reader else 0, 0)


async def test_connection_closed_behind_a_stream_is_wrong_where_it_should_be_kept(
    engine: str,
) -> None:
    job = streams(engine, "streams")
    job.closes = False
    told = await perform(job)
    assert told["failed"] == 2
    assert "the connection was closed" in told["errors"][0]


@pytest.mark.parametrize("kind", ["streams", "stampede"])
async def test_stream_with_an_event_less_is_wrong(engine: str, kind: str) -> None:
    told = await perform(streams(engine, kind, more=1))
    assert told["failed"] == 2
    assert told["events"] == 0
    assert "9 events of 10" in told["errors"][0]


async def asked(short_dir: Path, answer: bytes, job: Job) -> dict[str, object]:
    """What comes of *job* when every request gets *answer*, cut into two writes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            while (await reader.readline()).strip():
                pass
            writer.write(answer[:20])
            await writer.drain()
            await asyncio.sleep(0)
            writer.write(answer[20:])
            if b"close" in answer:
                break
        writer.close()

    path = str(short_dir / "door.sock")
    async with await asyncio.start_unix_server(serve, path):
        job.path = path
        return await perform(job)


def closed(**rest: object) -> Job:
    request = "GET / HTTP/1.1\r\n\r\n"
    return Job("closed", request, 2, mark='"mark"', seconds=0.2, **rest)  # type: ignore[arg-type]


async def test_answers_that_come_in_parts_are_whole_ones(short_dir: Path) -> None:
    told = await asked(short_dir, RIGHT, closed())
    assert told["failed"] == 0
    assert told["answers"] > 2  # type: ignore[operator]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(RIGHT.replace(b"200 OK", b"503 Busy"), id="another status"),
        pytest.param(RIGHT.replace(b"mark", b"work"), id="another body"),
        pytest.param(RIGHT + b"x", id="a byte too many"),
        pytest.param(RIGHT.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), id="closing"),
    ],
)
async def test_wrong_answer_is_told_and_never_counted_as_fast(
    short_dir: Path, answer: bytes
) -> None:
    told = await asked(short_dir, answer, closed())
    assert told["failed"] == 2
    assert told["errors"]


async def test_requests_at_a_fixed_rate_come_in_turn_whether_answers_came_or_not() -> None:
    asked: list[int] = []

    class Told(Paced):
        def start(self) -> None:
            asked.append(callers.index(self))
            if len(asked) == 7:
                raise EOFError

    tally = Tally()
    job = Job("paced", "", 3, rate=1e6)
    callers: list[Caller] = [Told(job, b"", tally, lambda: None) for _ in range(3)]
    with pytest.raises(EOFError):
        await generator._at_rate(job, callers)
    assert asked == [0, 1, 2, 0, 1, 2, 0]


def test_time_of_a_request_that_had_to_wait_runs_from_when_it_was_due() -> None:
    clock = iter([1.0, 2.0, 5.0, 5.5, 7.0])  # asked, due, answered, asked, answered
    tally = Tally()
    tally.measuring = True
    caller = Paced(Job("paced", "", 1, mark='"mark"', rate=1.0), b"?", tally, lambda: None)
    caller.time = lambda: next(clock)
    sent = Mock(spec=asyncio.Transport)
    caller.connection_made(sent)
    caller.start()
    caller.start()
    assert sent.write.call_count == 1
    caller.data_received(RIGHT)
    caller.data_received(RIGHT)
    assert (sent.write.call_count, list(tally.took_s)) == (2, [4.0, 5.0])


async def test_refusal_that_closes_is_asked_for_again(short_dir: Path) -> None:
    answer = b'HTTP/1.1 401 No\r\nConnection: close\r\nContent-Length: 13\r\n\r\n{"mark":true}'
    told = await asked(short_dir, answer, closed(status=401))
    assert told["failed"] == 0
    assert told["answers"] > 2  # type: ignore[operator]
