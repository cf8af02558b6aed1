"""PURE. Rounds -> percentiles, rates, failures by kind, ratios.

Rules:
- only whole answers have times and tokens; a failure is counted and nothing else;
- the percentiles of the rounds of one level are taken over all of its answers, not averaged;
- tokens a second in total are the tokens of whole answers in the time that the level took, from
  the first request to the end of the last answer, so a slow last one counts;
- a level that was refused for now (429, 503) has no such rate: waits are not the endpoint's speed;
- times between tokens, and rates of one stream, are there if at least half of the answers have
  them: few that happened to come in two pieces say nothing of a server that sends all at once.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from .samples import Failure, Round, Sample

__all__ = ["EndpointFigures", "LevelFigures", "Ratio", "Run", "Spread", "level_figures", "ratios"]

CountedBy = Literal["usage", "events", "mixed"]


@dataclass(frozen=True, slots=True)
class Spread:
    """How a number is distributed; percentiles are interpolated between the nearest two."""

    count: int
    mean: float
    min: float
    p1: float
    p5: float
    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """None if there are no values."""
        ordered = sorted(values)
        if not ordered:
            return None
        return cls(
            count=len(ordered),
            mean=sum(ordered) / len(ordered),
            min=ordered[0],
            p1=percentile(ordered, 0.01),
            p5=percentile(ordered, 0.05),
            p50=percentile(ordered, 0.5),
            p95=percentile(ordered, 0.95),
            p99=percentile(ordered, 0.99),
            max=ordered[-1],
        )


def percentile(ordered: Sequence[float], part: float) -> float:
    """The value below which *part* (0 to 1) of the *ordered* values lie; at least one value."""
    place = part * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclass(frozen=True, slots=True)
class LevelFigures:
    """One endpoint with so many streams side by side. Times in seconds."""

    streams: int
    requests: int
    succeeded: int
    failures: dict[str, int]
    """Kind -> count, the most frequent first."""
    examples: dict[str, str]
    """Kind -> what the first of them was told."""
    unfinished: int
    """Requests under way when the run was ended; neither good nor bad."""
    refusals: int
    refused_wait_s: float
    gave_up: bool
    wall_s: float
    client_cpu_share: float
    """Of one core, while this level ran."""
    counted_by: CountedBy | None
    tokens: int
    prompt_tokens: int | None
    """The middle of what the server counted."""
    ttft_s: Spread | None
    gap_s: Spread | None
    latency_s: Spread | None
    stream_rate: Spread | None
    """Tokens a second of one stream once it had begun."""
    ttfts_s: tuple[float, ...]
    """All of them, in order of size."""
    timed: int
    """Answers with time between their tokens; the others came in one piece."""

    @property
    def failed(self) -> int:
        """Requests without a whole answer."""
        return sum(self.failures.values())

    @property
    def limited(self) -> bool:
        """Whether waits for a limit are in the time that the level took."""
        return self.refusals > 0

    @property
    def in_pieces(self) -> bool:
        """Whether enough answers came token by token for times between tokens to mean something."""
        return 2 * self.timed >= self.succeeded

    @property
    def total_rate(self) -> float | None:
        """Tokens a second of all streams together; None if `limited`."""
        return self._per_second(self.tokens)

    @property
    def request_rate(self) -> float | None:
        """Whole answers a second; None if `limited`."""
        return self._per_second(self.succeeded)

    def _per_second(self, count: int) -> float | None:
        if self.limited:
            return None
        return count / self.wall_s if self.wall_s else 0.0


def level_figures(streams: int, rounds: Sequence[Round]) -> LevelFigures:
    """Take the *rounds* of one level together."""
    samples = [sample for each in rounds for sample in each.samples]
    failures = [failure for each in rounds for failure in each.failures]
    started = sum(each.started for each in rounds)
    wall_s = sum(each.wall_s for each in rounds)
    rates = [rate for each in samples if (rate := each.rate) is not None]
    in_pieces = 2 * len(rates) >= len(samples)
    gaps = array("d")
    for sample in samples if in_pieces else ():
        gaps.extend(sample.gaps_s)
    prompts = Spread.of(each.prompt_tokens for each in samples if each.prompt_tokens is not None)
    return LevelFigures(
        streams=streams,
        requests=started,
        succeeded=len(samples),
        failures=dict(Counter(failure.kind for failure in failures).most_common()),
        examples=_examples(failures),
        unfinished=started - len(samples) - len(failures),
        refusals=sum(each.refusals.count for each in rounds),
        refused_wait_s=sum(each.refusals.waited_s for each in rounds),
        gave_up=any(each.gave_up for each in rounds),
        wall_s=wall_s,
        client_cpu_share=sum(each.client_cpu_s for each in rounds) / wall_s if wall_s else 0.0,
        counted_by=_counted_by(samples),
        tokens=sum(sample.tokens for sample in samples),
        prompt_tokens=round(prompts.p50) if prompts else None,
        ttft_s=Spread.of(sample.ttft_s for sample in samples),
        gap_s=Spread.of(gaps),
        latency_s=Spread.of(sample.latency_s for sample in samples),
        stream_rate=Spread.of(rates if in_pieces else ()),
        ttfts_s=tuple(sorted(sample.ttft_s for sample in samples)),
        timed=len(rates),
    )


def _examples(failures: Iterable[Failure]) -> dict[str, str]:
    found: dict[str, str] = {}
    for failure in failures:
        if failure.detail:
            found.setdefault(failure.kind, failure.detail)
    return found


def _counted_by(samples: Sequence[Sample]) -> CountedBy | None:
    ways = {sample.from_usage for sample in samples}
    if not ways:
        return None
    if len(ways) == 2:
        return "mixed"
    return "usage" if True in ways else "events"


@dataclass(frozen=True, slots=True)
class EndpointFigures:
    """One endpoint, level by level; levels of which nothing was started are missing."""

    base_url: str
    model: str
    levels: tuple[LevelFigures, ...]

    @property
    def requests(self) -> int:
        """Requests that came to an end, good or bad."""
        return sum(level.succeeded + level.failed for level in self.levels)

    @property
    def failed_share(self) -> float:
        """Of the requests that came to an end; 1 if none did."""
        failed = sum(level.failed for level in self.levels)
        return failed / self.requests if self.requests else 1.0


@dataclass(frozen=True, slots=True)
class Run:
    """All that was measured; the second endpoint is the one that was compared with."""

    endpoints: tuple[EndpointFigures, ...]
    ended_by: Literal["interrupt", "budget"] | None
    """What ended it early; None if all of the plan was done."""
    took_s: float

    def good(self, failures_allowed: float) -> bool:
        """Whether every endpoint answered, and no more than a share of requests (0 to 1) failed."""
        return all(
            any(level.succeeded for level in each.levels) and each.failed_share <= failures_allowed
            for each in self.endpoints
        )


@dataclass(frozen=True, slots=True)
class Ratio:
    """The first endpoint against the second at one level. None: one of them has no number."""

    streams: int
    ttft_p50: float | None
    ttft_p50_added_s: float | None
    ttft_p99_added_s: float | None
    gap_p50: float | None
    gap_p99: float | None
    latency_p50: float | None
    stream_rate: float | None
    total_rate: float | None
    limited: bool
    """Whether that is why `total_rate` is None."""


def ratios(run: Run) -> list[Ratio]:
    """First divided by second, for the levels that both have; empty without a second."""
    if len(run.endpoints) < 2:
        return []
    first, second = run.endpoints
    others = {level.streams: level for level in second.levels}
    pairs = [(a, others[a.streams]) for a in first.levels if a.streams in others]
    return [_ratio(a, b) for a, b in pairs]


def _ratio(a: LevelFigures, b: LevelFigures) -> Ratio:
    return Ratio(
        streams=a.streams,
        ttft_p50=_by_p50(a.ttft_s, b.ttft_s),
        ttft_p50_added_s=a.ttft_s.p50 - b.ttft_s.p50 if a.ttft_s and b.ttft_s else None,
        ttft_p99_added_s=a.ttft_s.p99 - b.ttft_s.p99 if a.ttft_s and b.ttft_s else None,
        gap_p50=_by_p50(a.gap_s, b.gap_s),
        gap_p99=_divide(a.gap_s.p99, b.gap_s.p99) if a.gap_s and b.gap_s else None,
        latency_p50=_by_p50(a.latency_s, b.latency_s),
        stream_rate=_by_p50(a.stream_rate, b.stream_rate),
        total_rate=_divide(a.total_rate, b.total_rate),
        limited=a.limited or b.limited,
    )


def _by_p50(a: Spread | None, b: Spread | None) -> float | None:
    return _divide(a.p50, b.p50) if a and b else None


def _divide(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None
