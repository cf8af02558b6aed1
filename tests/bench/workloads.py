"""PURE. What is measured: the requests of each workload, and how many of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["EVERYBODY", "WARM_S", "WORKLOADS", "Workload", "planned_s", "quick", "request_of"]

EVERYBODY = ("direct", "nginx", "gateway")
_PROXIES = ("nginx", "gateway")
_SHORT_TEXT = "The quick brown fox jumps over the lazy dog. " * 3
_MIB = 1 << 20
WARM_S = 0.2
"""How long each load goes on before it is measured."""
_DIALLING_S = 0.15
_STARTING_S = 2.0


@dataclass(frozen=True, slots=True)
class Workload:
    """One row of the table.

    Attributes:
        name: For ``--only``.
        about: For the table.
        service: What serves it: ``chat``, ``embeddings`` or ``keys`` (one with 10,000 of them).
        kind: ``closed``, ``paced``, ``streams``, ``stampede`` or ``idle``: see `job.Job`.
        unit: What its cost is divided by: ``request``, ``stream``, ``event`` or nothing.
        connections: How many there are at a time.
        tokens: Of each answer; 0 where there are none to speak of.
        pace_ms: From one token to the next; 0 for all at once.
        seconds: How long it is measured.
        body_bytes: Size of the prompt.
        stream: Whether the answer is to be streamed.
        method: ``POST``, or ``GET`` for the list of models.
        status: What must be answered.
        rate: Requests a second for ``paced``, over all connections.
        doors: Who is measured.
        fresh: Whether it needs services that have served nothing yet; it is measured once then.
    """

    name: str
    about: str
    service: str
    kind: str
    unit: str
    connections: int
    tokens: int = 0
    pace_ms: float = 0.0
    seconds: float = 1.0
    body_bytes: int = 0
    stream: bool = False
    method: str = "POST"
    status: int = 200
    rate: float = 0.0
    doors: tuple[str, ...] = EVERYBODY
    fresh: bool = False

    @property
    def over_s(self) -> float:
        """Time over which the first requests are spread: that of an answer.

        Then answers do not go in step, and in the steady state one begins each time that another
        one ends.
        """
        return 0.0 if self.kind == "stampede" else self.tokens * self.pace_ms / 1000

    @property
    def lasts_s(self) -> float:
        """How long one measurement takes, about: with the streams that are to end after it."""
        ends_s = self.tokens * self.pace_ms / 1000 if self.stream else 0.0
        measured_s = 0.0 if self.kind == "stampede" else self.seconds
        # Fresh services are warmed up first with the same; thousands of connections take time.
        times = 1 if not self.fresh else 1.5
        dialling_s = _DIALLING_S + self.connections / 2000
        return times * (dialling_s + self.over_s + WARM_S + measured_s + ends_s)


def _paced(name: str, connections: int, doors: tuple[str, ...] = _PROXIES) -> Workload:
    about = f"{connections} streams, 100 tokens 10 ms apart"
    return Workload(
        name, about, "chat", "streams", "event", connections, 100, 10, seconds=2.0, stream=True,
        doors=doors,
    )  # fmt: skip


WORKLOADS = (
    Workload(
        "rest", "nothing to do", "chat", "idle", "", 0, seconds=5.0, doors=_PROXIES, fresh=True
    ),
    Workload(
        "open",
        "256 streams open, memory",
        "chat",
        "streams",
        "",
        256,
        100,
        10,
        seconds=0.2,
        stream=True,
        doors=_PROXIES,
        fresh=True,
    ),
    Workload(
        "idle",
        "4,096 idle connections",
        "embeddings",
        "idle",
        "",
        4096,
        seconds=3.0,
        doors=_PROXIES,
        fresh=True,
    ),
    Workload("embeddings", "small embeddings, 32 at a time", "embeddings", "closed", "request", 32),
    Workload(
        "embeddings_paced", "the same, 2,000 a second on 32", "embeddings", "paced", "request", 32,
        rate=2000.0, doors=_PROXIES,
    ),
    Workload(
        "control", "small embeddings, 16 at a time", "embeddings", "closed", "request", 16,
        seconds=0.6, doors=_PROXIES,
    ),
    _paced("streams16", 16),
    _paced("streams64", 64),
    _paced("streams256", 256, EVERYBODY),
    Workload(
        "stampede256", "256 streams at the same instant", "chat", "stampede", "stream", 256, 20, 10,
        stream=True,
    ),
    Workload(
        "burst", "streams of 100 tokens at once, 16", "chat", "streams", "event", 16, 100,
        stream=True,
    ),
    Workload(
        "burst32", "streams of 32 tokens at once, 16", "chat", "streams", "event", 16, 32,
        stream=True, doors=("gateway",),
    ),
    Workload(
        "chats", "chats of 32 tokens, not streamed, 16", "chat", "closed", "request", 16, 32,
        doors=_PROXIES,
    ),
    Workload(
        "chats_paced", "the same 10 ms apart, 64", "chat", "closed", "request", 64, 32, 10,
        doors=_PROXIES,
    ),
    Workload(
        "bodies", "prompts of 1 MB, 4 at a time", "chat", "closed", "request", 4,
        body_bytes=_MIB, doors=_PROXIES,
    ),
    Workload(
        "refused", "wrong keys beside 10,000, GET", "keys", "closed", "request", 32,
        method="GET", status=401, doors=_PROXIES,
    ),
    Workload(
        "refused_post", "the same with POST, which closes", "keys", "closed", "request", 32,
        status=401, doors=_PROXIES,
    ),
)  # fmt: skip


def quick(workload: Workload) -> Workload:
    """The same with less of it: to see that all works, not to be quoted."""
    return replace(
        workload,
        seconds=min(workload.seconds, 0.3),
        tokens=min(workload.tokens, 50),
    )


def planned_s(workloads: Sequence[Workload], rounds: int) -> float:
    """How long all of it takes, about, with the starts of services."""
    measured_s = sum(
        len(each.doors) * each.lasts_s * (1 if each.fresh else rounds) for each in workloads
    )
    services = {each.name if each.fresh else each.service for each in workloads}
    return measured_s + _STARTING_S * len(services)


def request_of(workload: Workload, key: str) -> str:
    """The request as it goes over the wire; all of it is ASCII."""
    path, body = _body_of(workload)
    data = json.dumps(body, separators=(",", ":")) if body else ""
    return (
        f"{workload.method} {path} HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\nAccept: */*\r\n"
        f"Content-Type: application/json\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Length: {len(data)}\r\n\r\n{data}"
    )


def _body_of(workload: Workload) -> tuple[str, dict[str, Any]]:
    if workload.method == "GET":
        return "/v1/models", {}
    if workload.service == "embeddings":
        return "/v1/embeddings", {"model": "bench", "input": _SHORT_TEXT}
    script = f"bench: events={workload.tokens or 1} pace_ms={workload.pace_ms:g} "
    prompt = script + (_SHORT_TEXT if not workload.body_bytes else _long(workload.body_bytes))
    body: dict[str, Any] = {
        "model": "bench",
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 512,
        "temperature": 0.7,
    }
    if workload.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return "/v1/chat/completions", body


def _long(size: int) -> str:
    return ("words of a long prompt " * (size // 23 + 1))[:size]
