"""What is left when a part of the chain is gone: the engine, the gateway, or the client."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import httpx
import openai
import psutil
import pytest

from tests.conftest import Serve
from tests.support.engine_stats import engine_stats
from tests.support.service import ServiceProcess
from tests.tiny_gguf import Shape, write_tiny_gguf

CHAT = "/v1/chat/completions"
PROMPTLY_S = 2.0
LONG = "mock: tokens=3000 delay_ms=5"


def client_of(service: ServiceProcess) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{service.url}/v1", api_key=service.key, max_retries=0, timeout=30
    )


def get(service: ServiceProcess, path: str) -> Any:
    headers = {"Authorization": f"Bearer {service.key}"}
    return httpx.get(f"{service.url}{path}", headers=headers, timeout=10).json()


def engine_pid(service: ServiceProcess) -> int:
    pid = get(service, "/info")["engine"]["pid"]
    assert isinstance(pid, int)
    return pid


def until(what: Callable[[], bool], timeout_s: float = 15.0) -> None:
    """Wait for something that nobody tells of."""
    deadline_s = time.monotonic() + timeout_s
    pause = threading.Event()
    while not what():
        assert time.monotonic() < deadline_s, "it did not come about"
        pause.wait(0.02)


def asked(service: ServiceProcess, body: dict[str, Any], path: str = CHAT) -> bytes:
    """A request as it goes over the wire."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {service.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


# -- the engine


@pytest.fixture
def slow_service(serve: Serve, tmp_path: Path, llama_server: Path) -> ServiceProcess:
    """A service on the real engine, whose answers take seconds."""
    shape = Shape(dim=512, layers=4, heads=8, ffn=2048)
    model = write_tiny_gguf(tmp_path / "slow.gguf", shape=shape)
    return serve(
        LLAMA_SERVER=str(llama_server),
        MODEL_PATH=str(model),
        CTX="8192",
        PARALLEL="1",
        THREADS="1",
    ).ready()


def test_engine_killed_in_mid_stream_is_told_and_replaced(slow_service: ServiceProcess) -> None:
    client = client_of(slow_service)
    killed = engine_pid(slow_service)
    stream = client.chat.completions.create(model="slow", messages=user("hi"), stream=True)
    chunks = iter(stream)
    assert next(chunks).choices
    os.kill(killed, signal.SIGKILL)
    with pytest.raises(openai.APIError) as broken:
        list(chunks)
    assert broken.value.code == "engine_restarted"
    reply = client.chat.completions.create(model="slow", messages=user("hi"), max_tokens=5)
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 5
    facts = get(slow_service, "/info")["engine"]
    assert facts["pid"] != killed
    assert facts["restarts"] == 1


def test_engine_killed_while_it_answers_in_one_piece_is_not_noticed(
    slow_service: ServiceProcess,
) -> None:
    """The client has nothing of the answer, so the next engine makes all of it."""
    client = client_of(slow_service)
    killed = engine_pid(slow_service)
    engine = psutil.Process(killed)
    idle_s = engine.cpu_times().user
    answers: list[Any] = []

    def ask() -> None:
        create = client.chat.completions.create
        answers.append(create(model="slow", messages=user("hi"), max_tokens=1000))

    thread = threading.Thread(target=ask)
    thread.start()
    # A slot that was given is not yet a request that has reached the engine.
    until(lambda: engine.cpu_times().user > idle_s + 0.2)
    os.kill(killed, signal.SIGKILL)
    thread.join(60)
    (answer,) = answers
    assert answer.usage.completion_tokens == 1000
    assert engine_pid(slow_service) != killed
    until(lambda: "replays=1" in slow_service.output)


# -- the gateway


@pytest.mark.parametrize("engine", ["mock", "llama-server"])
def test_engine_does_not_outlive_a_killed_gateway(
    serve: Serve, llama_server: Path, models: Path, engine: str
) -> None:
    real = {"LLAMA_SERVER": str(llama_server), "MODEL_PATH": str(models / "tiny.gguf")}
    env = {"USE_MOCK_MODEL": "true"} if engine == "mock" else {**real, "CTX": "4096"}
    service = serve(**env).ready()
    children = psutil.Process(service.pid).children(recursive=True)
    assert engine_pid(service) in [child.pid for child in children]
    watches = [os.pidfd_open(child.pid) for child in children]
    stream = client_of(service).chat.completions.create(
        model="tiny" if engine != "mock" else "mock", messages=user(LONG), stream=True
    )
    assert next(iter(stream)).choices
    service.signal(signal.SIGKILL)
    assert service.wait() == -signal.SIGKILL
    for watch in watches:
        gone, _, _ = select.select([watch], [], [], 15)
        os.close(watch)
        assert gone, "a child is still there"


# -- the client


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "one piece"])
def test_client_who_leaves_stops_the_engines_work(
    mock_service: ServiceProcess, stream: bool
) -> None:
    body = {"messages": user(LONG), "stream": stream, "max_tokens": 3000}
    with socket.create_connection(("127.0.0.1", mock_service.port), timeout=10) as peer:
        peer.sendall(asked(mock_service, body))
        if stream:
            assert peer.recv(4096).startswith(b"HTTP/1.1 200")
        engine_stats(mock_service, active=1)
    left_s = time.monotonic()
    stats = engine_stats(mock_service, active=0)
    assert time.monotonic() - left_s < PROMPTLY_S
    assert stats["abandoned"] == 1
    until(lambda: get(mock_service, "/gpu/status")["in_flight"] == 0)


def test_client_who_leaves_the_real_engine_frees_its_slot(slow_service: ServiceProcess) -> None:
    client = client_of(slow_service)
    for _ in range(3):
        with client.chat.completions.create(
            model="slow", messages=user("hi"), stream=True
        ) as stream:
            assert next(iter(stream)).choices
    # With one slot, this would wait for three answers of some ten seconds each.
    left_s = time.monotonic()
    client.chat.completions.create(model="slow", messages=user("hi"), max_tokens=1)
    assert time.monotonic() - left_s < 2 * PROMPTLY_S


def test_client_who_leaves_the_queue_gives_up_the_place(serve: Serve) -> None:
    service = serve(USE_MOCK_MODEL="true", PARALLEL="1").ready()
    body = {"messages": user(LONG), "stream": True, "max_tokens": 3000}
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as first:
        first.sendall(asked(service, body))
        engine_stats(service, active=1)
        with socket.create_connection(("127.0.0.1", service.port), timeout=10) as second:
            second.sendall(asked(service, body))
            until(lambda: get(service, "/gpu/status")["queued"] == 1)
        until(lambda: get(service, "/gpu/status")["queued"] == 0, PROMPTLY_S)
    assert engine_stats(service, active=0)["requests"] == engine_stats(service)["requests"]
    chats = engine_stats(service)["paths"][f"POST {CHAT}"]
    assert chats == 1, "the engine was asked for somebody who had left"


# -- many clients, a third of whom leave

REQUESTS = 1000
AT_A_TIME = 24
GROWTH_LIMIT_BYTES = 6 << 20


def some_request(random: Random, service: ServiceProcess) -> tuple[bytes, bytes]:
    """A request, and how a complete reply to it ends."""
    tokens, delay_ms = random.randint(1, 20), random.choice((0, 0, 1, 2))
    script = f"mock: tokens={tokens} delay_ms={delay_ms}"
    kind = random.choice(("stream", "stream", "stream", "chat", "chat", "text", "vector", "bad"))
    if kind == "vector":
        return asked(service, {"input": ["one", "two"]}, "/v1/embeddings"), b"}"
    if kind == "text":
        body: dict[str, Any] = {"prompt": script, "stream": random.random() < 0.5}
        end = b"data: [DONE]\n\n\r\n0\r\n\r\n" if body["stream"] else b"}"
        return asked(service, body, "/v1/completions"), end
    if kind == "bad":
        return asked(service, {"messages": user("mock: error=500")}), b"}}"
    if kind == "chat":
        return asked(service, {"messages": user(script), "n": random.choice((1, 1, 2))}), b"}"
    options = {"stream": True, "stream_options": {"include_usage": random.random() < 0.5}}
    return asked(service, {"messages": user(script), **options}), b"data: [DONE]\n\n\r\n0\r\n\r\n"


async def one_client(random: Random, service: ServiceProcess) -> bool:
    """Ask one thing; whether the client stayed to the end."""
    request, end = some_request(random, service)
    leaves = random.random() < 1 / 3
    sent = random.randrange(1, len(request)) if leaves and random.random() < 0.2 else len(request)
    patience_bytes = random.choice((0, 1, 300, 1500, 4000)) if leaves else 1 << 30
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    try:
        writer.write(request[:sent])
        await writer.drain()
        got = b""
        while not leaves or (sent == len(request) and len(got) < patience_bytes):
            data = await reader.read(4096)
            got += data
            if not data or got.endswith(end):
                break
        if not leaves:
            assert got.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 502 ")), got
            assert got.endswith(end), got[-300:]
        return not leaves
    finally:
        if random.random() < 0.5:
            writer.transport.abort()
        writer.close()


async def many_clients(seed: int, service: ServiceProcess) -> int:
    """How many of them stayed."""
    random = Random(seed)
    seeds = [random.random() for _ in range(REQUESTS)]
    turns = asyncio.Semaphore(AT_A_TIME)

    async def one(own: float) -> bool:
        async with turns:
            return await one_client(Random(own), service)

    async with asyncio.timeout(60):
        return sum(await asyncio.gather(*map(one, seeds)))


def gauge(service: ServiceProcess, name: str) -> float:
    text = httpx.get(f"{service.health_url}/metrics", timeout=10).text
    (value,) = [line.split()[-1] for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(value)


def test_thousand_clients_leave_nothing_behind(serve: Serve) -> None:
    service = serve(USE_MOCK_MODEL="true", PARALLEL="8").ready()
    gateway = psutil.Process(service.pid)
    get(service, "/v1/models")

    def at_rest() -> bool:
        return gateway.num_fds() <= resting_fds

    resting_fds = gateway.num_fds()
    sizes = []
    for seed in (1, 2, 3):
        stayed = asyncio.run(many_clients(seed, service))
        assert REQUESTS / 2 < stayed < REQUESTS
        # Unused connections to the engine are closed after 4 s.
        stats = engine_stats(service, active=0, waiting=0, open=0)
        assert stats["max_active"] <= 8
        until(at_rest)
        sizes.append(gateway.memory_info().rss)
    assert gauge(service, "gateway_requests_in_flight") == 0
    assert gauge(service, "gateway_requests_pending") == 0
    # The first round fills caches and pools; what a later one adds would be added by each.
    assert sizes[2] - sizes[1] < GROWTH_LIMIT_BYTES, sizes
    assert sizes[1] - sizes[0] < GROWTH_LIMIT_BYTES, sizes
    health = httpx.get(f"{service.health_url}/health", timeout=10).json()
    assert health["state"] == "ready"
    reply = client_of(service).chat.completions.create(model="mock", messages=user("hi"))
    assert reply.choices[0].finish_reason == "stop"
    assert service.stop() == 0
    before, trace, after = service.output.partition("Traceback")
    assert not trace, before[-300:] + trace + after[:6000]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "mock: tokens=9 error_after=3"}]}),
        ("/v1/completions", {"prompt": "mock: tokens=9 error_after=3"}),
        ("/v1/responses", {"input": "mock: tokens=9 error_after=3"}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "mock: error_after=3"}]}),
    ],
)
def test_connection_of_a_stream_that_failed_serves_the_next_request(
    mock_service: ServiceProcess, path: str, body: dict[str, Any]
) -> None:
    """Clients pool connections; one that is closed without a word fails the next request."""
    connection = http.client.HTTPConnection("127.0.0.1", mock_service.port, timeout=30)
    connection.connect()
    connection.auto_open = 0  # a connection that was lost is an error
    headers = {"Authorization": f"Bearer {mock_service.key}", "Content-Type": "application/json"}
    for _ in range(5):
        connection.request("POST", path, json.dumps({**body, "stream": True}), headers)
        reply = connection.getresponse()
        assert reply.status == 200
        assert b'"error"' in reply.read()
        assert not reply.will_close
    connection.close()
