"""PURE. What is measured: requests and how many of them, for each workload of the bench."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["WORKLOADS", "Workload"]


@dataclass(frozen=True, slots=True)
class Workload:
    """One row of the table.

    Attributes:
        name: For ``--only``.
        service: Which of the services serves it: ``chat``, ``embeddings`` or ``keys``.
        kind: ``closed``, ``streams`` or ``idle``, as the generator knows them.
        unit: What its cost is divided by: ``request`` or ``event``.
        connections: How many there are at a time.
        tokens: Of each answer; 0 where there are none to speak of.
        pace_ms: From one token to the next; 0 for all at once.
        rounds: Streams one after another on each connection.
        seconds: How long the closed loop runs, or nothing is done.
        body_bytes: Size of the prompt.
        stream: Whether the answer is to be streamed.
        doors: Who is measured.
    """

    name: str
    service: str
    kind: str
    unit: str
    connections: int
    tokens: int = 0
    pace_ms: float = 0.0
    rounds: int = 1
    seconds: float = 2.0
    body_bytes: int = 0
    stream: bool = False
    doors: tuple[str, ...] = ("direct", "nginx", "gateway")


WORKLOADS = (
    Workload("embeddings", "embeddings", "closed", "request", 32),
    Workload("streams16", "chat", "streams", "event", 16, 100, 10, 2, stream=True),
    Workload("streams64", "chat", "streams", "event", 64, 100, 10, 2, stream=True),
    Workload("streams256", "chat", "streams", "event", 256, 100, 10, 3, stream=True),
)
