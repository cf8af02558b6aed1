"""How the benchmark asks and counts, against a server that answers what it is told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from scripts.benchmarking.ask import Asker, open_session
from scripts.benchmarking.figures import LevelFigures
from scripts.benchmarking.measure import Book, CannotMeasure, Watcher, measure
from scripts.benchmarking.plan import Endpoint, Plan
from scripts.benchmarking.samples import Failure, Refusals, Sample

KEY = "sk-canary"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"
WORD = b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":null}]}\n\n'
FINISH = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"


def whole(body: bytes) -> bytes:
    """A stream whose length is told."""
    return STREAM + b"Content-Length: %d\r\n\r\n" % len(body) + body


def cut(body: bytes) -> bytes:
    """A stream whose connection is lost."""
    return STREAM + b"Content-Length: %d\r\n\r\n" % (len(body) + 10) + body


def reply(status: int, body: object, *headers: str) -> bytes:
    text = json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json", "Connection: close"]
    return "\r\n".join([*lines, *headers, f"Content-Length: {len(text)}", "", ""]).encode() + text


GOOD = whole(WORD + WORD + FINISH + DONE)
LOST = whole(WORD + b'data: {"error":{"message":"lost"}}\n\n')
MODELS = reply(200, {"data": [{"id": "first"}, {"id": "second"}]})

Answer = Callable[[Any], bytes | None]
"""The body of a request (None for a GET) -> the bytes of its reply; None: never answered."""


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[Endpoint]:
    """A server with one connection for each request."""
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = [line[15:] for line in head.split(b"\r\n") if line.startswith(b"Content-Length")]
        body = json.loads(await reader.readexactly(int(length[0]))) if length else None
        answered = answer(body)
        if answered is None:
            await gone.wait()
        writer.write(answered or b"")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield Endpoint(f"http://127.0.0.1:{port}/v1", KEY)
    finally:
        gone.set()
        server.close()
        await server.wait_closed()


async def ask(
    replies: Sequence[bytes | None], refusals: Refusals | None = None, timeout_s: float = 30.0
) -> Sample | Failure:
    """Ask once; the server gives *replies* one after the other."""
    left = iter(replies)
    async with serving(lambda body: next(left)) as endpoint, open_session(30.0) as session:
        return await Asker(session, endpoint, timeout_s).ask(b"{}", refusals or Refusals())


async def test_whole_answer_is_a_sample() -> None:
    sample = await ask([GOOD])
    assert isinstance(sample, Sample)
    assert (sample.tokens, sample.from_usage, len(sample.gaps_s)) == (2, False, 1)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (whole(WORD + FINISH), "truncated"),
        (whole(WORD + DONE), "truncated"),
        (whole(WORD + FINISH + b"data: [DO"), "truncated"),
        (whole(b""), "truncated"),
        (cut(WORD + FINISH), "broken stream"),
        (LOST, "broken stream"),
        (whole(b"data: nonsense\n\n"), "broken stream"),
        (whole(FINISH + DONE), "empty"),
        (b"", "connection"),
        (reply(200, {"choices": []}), "no stream"),
        (reply(307, {}, "Location: /elsewhere"), "http 307"),
        (reply(500, {"error": {"message": "x"}}), "http 500"),
        (reply(503, {"error": {"message": "x"}}), "http 503"),
        (reply(429, {"error": {"message": "x"}}, "x-should-retry: false"), "http 429"),
    ],
)
async def test_answer_that_is_not_whole_is_a_failure(answer: bytes, kind: str) -> None:
    outcome = await ask([answer])
    assert isinstance(outcome, Failure)
    assert outcome.kind == kind


async def test_server_that_never_answers_is_left() -> None:
    outcome = await ask([None], timeout_s=0.05)
    assert isinstance(outcome, Failure)
    assert outcome.kind == "timeout"


async def test_refusal_is_waited_for_and_counted() -> None:
    refusals = Refusals()
    soon = [
        reply(429, {}, "retry-after-ms: 2", "Retry-After: 60"),
        reply(503, {}, "Retry-After: 0"),
    ]
    assert isinstance(await ask([*soon, GOOD], refusals), Sample)
    assert (refusals.count, refusals.waited_s) == (2, 0.002)


async def test_refusals_without_end_are_one_failure() -> None:
    refusals = Refusals()
    never = reply(429, {"error": {"message": "later"}}, "retry-after-ms: 0")
    outcome = await ask([never] * 10, refusals)
    assert outcome == Failure("http 429", "later")
    assert refusals.count == 9


async def test_key_that_a_server_repeats_is_not_told() -> None:
    outcome = await ask([reply(400, {"error": {"message": f"no such key: {KEY}"}})])
    assert outcome == Failure("http 400", "no such key: ***")


def by_turns(answers: Sequence[bytes]) -> Answer:
    """*answers* in turn, without end; the list of models to each GET."""
    count = 0

    def answer(body: Any) -> bytes:
        nonlocal count
        if body is None:
            return MODELS
        count += 1
        return answers[(count - 1) % len(answers)]

    return answer


class Told(Watcher):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.ends: list[tuple[int, int]] = []
        self.refusals: list[tuple[int, Failure, float]] = []
        self.levels: list[tuple[int, int, int]] = []

    def ended(self, which: int, streams: int) -> None:
        self.ends.append((which, streams))

    def refused(self, which: int, refusal: Failure, wait_s: float) -> None:
        self.refusals.append((which, refusal, wait_s))

    def finished(self, which: int, level: LevelFigures) -> None:
        self.levels.append((which, level.streams, level.succeeded))


async def measured(plan: Plan, *answers: Answer) -> tuple[Book, Told]:
    """Measure servers that answer so; the book, and what was told meanwhile."""
    told = Told()
    async with AsyncExitStack() as stack:
        endpoints = [await stack.enter_async_context(serving(each)) for each in answers]
        book = Book(endpoints)
        await measure(plan, book, told)
    return book, told


async def test_endpoints_take_turns_in_going_first() -> None:
    plan = Plan(concurrency=(1, 2), requests=1, rounds=3)
    book, told = await measured(plan, by_turns([GOOD]), by_turns([GOOD]))
    alone = [(0, 1), (1, 1), (1, 1), (0, 1), (0, 1), (1, 1)]
    assert told.ends[:6] == alone
    assert told.ends[6:] == [(which, 2) for which, _ in alone for _ in range(2)]
    first, second = book.figures()
    assert [level.succeeded for level in first.levels] == [3, 6]
    assert [level.succeeded for level in second.levels] == [3, 6]
    assert told.levels == [(0, 1, 3), (1, 1, 3), (0, 2, 6), (1, 2, 6)]


async def test_refusal_is_told_before_it_is_waited_for() -> None:
    later = reply(429, {"error": {"message": f"later, {KEY}"}}, "retry-after-ms: 1")
    book, told = await measured(Plan(concurrency=(1,), requests=3), by_turns([GOOD, later]))
    assert told.refusals == [(0, Failure("http 429", "later, ***"), 0.001)] * 3
    level = book.figures()[0].levels[0]
    assert (level.succeeded, level.refusals, level.total_rate) == (3, 3, None)


async def test_connection_that_a_server_closed_is_replaced() -> None:
    """llama-server does so after each stream, without saying it."""
    silent = GOOD.replace(b"Connection: close\r\n", b"Keep-Alive: timeout=5\r\n")
    book, _ = await measured(Plan(concurrency=(2,), requests=6), by_turns([silent]))
    level = book.figures()[0].levels[0]
    assert (level.succeeded, level.failures) == (6, {})


async def test_model_is_the_first_that_is_listed() -> None:
    asked: list[Any] = []

    def answer(body: Any) -> bytes:
        asked.append(body)
        return MODELS if body is None else GOOD

    book, _ = await measured(Plan(concurrency=(1,), requests=2), answer)
    assert [body["model"] for body in asked[1:]] == ["first"] * 3
    assert book.figures()[0].model == "first"


async def test_server_that_wants_another_field_gets_it() -> None:
    fields: list[Any] = []

    def answer(body: Any) -> bytes:
        if body is None:
            return MODELS
        fields.append(body)
        if "max_tokens" in body:
            return reply(400, {"error": {"message": "Use 'max_completion_tokens' instead."}})
        if "stream_options" in body:
            return reply(400, {"error": {"message": "Unknown: stream_options"}})
        return GOOD

    book, _ = await measured(Plan(concurrency=(1,), requests=2, max_tokens=7), answer)
    assert (book.figures()[0].levels[0].succeeded, len(fields)) == (2, 5)
    assert fields[-1]["max_completion_tokens"] == 7


async def test_server_that_only_fails_is_given_up() -> None:
    answers = iter([GOOD])
    book, _ = await measured(
        Plan(concurrency=(1,), requests=500),
        lambda body: MODELS if body is None else next(answers, LOST),
    )
    level = book.figures()[0].levels[0]
    assert (level.succeeded, level.failures, level.gave_up) == (0, {"broken stream": 10}, True)


async def test_what_was_measured_stays_when_the_budget_is_spent() -> None:
    answers = iter([GOOD, GOOD, GOOD])
    plan = Plan(concurrency=(1,), requests=500, budget_s=0.5)

    def answer(body: Any) -> bytes | None:
        return MODELS if body is None else next(answers, None)

    async with serving(answer) as endpoint:
        book = Book([endpoint])
        with pytest.raises(TimeoutError):
            await measure(plan, book, Watcher())
    level = book.figures()[0].levels[0]
    assert (level.succeeded, level.failed, level.unfinished) == (2, 0, 1)


@pytest.mark.parametrize(
    ("models", "chat", "words"),
    [
        (
            reply(401, {"error": {"message": f"bad {KEY}"}}),
            GOOD,
            "^the server does not accept.*bad \\*\\*\\*",
        ),
        (reply(200, {"data": []}), GOOD, "empty.*--model"),
        (MODELS, reply(404, {"detail": "no such model"}), "http 404: no such model"),
        (MODELS, whole(WORD), "truncated"),
    ],
    ids=["key", "list", "chat", "stream"],
)
async def test_endpoint_that_does_not_answer_is_told_why(
    models: bytes, chat: bytes, words: str
) -> None:
    with pytest.raises(CannotMeasure, match=words):
        await measured(Plan(), lambda body: models if body is None else chat)
