"""PURE. What is asked of which endpoint, and the bodies that are sent."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_WORDS = (
    *("the", "old", "river", "light", "stone", "house", "with", "no", "wind", "keep", "open"),
    *("green", "walk", "from", "small", "day", "red", "find", "that", "dark", "one", "will"),
)
_ORDER = "Tell a very long story, with these words in it:"
_WORDS_AROUND = 20
"""About what the order, the number before it and a chat template take."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to ask, and as whom. The key is in no ``repr``."""

    base_url: str
    """Without a slash at its end; what stands before ``/chat/completions``."""
    api_key: str = field(repr=False)
    model: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Sent with each request. Compressed events would arrive in lumps."""
        headers = {"Accept-Encoding": "identity"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return headers

    def hide(self, text: str) -> str:
        """*text* without the key, in case a server repeats it."""
        return text.replace(self.api_key, "***") if self.api_key else text


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run does. Times in seconds."""

    concurrency: tuple[int, ...] = (1, 4, 16)
    requests: int | None = None
    """At each level, of each endpoint; None: as `seconds` says, or four for each stream."""
    seconds: float | None = None
    rounds: int = 1
    max_tokens: int = 128
    prompt_tokens: int = 64
    prompt: str | None = None
    """Sent as it is each time, so that a server may know its beginning already."""
    extra: dict[str, Any] = field(default_factory=dict)
    timeout_s: float = 120.0
    budget_s: float = 900.0

    def requests_at(self, streams: int) -> int | None:
        """Requests of one endpoint at a level, never fewer than streams; None: time decides."""
        if self.requests is None:
            return None if self.seconds else 4 * streams * self.rounds
        return max(self.requests, streams * self.rounds)

    def share(self, total: int, number: int) -> int:
        """How many of *total* requests fall to round *number*, from 0."""
        return total // self.rounds + (number < total % self.rounds)


def endpoint_url(given: str) -> str:
    """
    The URL before ``/chat/completions``; one without a path gets ``/v1``.

    Raises:
        ValueError: It is no http(s) URL, or one that carries a password, which would be printed.
    """
    parts = urlsplit(given)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must look like http://host:8000/v1")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("must have no user, query or fragment in it")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"


def prompt_text(plan: Plan, number: int, salt: str) -> str:
    """
    The user's message of request *number*.

    About ``plan.prompt_tokens`` tokens, most words being one. It begins as none before it did, so
    that a server cannot have its beginning in a cache.
    """
    if plan.prompt is not None:
        return plan.prompt
    choose = random.Random(number)
    words = choose.choices(_WORDS, k=max(plan.prompt_tokens - _WORDS_AROUND, 1))
    return f"{salt}-{number}. {_ORDER} {' '.join(words)}"


@dataclass(frozen=True, slots=True)
class Form:
    """What an endpoint wants to have in a body; found out before anything is measured."""

    model: str
    limit_field: str = "max_tokens"
    ask_usage: bool = True

    def body(self, plan: Plan, prompt: str, max_tokens: int) -> dict[str, Any]:
        """A streamed chat request."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            self.limit_field: max_tokens,
            "stream": True,
        }
        if self.ask_usage:
            body["stream_options"] = {"include_usage": True}
        return body | plan.extra

    def after(self, complaint: str) -> Form | None:
        """The form to try when a server refused this one; None if *complaint* is of other things.

        OpenAI's newer models want another name for the limit; old servers know no usage in streams.
        """
        if "max_completion_tokens" in complaint and self.limit_field == "max_tokens":
            return Form(self.model, "max_completion_tokens", self.ask_usage)
        if "stream_options" in complaint and self.ask_usage:
            return Form(self.model, self.limit_field, False)
        return None
