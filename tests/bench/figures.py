"""PURE. Arithmetic of the bench: medians, percentiles, ratios of rounds, and the goals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

__all__ = [
    "Goal",
    "Rounds",
    "Sample",
    "cost",
    "goals",
    "middle",
    "percentile",
    "ratio",
    "share",
    "verdict",
]

_MIB = 1 << 20


def _no_times() -> dict[str, float]:
    return {"p50": 0.0, "p99": 0.0}


@dataclass(frozen=True, slots=True)
class Sample:
    """One door, one workload, one round.

    Attributes:
        count: Answers or events, whichever the cost is divided by.
        events: Events of one answer.
        wall_s: Time that was measured.
        cpu_s: CPU time by process: ``proxy``, ``engine`` and ``generator``.
        waited_s: How long the proxy could have run, but another program had its core.
        rss_before, rss_during: The proxy's memory in bytes before the first connection was opened,
            and while all were busy (or idle, where that is measured).
        connections: How many there were.
        took_ms, first_ms, gap_ms: p50 and p99 of whole answers, of the time to the first event and
            of the gaps between two pieces of a stream.
        failed: Answers that were wrong or missing.
        errors: What some of them were.
    """

    count: int
    wall_s: float
    cpu_s: Mapping[str, float]
    waited_s: float = 0.0
    events: int = 1
    connections: int = 0
    rss_before: int = 0
    rss_during: int = 0
    took_ms: Mapping[str, float] = field(default_factory=_no_times)
    first_ms: Mapping[str, float] = field(default_factory=_no_times)
    gap_ms: Mapping[str, float] = field(default_factory=_no_times)
    failed: int = 0
    errors: Sequence[str] = ()

    @property
    def us(self) -> float:
        """The proxy's CPU time for one request or event, in microseconds."""
        return 1e6 * self.cpu_s["proxy"] / self.count if self.count else 0.0

    @property
    def per_s(self) -> float:
        """Requests or events a second."""
        return self.count / self.wall_s

    def share(self, process: str) -> float:
        """How much of one core a process used."""
        return self.cpu_s[process] / self.wall_s

    @property
    def waited(self) -> float:
        """How much of its own time and of its waiting the proxy spent waiting for its core."""
        wanted_s = self.waited_s + self.cpu_s["proxy"]
        return self.waited_s / wanted_s if wanted_s else 0.0

    @property
    def rss_each(self) -> float:
        """Bytes that one more connection, with what goes over it, added to the proxy's memory."""
        return (self.rss_during - self.rss_before) / max(self.connections, 1)


Rounds = Mapping[str, Mapping[str, Sequence[Sample]]]
"""Samples by workload and door, in the order of the rounds."""


def percentile(values: Sequence[float], percent: int) -> float:
    """By interpolation between neighbours; 0 for no values."""
    if not values:
        return 0.0
    ordered = sorted(values)
    at = (len(ordered) - 1) * percent / 100
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def middle(values: Sequence[float]) -> float | None:
    """The median; None for no values."""
    return median(values) if values else None


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """The median of the rounds' ratios: a slow moment of the machine hits both sides of one.

    Args:
        ours: One figure for each round.
        theirs: The same rounds' figures to compare with; rounds where that is 0 are left out.
    """
    return middle([mine / other for mine, other in zip(ours, theirs, strict=True) if other > 0])


def cost(samples: Sequence[Sample]) -> float | None:
    """Median CPU time for one request or event, in microseconds."""
    return middle([sample.us for sample in samples])


def share(samples: Sequence[Sample], process: str) -> float | None:
    """Median share of one core."""
    return middle([sample.share(process) for sample in samples])


# --- goals


@dataclass(frozen=True, slots=True)
class Goal:
    """What was aimed at and what came out.

    Attributes:
        name: What it is about.
        figure: What was measured; None when it was not.
        unit: Of all figures here; may be empty.
        goal: Most that it may be.
        acceptable: Most that may be accepted; the goal itself where nothing else was said.
    """

    name: str
    figure: float | None
    unit: str
    goal: float
    acceptable: float

    @property
    def verdict(self) -> str:
        """See `verdict`."""
        return verdict(self.figure, self.goal, self.acceptable)


def verdict(figure: float | None, goal: float, acceptable: float) -> str:
    """``met``, ``acceptable``, ``missed``, or ``not measured``."""
    if figure is None:
        return "not measured"
    if figure <= goal:
        return "met"
    return "acceptable" if figure <= acceptable else "missed"


def goals(rounds: Rounds) -> list[Goal]:
    """Every goal, with what was measured of it."""
    return [*_cost_goals(rounds), *_time_goals(rounds), *_rest_goals(rounds)]


def _cost_goals(rounds: Rounds) -> Iterator[Goal]:
    name = "CPU of a small embeddings request, against nginx"
    yield Goal(name, _against_nginx(rounds, "embeddings"), "x", 2.5, 4.0)
    for streams in (16, 64, 256):
        name = f"CPU of a paced event at {streams} streams, against nginx"
        yield Goal(name, _against_nginx(rounds, f"streams{streams}"), "x", 1.2, 1.5)
    name = "CPU of an assembled event, against one passed through"
    yield Goal(f"{name} (at once)", _assembled(rounds, "chats", "burst32"), "x", 3.0, 3.0)
    yield Goal(f"{name} (paced)", _assembled(rounds, "chats_paced", "streams64"), "x", 3.0, 3.0)


def _time_goals(rounds: Rounds) -> Iterator[Goal]:
    for part, most_ms in (("p50", 0.5), ("p99", 3.0)):
        added_ms = _added_ms(rounds, "streams256", part)
        yield Goal(
            f"added time to the first event at 256, {part}", added_ms, "ms", most_ms, most_ms
        )


def _rest_goals(rounds: Rounds) -> Iterator[Goal]:
    opened, rest = _of(rounds, "open", "gateway"), _of(rounds, "rest", "gateway")
    each_kib = middle([sample.rss_each / 1024 for sample in opened])
    yield Goal("memory of an open stream, of 256", each_kib, "KiB", 60.0, 60.0)
    rest_mib = middle([sample.rss_during / _MIB for sample in rest])
    yield Goal("memory at rest", rest_mib, "MiB", 90.0, 90.0)
    percent = middle([100 * sample.share("proxy") for sample in rest])
    yield Goal("CPU at rest", percent, "% of a core", 0.5, 0.5)


def _of(rounds: Rounds, workload: str, door: str) -> Sequence[Sample]:
    return rounds.get(workload, {}).get(door, ())


def _against_nginx(rounds: Rounds, workload: str) -> float | None:
    ours, theirs = _of(rounds, workload, "gateway"), _of(rounds, workload, "nginx")
    if len(ours) != len(theirs):
        return None
    return ratio([one.us for one in ours], [one.us for one in theirs])


def _assembled(rounds: Rounds, whole: str, streamed: str) -> float | None:
    ours, theirs = _of(rounds, whole, "gateway"), _of(rounds, streamed, "gateway")
    if len(ours) != len(theirs):
        return None
    return ratio([one.us / one.events for one in ours], [one.us for one in theirs])


def _added_ms(rounds: Rounds, workload: str, part: str) -> float | None:
    """How much later than without a proxy the first event comes, as the median of the rounds."""
    ours, bare = _of(rounds, workload, "gateway"), _of(rounds, workload, "direct")
    if len(ours) != len(bare):
        return None
    pairs = zip(ours, bare, strict=True)
    return middle([mine.first_ms[part] - other.first_ms[part] for mine, other in pairs])
