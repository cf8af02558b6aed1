"""Clients of a running service, each with a key and books of its own."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import openai

from tests.support.service import ServiceProcess

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"

KeyTool = Callable[..., str]


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody with a key."""

    service: ServiceProcess
    secret: str

    @property
    def headers(self) -> dict[str, str]:
        """What proves who it is."""
        return {"Authorization": f"Bearer {self.secret}"}

    def post(
        self, body: dict[str, Any], path: str = CHAT, *, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """Send *body* and read the whole reply."""
        sent = {**self.headers, **(headers or {})}
        return httpx.post(f"{self.service.url}{path}", json=body, headers=sent, timeout=20)

    def chat(self, text: str = "hi", **fields: Any) -> httpx.Response:
        """Ask for a short answer, unless *fields* say otherwise; None leaves a field out."""
        return self.post(chat_body(text, **fields))

    @contextlib.contextmanager
    def streaming(self, text: str, **fields: Any) -> Iterator[tuple[httpx.Response, Iterator[str]]]:
        """A stream that has begun, and its data lines. Leaving the block hangs up."""
        url, body = f"{self.service.url}{CHAT}", chat_body(text, stream=True, **fields)
        with (
            httpx.Client(timeout=20) as client,
            client.stream("POST", url, json=body, headers=self.headers) as reply,
        ):
            assert reply.status_code == 200
            yield reply, (line for line in reply.iter_lines() if line.startswith("data:"))

    def key(self) -> dict[str, Any]:
        """What /info says of the key."""
        reply = httpx.get(f"{self.service.url}/info", headers=self.headers, timeout=10)
        key = reply.json()["key"]
        assert isinstance(key, dict)
        return key

    def idle_key(self) -> dict[str, Any]:
        """The same, once none of its requests is in progress."""
        until(lambda: self.key()["in_use"] == 0)
        return self.key()

    def sdk(self, **options: Any) -> openai.OpenAI:
        """OpenAI's client for it."""
        url = f"{self.service.url}/v1"
        return openai.OpenAI(base_url=url, api_key=self.secret, timeout=20, **options)


def chat_body(text: str, **fields: Any) -> dict[str, Any]:
    """A chat request of one message; `max_tokens` is 2 unless told otherwise."""
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 2, **fields}
    return {name: value for name, value in body.items() if value is not None}


def new_caller(service: ServiceProcess, key_tool: KeyTool, name: str, *limits: str) -> Caller:
    """Make a key with limits as `key_mgmt.py generate` takes them; returns once it is known."""
    keys = str(service.folder / "keys.yaml")
    secret = key_tool("--file", keys, "--quiet", "generate", name, *limits)
    service.wait_for("keys changed")
    return Caller(service, secret)


def told(reply: httpx.Response, what: str, unit: str) -> int:
    """The number of one of the `x-ratelimit-*` headers."""
    return int(reply.headers[f"x-ratelimit-{what}-{unit}"])


def error_code(reply: httpx.Response) -> str:
    """The code of an error reply."""
    code = reply.json()["error"]["code"]
    assert isinstance(code, str)
    return code


def wait_as_told(reply: httpx.Response) -> None:
    """Wait for exactly as long as a refusal says."""
    threading.Event().wait(int(reply.headers["retry-after-ms"]) / 1000)


def until(what: Callable[[], bool], timeout_s: float = 15.0) -> None:
    """Wait for something that nobody tells of."""
    deadline_s = time.monotonic() + timeout_s
    pause = threading.Event()
    while not what():
        assert time.monotonic() < deadline_s, "it did not come about"
        pause.wait(0.02)
