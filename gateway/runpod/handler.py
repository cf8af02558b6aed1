"""Carries out one job: a request to the gateway on this machine, its reply as the job's output.

What a job's output looks like (found with the SDK, 1.12.0):

- a stream is given as strings of whole server-sent events, anything else as one dict;
- a dict with ``error`` fails the job. The SDK makes a string of what is in it, so it is JSON text
  in OpenAI's shape already. This is how a failure is told before there was any output;
- after that, a failure is the last event of the stream, without [DONE] after it, and the job
  ends as completed;
- a job that was cancelled gets CancelledError, or is just not asked for its next piece. Both close
  the connection to the gateway, which frees the slot.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import aiohttp
import orjson
from yarl import URL

from gateway.runpod.coalesce import Coalescer
from gateway.runpod.jobs import BadJob, JobCall, failure, job_call

__all__ = ["Handler", "make_handler"]

Handler = Callable[[dict[str, Any]], AsyncGenerator[Any, None]]

_CONNECT_S = 10.0
_MESSAGES = "/v1/messages"
_BROKEN = failure(
    "The connection to the gateway broke off.", code="gateway_unavailable", kind="server_error"
)


def make_handler(base_url: str, key: str, clock: Callable[[], float]) -> Handler:
    """
    The handler for the SDK: an async generator function over jobs.

    Args:
        base_url: The gateway, without a path.
        key: An API key of it.
        clock: Monotonic seconds.
    """

    async def handle(job: dict[str, Any]) -> AsyncGenerator[Any, None]:
        try:
            call = job_call(job.get("input"))
        except BadJob as exc:
            yield {"error": failure(str(exc), code="invalid_job")}
            return
        begun = False
        try:
            async with aclosing(_outputs(base_url, key, call, clock)) as outputs:
                async for output in outputs:
                    begun = True
                    yield output
            return
        except (aiohttp.ClientError, OSError):
            # TimeoutError is an OSError too.
            pass
        yield _last_event(call.path) if begun else {"error": _BROKEN}

    return handle


def _last_event(path: str) -> str:
    """How a stream of *path* is told that it broke off."""
    if path != _MESSAGES:
        return f"data: {_BROKEN}\n\n"
    # Anthropic's SDKs skip an event without this name, and take the stream for complete.
    told = {**orjson.loads(_BROKEN)["error"], "type": "api_error"}
    return f"event: error\ndata: {orjson.dumps({'type': 'error', 'error': told}).decode()}\n\n"


async def _outputs(
    base_url: str, key: str, call: JobCall, clock: Callable[[], float]
) -> AsyncGenerator[Any, None]:
    # A session for each job: the SDK changes its loop once and closes nothing at the end.
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
    ) as session:
        async with session.request(
            call.method,
            URL(base_url + call.path, encoded=True),
            data=orjson.dumps(call.body) if call.body is not None else None,
            headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
            allow_redirects=False,
        ) as reply:
            with _closed_with_task(reply):
                if reply.content_type != "text/event-stream":
                    yield _whole(reply.status, await reply.read())
                    return
                async for piece in _pieces(reply.content, clock):
                    yield piece


async def _pieces(content: aiohttp.StreamReader, clock: Callable[[], float]) -> AsyncIterator[str]:
    """The stream in pieces. An event that never ended is not given; one that did always is.

    Raises:
        aiohttp.ClientError: The connection broke off, after what came before it was given.
    """
    coalescer = Coalescer()
    ended, broken = False, None
    while not ended:
        try:
            async with asyncio.timeout(coalescer.wait_s(clock())):
                data = await content.readany()
            ended = not data
            coalescer.add(data)
        except TimeoutError:
            # The events that were gathered are due.
            pass
        except aiohttp.ClientError as exc:
            ended, broken = True, exc
        wait_s = coalescer.wait_s(clock())
        if wait_s is not None and (ended or wait_s <= 0):
            yield coalescer.take(clock())
    if broken is not None:
        raise broken


def _whole(status: int, body: bytes) -> dict[str, Any]:
    """A reply that is no stream: its object, or what fails the job."""
    if status >= 400:
        return {"error": body.decode("utf-8", "replace") or _BROKEN}
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {"error": failure("The reply is not JSON.", code="bad_reply", kind="server_error")}
    return found if isinstance(found, dict) else {"output": found}


@contextmanager
def _closed_with_task(reply: aiohttp.ClientResponse) -> Iterator[None]:
    """Close *reply* when the SDK's task ends.

    A job that is cancelled while the SDK posts a piece leaves this generator where it is, and
    nothing is thrown into it until the garbage is collected; the slot must not wait for that.
    """

    def close(_: object) -> None:
        reply.close()

    task = asyncio.current_task()
    assert task is not None
    task.add_done_callback(close)
    try:
        yield
    finally:
        task.remove_done_callback(close)
        reply.close()
