"""A client of a service for async tests, alone or behind a fake of a platform."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

CHAT = "/v1/chat/completions"
DONE = "data: [DONE]"


class AsyncCaller:
    """Somebody who sends chat requests to *base* with *headers*."""

    def __init__(self, base: str, headers: dict[str, str]) -> None:
        self._base = base
        self._headers = headers

    async def get(self, path: str) -> httpx.Response:
        """A GET with the same headers."""
        async with httpx.AsyncClient(timeout=20) as client:
            return await client.get(self._base + path, headers=self._headers)

    async def chat(self, text: str = "hi", **fields: Any) -> httpx.Response:
        """Ask, and read the whole reply; `max_tokens` is 2 unless told otherwise."""
        async with httpx.AsyncClient(timeout=20) as client:
            return await client.post(
                self._base + CHAT, json=_body(text, fields), headers=self._headers
            )

    @asynccontextmanager
    async def streaming(
        self, text: str, **fields: Any
    ) -> AsyncIterator[tuple[httpx.Response, AsyncIterator[str]]]:
        """A stream that has begun, and its lines that are not empty. Leaving hangs up."""
        body = _body(text, {"stream": True, **fields})
        async with (
            httpx.AsyncClient(timeout=20) as client,
            client.stream("POST", self._base + CHAT, json=body, headers=self._headers) as reply,
        ):
            yield reply, (line async for line in reply.aiter_lines() if line)

    async def stream(self, text: str, **fields: Any) -> list[str]:
        """All lines of a stream."""
        async with self.streaming(text, **fields) as (reply, lines):
            assert reply.status_code == 200, await reply.aread()
            return [line async for line in lines]

    async def broken_stream(self, text: str, **fields: Any) -> list[str]:
        """The lines of a stream that must break off."""
        got: list[str] = []
        try:
            async with self.streaming(text, **fields) as (_, lines):
                async for line in lines:
                    got.append(line)  # noqa: PERF401 - what came before the end is wanted
        except httpx.TransportError:
            return got
        raise AssertionError(f"the stream ended cleanly: {got[-3:]}")


def _body(text: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 2, **fields}


def contents(lines: list[str]) -> int:
    """How many events of a stream bring content."""
    count = 0
    for line in lines:
        if line.startswith("data: {"):
            for choice in json.loads(line.removeprefix("data: ")).get("choices", ()):
                count += bool(choice["delta"].get("content"))
    return count


def comments(lines: list[str]) -> list[str]:
    """The heartbeats and other comments among *lines*."""
    return [line for line in lines if line.startswith(":")]
