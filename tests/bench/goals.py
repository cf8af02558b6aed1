"""PURE. What the bench aims at, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.bench.figures import ENOUGH, Rounds, Sample, disturbed, middle, percentile, ratio

__all__ = ["Goal", "goals", "verdict"]

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Goal:
    """What was aimed at and what came out.

    Attributes:
        name: What it is about.
        figure: What was measured; None when it was not.
        unit: Of all figures here; may be empty.
        goal: Most that it may be.
        acceptable: Most that may be accepted; the goal itself where nothing else was said.
        disturbed: Whether other programs had a share in the figure.
    """

    name: str
    figure: float | None
    unit: str
    goal: float
    acceptable: float
    disturbed: bool = False

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
    for load, workload in (("at full speed", "embeddings"), ("at 2,000/s", "embeddings_paced")):
        times = _against_nginx(rounds, workload)
        yield Goal(f"{name} ({load})", times, "x", 2.5, 4.0, _disturbed(rounds, workload))
    for streams in (16, 64, 256):
        name, workload = f"CPU of a paced event at {streams} streams", f"streams{streams}"
        times = _against_nginx(rounds, workload)
        yield Goal(f"{name}, against nginx", times, "x", 1.2, 1.5, _disturbed(rounds, workload))
    name = "CPU of an assembled event, against one passed through"
    for load, whole, streamed in (
        ("at once", "chats", "burst32"),
        ("paced", "chats_paced", "streams64"),
    ):
        times = _assembled(rounds, whole, streamed)
        yield Goal(f"{name} ({load})", times, "x", 3.0, 3.0, _disturbed(rounds, whole, streamed))


def _time_goals(rounds: Rounds) -> Iterator[Goal]:
    workload = "streams256"
    name = "added time to the first event at 256"
    spoilt = _disturbed(rounds, workload)
    yield Goal(f"{name}, p50", _added_ms(rounds, workload), "ms", 0.5, 0.5, spoilt)
    yield Goal(f"{name}, p99", _added_late_ms(rounds, workload), "ms", 3.0, 3.0, spoilt)


def _rest_goals(rounds: Rounds) -> Iterator[Goal]:
    opened, rest = _of(rounds, "open", "gateway"), _of(rounds, "rest", "gateway")
    each_kib = middle([sample.rss_each / 1024 for sample in opened])
    yield Goal("memory of an open stream, of 256", each_kib, "KiB", 60.0, 60.0)
    rest_mib = middle([sample.rss_during / _MIB for sample in rest])
    yield Goal("memory at rest", rest_mib, "MiB", 90.0, 90.0)
    percent = middle([100 * sample.share("proxy") for sample in rest])
    spoilt = _disturbed(rounds, "rest")
    yield Goal("CPU at rest", percent, "% of a core", 0.5, 0.5, spoilt)


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


def _added_ms(rounds: Rounds, workload: str) -> float | None:
    """How much later than without a proxy the first event comes, as the median of the rounds."""
    ours, bare = _of(rounds, workload, "gateway"), _of(rounds, workload, "direct")
    if len(ours) != len(bare):
        return None
    pairs = zip(ours, bare, strict=True)
    return middle([mine.first_ms["p50"] - other.first_ms["p50"] for mine, other in pairs])


def _added_late_ms(rounds: Rounds, workload: str) -> float | None:
    """The same for the p99 of all rounds together: one round has too few for a p99 to be steady."""
    late: list[float] = []
    for door in ("gateway", "direct"):
        pooled = [first for one in _of(rounds, workload, door) for first in one.firsts_ms]
        if len(pooled) < ENOUGH:
            return None
        late.append(percentile(pooled, 99))
    return late[0] - late[1]


def _disturbed(rounds: Rounds, *workloads: str) -> bool:
    return any(disturbed(rounds.get(workload, {})) for workload in workloads)
