"""PURE. What a stream of engine events says about tokens and time, added up over its choices.

llama-server reports per choice, never for the whole request: several choices give several reports.
A report is `usage` where it was asked for (always on text completions), `timings` otherwise; from
timings alone the prompt is `cache_n + prompt_n` and the answer `predicted_n`.

Choices of one prompt share that prompt, so it is counted once; with a list of prompts each prompt
counts. The engine numbers choices prompt by prompt: with `n` choices each, choice *i* answers
prompt *i // n*.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

__all__ = ["Tally", "Usage", "tokens_of_reply"]

_USAGE = b'"usage":{'
_TOTAL = re.compile(rb'"usage":\{[^{}]{0,256}?"total_tokens":([0-9]{1,15})')


@dataclass(slots=True)
class Usage:
    """Tokens of a whole reply; not changed once it is made."""

    prompt_tokens: int
    cached_tokens: int
    """Part of `prompt_tokens` that the engine still knew and did not compute again."""
    completion_tokens: int


class Tally:
    """
    Collects the reports of one reply.

    Args:
        choices: Answers in the reply, at least 1.
        prompts: Prompts they answer, at least 1; *choices* is a multiple of it.
    """

    __slots__ = ("_ended", "_per_prompt", "_timings", "_usage")

    def __init__(self, choices: int = 1, prompts: int = 1) -> None:
        self._per_prompt = max(1, choices // max(1, prompts))
        self._usage: dict[int, Usage] = {}
        self._timings: dict[int, dict[str, Any]] = {}
        self._ended = 0

    def add(self, event: dict[str, Any]) -> None:
        """Take one parsed event; of those without a report only the order matters."""
        choices = event.get("choices")
        if choices:
            index = choices[0].get("index")
            self._ended = index if isinstance(index, int) else 0
        # A usage event has no choices. The engine sends it right behind the event that ends its
        # choice, which is how it is told whose it is.
        if "timings" not in event and "usage" not in event:
            return
        timings = event.get("timings")
        if isinstance(timings, dict):
            self._timings[self._ended] = timings
        usage = event.get("usage")
        if isinstance(usage, dict):
            self._usage[self._ended] = _from_usage(usage)
        elif isinstance(timings, dict):
            self._usage[self._ended] = _from_timings(timings)

    def total(self) -> Usage | None:
        """The sum over all choices; `None` when nothing was reported."""
        if len(self._usage) < 2:  # as nearly always
            return next(iter(self._usage.values()), None)
        prompts: dict[int, Usage] = {}
        for index in sorted(self._usage):
            prompts.setdefault(index // self._per_prompt, self._usage[index])
        return Usage(
            prompt_tokens=sum(usage.prompt_tokens for usage in prompts.values()),
            cached_tokens=sum(usage.cached_tokens for usage in prompts.values()),
            completion_tokens=sum(usage.completion_tokens for usage in self._usage.values()),
        )

    @property
    def timings(self) -> dict[str, Any] | None:
        """The engine's own timings of the first choice, as the engine reports them unstreamed."""
        return self._timings[min(self._timings)] if self._timings else None

    def longest(self, name: str) -> float | None:
        """The largest value of one timing over all choices; they are worked on side by side."""
        longest: float | None = None
        for timings in self._timings.values():
            value = timings.get(name)
            if isinstance(value, int | float) and (longest is None or value > longest):
                longest = float(value)
        return longest

    def __repr__(self) -> str:
        return f"<Tally {len(self._usage)} reports, {self.total()}>"


def tokens_of_reply(body: bytes) -> int:
    """
    Tokens of a reply without generation: embeddings, ranks. 0 when it does not say.

    Megabytes of vectors are not parsed for one number; the engine writes JSON without spaces, and
    nothing of the request comes back in these replies.
    """
    at = body.find(_USAGE)
    while at >= 0:
        found = _TOTAL.match(body, at)
        if found is not None:
            return int(found[1])
        at = body.find(_USAGE, at + 1)
    return 0


def _integer(value: object) -> int:
    return value if isinstance(value, int) else 0


def _from_usage(usage: dict[str, Any]) -> Usage:
    details = usage.get("prompt_tokens_details")
    return Usage(
        prompt_tokens=_integer(usage.get("prompt_tokens")),
        cached_tokens=_integer(details.get("cached_tokens")) if isinstance(details, dict) else 0,
        completion_tokens=_integer(usage.get("completion_tokens")),
    )


def _from_timings(timings: dict[str, Any]) -> Usage:
    cached = _integer(timings.get("cache_n"))
    return Usage(
        prompt_tokens=cached + _integer(timings.get("prompt_n")),
        cached_tokens=cached,
        completion_tokens=_integer(timings.get("predicted_n")),
    )
