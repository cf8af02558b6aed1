"""What one request to a service led to: the reply, and what the engine behind it was sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from tests.support.service import ServiceProcess

__all__ = ["ABSENT", "Asker", "Outcome", "assert_refused", "picked"]

ABSENT = "(absent)"
"""Stands for a key that the engine was not sent."""

_ASKED_AS = {
    **dict.fromkeys(("/v1/responses", "/v1/messages"), "/v1/chat/completions"),
    **dict.fromkeys(
        ("/v1/responses/input_tokens", "/v1/messages/count_tokens"),
        "/v1/chat/completions/input_tokens",
    ),
}
"""The engine's path for those paths that it does not have, or that we do not use."""


@dataclass(frozen=True)
class Outcome:
    """One reply, and what the engine was sent for it."""

    reply: httpx.Response
    requests: tuple[dict[str, Any], ...]
    """All that the engine was sent meanwhile, as the mock tells it."""
    sent: dict[str, Any] | None
    """The body of the one on the path that the engine is asked on; None when there was none."""

    @property
    def error(self) -> dict[str, Any]:
        """The error object of a refusal."""
        value = self.reply.json()["error"]
        assert isinstance(value, dict)
        return value

    @property
    def ignored(self) -> str:
        """What the reply says was ignored; empty for nothing."""
        return self.reply.headers.get("x-ignored-params", "")


class Asker:
    """Sends requests with a service's key, one after another, and watches its mock engine."""

    def __init__(self, service: ServiceProcess) -> None:
        self._key = service.key
        self._client = httpx.Client(base_url=service.url, timeout=30)
        transport = httpx.HTTPTransport(uds=service.engine_socket)
        self._engine = httpx.Client(transport=transport, base_url="http://engine", timeout=30)
        self._seen = self._count()[0]

    def __call__(
        self,
        path: str,
        body: Any = None,
        *,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        content: bytes | Iterable[bytes] | None = None,
        key: bool = True,
    ) -> Outcome:
        """Send one request; *body* as JSON, unless *content* is given."""
        head = dict(headers or {})
        if key:
            head["authorization"] = f"Bearer {self._key}"
        if body is None:
            reply = self._client.request(method, path, headers=head, content=content)
        else:
            reply = self._client.request(method, path, headers=head, json=body)
        seen, last = self._count()
        new = seen - self._seen
        self._seen = seen
        found = tuple(last[len(last) - new :])
        public = path.partition("?")[0]
        asked = _ASKED_AS.get(public, public)
        own = [each["body"] for each in found if each["path"] == asked]
        return Outcome(reply, found, own[-1] if own else None)

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()
        self._engine.close()

    def _count(self) -> tuple[int, list[dict[str, Any]]]:
        """How many requests for work the engine got so far, and those that came last."""
        stats = self._engine.get("/mock/stats").json()
        paths = stats["paths"].items()
        count = sum(number for path, number in paths if path.startswith("POST "))
        return count, [each for each in stats["last"] if each["method"] == "POST"]


def picked(sent: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """Of *sent* the keys that *like* has."""
    return {name: sent.get(name, ABSENT) for name in like}


def assert_refused(outcome: Outcome, status: int, code: str, param: str | None = None) -> None:
    """It was refused here: in our shape, without a retry, and without asking the engine."""
    assert (outcome.reply.status_code, outcome.error["code"]) == (status, code)
    assert outcome.error["param"] == param
    assert outcome.error["retryable"] is False
    assert outcome.reply.headers["x-should-retry"] == "false"
    assert outcome.requests == ()
