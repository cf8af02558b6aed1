"""PURE. One request and its outcome; what one round of requests saw."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from .stream import StreamWatch

__all__ = ["Failure", "Refusals", "Round", "Sample"]


@dataclass(slots=True)
class Refusals:
    """Times a request was told to come back, and did."""

    count: int = 0
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """A whole answer. Times count from the sending of the request that was taken."""

    ttft_s: float
    """To the first event with text in it."""
    latency_s: float
    gaps_s: array[float]
    """Between events with text."""
    tokens: int
    prompt_tokens: int | None
    from_usage: bool
    """Whether the server counted the tokens; else events were."""

    @property
    def rate(self) -> float | None:
        """Tokens a second once it had begun; None if all of it came at once."""
        spent_s = sum(self.gaps_s)
        return (self.tokens - 1) / spent_s if spent_s > 0 and self.tokens > 1 else None

    @classmethod
    def of(cls, watch: StreamWatch, ended_s: float) -> Sample:
        """The sample of an answer that is whole and has text."""
        assert watch.first_s is not None
        usage = watch.usage or {}
        prompt = usage.get("prompt_tokens")
        return cls(
            watch.first_s - watch.sent_s,
            ended_s - watch.sent_s,
            watch.gaps_s,
            watch.tokens,
            prompt if isinstance(prompt, int) else None,
            isinstance(usage.get("completion_tokens"), int),
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that got no whole answer: what kind of failure, and the server's words."""

    kind: str
    detail: str = ""


@dataclass(slots=True)
class Round:
    """Requests side by side against one endpoint, never more than a level's streams at a time."""

    started: int = 0
    samples: list[Sample] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    refusals: Refusals = field(default_factory=Refusals)
    wall_s: float = 0.0
    client_cpu_s: float = 0.0
    """Processor time of the program that measures."""
    gave_up: bool = False
    """Whether it ended early because nothing but failures came."""

    def note(self, outcome: Sample | Failure) -> None:
        """Count how a request ended."""
        if isinstance(outcome, Sample):
            self.samples.append(outcome)
        else:
            self.failures.append(outcome)
