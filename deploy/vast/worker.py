"""The PyWorker: Vast's own server, told where the gateway is and how to measure it.

It stands on the worker's public port, checks that Vast's router has signed a request, and passes
the request's payload on to the gateway, on loopback and without any of the client's headers. It
takes the model for ready when the gateway has written so into MODEL_LOG, a benchmark has
succeeded, and the gateway's health path answers 200. Tested with vastai 1.9.1.

Environment, besides what Vast sets itself:
    MODEL_LOG              the file that the gateway is told to write, by the same variable
    PORT                   the gateway's API port on 127.0.0.1; 18000
    MODEL_HEALTH_ENDPOINT  its health path; /health
    PARALLEL               the gateway's slots, by the same variable: requests of the benchmark; 4
    BENCHMARK_RUNS, BENCHMARK_TOKENS  how often, and how long each answer is; 3 and 500
"""

from __future__ import annotations

import os
import random
from typing import Any

from aiohttp import ClientResponse, web
from vastai import BenchmarkConfig, HandlerConfig, LogActionConfig, Worker, WorkerConfig

# What an answer without a limit of its own is taken for, in tokens.
DEFAULT_TOKENS = 512
# Tokens are about four characters; reading one costs about a tenth of writing one.
CHARACTERS_PER_TOKEN = 4
READ_SHARE = 0.1
_OF_THE_HOP = ("connection", "content-length", "date", "keep-alive", "transfer-encoding")
_WORDS = ("river", "stone", "cloud", "garden", "window", "silver", "morning", "letter", "forest")


def answer_workload(payload: dict[str, Any]) -> float:
    """The tokens that an answer to *payload* may have; never below 1, and finite."""
    for name in ("max_completion_tokens", "max_tokens"):
        tokens = payload.get(name)
        if isinstance(tokens, int) and not isinstance(tokens, bool) and tokens > 0:
            return float(min(tokens, 1_000_000))
    return float(DEFAULT_TOKENS)


def embedding_workload(payload: dict[str, Any]) -> float:
    """The share of an answer's work that reading the text of *payload* takes; at least 1."""
    texts = payload.get("input")
    texts = texts if isinstance(texts, list) else [texts]
    # A list of numbers is tokens already.
    tokens = sum(len(t) / CHARACTERS_PER_TOKEN if isinstance(t, str) else 1 for t in texts)
    return max(1.0, tokens * READ_SHARE)


def benchmark_request(tokens: int) -> dict[str, Any]:
    """A request for exactly *tokens* tokens; a prompt no cache has seen."""
    prompt = "Tell a long story about " + ", ".join(random.choices(_WORDS, k=20))  # noqa: S311
    return {"prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "stream": False}


async def pass_on(request: web.Request, reply: ClientResponse) -> web.StreamResponse:
    """
    Send the gateway's reply to the client, each piece as it comes.

    The SDK's own way does not hang up on the gateway when the client has left (1.9.1), so that
    the answer would be written to its end; and it drops a stream's headers.
    """
    try:
        answer = web.StreamResponse(status=reply.status)
        for name, value in reply.headers.items():
            if name.lower() not in _OF_THE_HOP:
                answer.headers.add(name, value)
        await answer.prepare(request)
        async for piece in reply.content.iter_any():
            await answer.write(piece)
        await answer.write_eof()
        return answer
    finally:
        reply.close()


def worker_config(environ: dict[str, str]) -> WorkerConfig:
    """What the PyWorker is told; KeyError where MODEL_LOG is missing."""
    tokens = int(environ.get("BENCHMARK_TOKENS", "500"))
    benchmark = BenchmarkConfig(
        generator=lambda: benchmark_request(tokens),
        runs=int(environ.get("BENCHMARK_RUNS", "3")),
        # As many as there are slots: more would only measure our own queue.
        concurrency=int(environ.get("PARALLEL", "4")),
    )
    return WorkerConfig(
        model_server_url="http://127.0.0.1",
        model_server_port=int(environ.get("PORT", "18000")),
        model_log_file=environ["MODEL_LOG"],
        model_healthcheck_url=environ.get("MODEL_HEALTH_ENDPOINT", "/health"),
        handlers=[
            _handler("/v1/chat/completions", answer_workload),
            _handler("/v1/completions", answer_workload, benchmark),
            _handler("/v1/embeddings", embedding_workload),
        ],
        # Refuses every session; 0 and None would mean any number. Making one needs no signature,
        # and its on_close_route would let a stranger have requests sent to the gateway.
        max_sessions=-1,
        # One of the gateway's two lines: both would start the benchmark twice.
        log_action_config=LogActionConfig(
            on_load=["GATEWAY READY model="], on_error=["GATEWAY FATAL "]
        ),
    )


def _handler(route: str, workload: Any, benchmark: BenchmarkConfig | None = None) -> HandlerConfig:
    return HandlerConfig(
        route=route,
        workload_calculator=workload,
        response_generator=pass_on,
        benchmark_config=benchmark,
        # The gateway queues, and knows its slots. The SDK would work on one request at a time, and
        # refuse by what answers may cost at most: eight long limits would look like minutes.
        allow_parallel_requests=True,
        max_queue_time=None,
    )


if __name__ == "__main__":
    Worker(worker_config(dict(os.environ))).run()  # noqa: TID251 (no part of the service)
