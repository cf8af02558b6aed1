"""What the mock has seen, for tests: ``GET /mock/stats``.

A query makes the answer wait until it is true: ``?active=0`` for equal, ``?requests_min=3`` for at
least. Connections that only ever asked for this page are not counted.
"""

import asyncio
import hashlib
from collections import Counter, deque
from typing import Any

import orjson

from backend.mock.http import Connection, Request
from backend.mock.slots import Slots

_KEPT_REQUESTS = 64


class Stats:
    """Counts, and the requests that came last."""

    def __init__(self) -> None:
        self.slots: Slots | None = None
        self.connections: set[Connection] = set()
        self.inspectors: set[Connection] = set()
        self.seen_connections = 0
        self.most_open = 0
        self.requests = 0
        self.finished = 0
        self.abandoned = 0
        self.tokens = 0
        self.paths: Counter[str] = Counter()
        self.last: deque[Request] = deque(maxlen=_KEPT_REQUESTS)
        self._waiters: list[tuple[dict[str, str], asyncio.Future[None]]] = []

    def note(self, request: Request) -> None:
        """Remember *request*."""
        self.requests += 1
        self.paths[f"{request.method} {request.path}"] += 1
        self.last.append(request)
        self.changed()

    def numbers(self) -> dict[str, int]:
        """What a query can wait for."""
        slots = self.slots
        return {
            "requests": self.requests,
            "finished": self.finished,
            "abandoned": self.abandoned,
            "active": slots.used if slots else 0,
            "waiting": slots.waiting if slots else 0,
            "max_active": slots.most_used if slots else 0,
            "open": len(self.connections),
            "max_open": self.most_open,
            "connections": self.seen_connections,
            "tokens": self.tokens,
        }

    def page(self) -> bytes:
        """Everything, as JSON."""
        last = [
            {
                "method": each.method,
                "path": each.path,
                "headers": each.headers,
                "body": _parsed(each.body),
                "sha256": hashlib.sha256(each.body).hexdigest(),
            }
            for each in self.last
        ]
        return orjson.dumps({**self.numbers(), "paths": dict(self.paths), "last": last})

    async def until(self, query: dict[str, str]) -> None:
        """Wait until every condition of *query* holds."""
        if self._holds(query):
            return
        future = asyncio.get_running_loop().create_future()
        entry = (query, future)
        self._waiters.append(entry)
        try:
            await future
        finally:
            self._waiters.remove(entry)

    def changed(self) -> None:
        """Look whether someone waits for what is true now."""
        for query, future in self._waiters:
            if not future.done() and self._holds(query):
                future.set_result(None)

    def _holds(self, query: dict[str, str]) -> bool:
        numbers = self.numbers()
        for name, value in query.items():
            if name.endswith("_min"):
                if numbers.get(name.removesuffix("_min"), 0) < int(value):
                    return False
            elif numbers.get(name) != int(value):
                return False
        return True


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body) if body else None
    except orjson.JSONDecodeError:
        return body.decode("utf-8", "replace")
