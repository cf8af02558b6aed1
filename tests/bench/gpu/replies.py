"""PURE: what is asked of both, and whether the answer is whole and as long as was asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Load", "begins_text", "body_of", "problem_of"]

TEMPLATE_TOKENS = 64
"""Room for what the chat template adds to a prompt; it is less than that."""

_DONE = b"data: [DONE]\n\n"
_TEXT = re.compile(rb'"content":\s*"[^"]')


@dataclass(frozen=True, slots=True)
class Load:
    """What one request asks for, in tokens."""

    prompt_tokens: int
    tokens: int

    @property
    def slot_tokens(self) -> int:
        """Context that one stream needs; llama-server rounds up to 256 itself."""
        return -(-(self.prompt_tokens + TEMPLATE_TOKENS + self.tokens) // 256) * 256


def body_of(load: Load, number: int) -> bytes:
    """The JSON of request *number*. No two prompts begin alike, so none is cached for another."""
    # One token for each letter, the first of which tell the number.
    letters = "".join(chr(ord("a") + int(digit)) for digit in f"{number:08d}")
    prompt = (letters + "k" * load.prompt_tokens)[: load.prompt_tokens]
    return json.dumps(
        {
            "model": "random",
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": load.tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()


def begins_text(body: bytes) -> bool:
    """Whether the first token is in what has come of a reply's body."""
    return _TEXT.search(body) is not None


def problem_of(status: int, body: bytes, load: Load) -> str | None:
    """Say what is wrong with a whole reply; None when it is exactly what was asked for."""
    if status != 200:
        return f"status {status}: {body[:300]!r}"
    if not body.endswith(_DONE):
        return f"the stream ends without [DONE]: {body[-300:]!r}"
    events = list(_events(body.removesuffix(_DONE)))
    usage = [event["usage"]["completion_tokens"] for event in events if event.get("usage")]
    if usage != [load.tokens]:
        return f"the stream tells of {usage} tokens, {load.tokens} were asked for"
    deltas = [choice["delta"] for event in events for choice in event.get("choices", ())]
    texts = sum(1 for delta in deltas if delta.get("content"))
    # The vocabulary gives each token text of its own.
    return None if texts == load.tokens else f"{texts} events with text for {load.tokens} tokens"


def _events(body: bytes) -> Iterator[Any]:
    for event in body.split(b"\n\n"):
        if event.startswith(b"data: "):  # else a comment, or nothing after the last one
            yield json.loads(event.removeprefix(b"data: "))
