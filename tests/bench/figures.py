"""PURE. Arithmetic of the bench: medians, percentiles, ratios of rounds, and who was busy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

__all__ = [
    "ENOUGH",
    "Rounds",
    "Sample",
    "cost",
    "disturbed",
    "load_bound",
    "middle",
    "percentile",
    "ratio",
    "share",
    "spread",
]

ENOUGH = 100
"""So many samples a p99 needs: of fewer it is nothing but the worst one."""
_QUIET = 0.1
"""A proxy that is alone on its core still waits for the kernel's own threads now and then."""
_BUSY = 0.9
"""Where the load has used up its core, but for the moments between two measurements."""


def _no_times() -> dict[str, float]:
    return {"p50": 0.0, "p99": 0.0, "n": 0}


@dataclass(frozen=True, slots=True)
class Sample:
    """One door, one workload, one round.

    Attributes:
        count: Answers or events, whichever the cost is divided by.
        events: Events of one answer.
        wall_s: Time that was measured.
        cpu_s: CPU time by process: ``proxy``, ``engine`` and ``generator``.
        waited_s: How long the proxy could have run, but another program had its core.
        stolen_s: How long its core was taken by another machine on the same hardware.
        load_cores: On how many cores the generator and the engine were, together.
        rss_before, rss_during: The proxy's memory in bytes before the first connection was opened,
            and while all were busy (or idle, where that is measured).
        connections: How many there were.
        took_ms, first_ms, gap_ms: p50 and p99 of whole answers, of the time to the first event and
            of the gaps between two pieces of a stream; ``n`` is of how many.
        firsts_ms: Every time to a first event, where a goal needs those of all rounds together.
        failed: Answers that were wrong or missing.
        errors: What some of them were.
    """

    count: int
    wall_s: float
    cpu_s: Mapping[str, float]
    waited_s: float = 0.0
    stolen_s: float = 0.0
    load_cores: int = 1
    events: int = 1
    connections: int = 0
    rss_before: int = 0
    rss_during: int = 0
    took_ms: Mapping[str, float] = field(default_factory=_no_times)
    first_ms: Mapping[str, float] = field(default_factory=_no_times)
    gap_ms: Mapping[str, float] = field(default_factory=_no_times)
    firsts_ms: Sequence[float] = ()
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
        """How much of the time for which it wanted its core the proxy did not have it."""
        lost_s = self.waited_s + self.stolen_s
        wanted_s = lost_s + self.cpu_s["proxy"]
        return lost_s / wanted_s if wanted_s else 0.0

    @property
    def load(self) -> float:
        """How much of what they could use the generator and the engine used; each is one thread."""
        used = [self.share("generator"), self.share("engine")]
        return sum(used) if self.load_cores == 1 else max(used)

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


def spread(values: Sequence[float]) -> dict[str, float]:
    """p50, p99 and the number of *values*."""
    return {"p50": percentile(values, 50), "p99": percentile(values, 99), "n": len(values)}


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


def disturbed(doors: Mapping[str, Sequence[Sample]]) -> bool:
    """Whether a proxy had to wait for its core for more than a tenth of what it wanted.

    Args:
        doors: One workload's. The median of the rounds counts, and the worse of the proxies.
    """
    usual = [middle([one.waited for one in samples]) for samples in doors.values()]
    return any(waited is not None and waited > _QUIET for waited in usual)


def load_bound(samples: Sequence[Sample]) -> bool:
    """Whether the speed is that of the generator and the mock: the proxy can do as much or more."""
    usual = middle([one.load for one in samples])
    return usual is not None and usual > _BUSY
