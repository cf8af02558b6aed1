"""PURE. The table of the bench, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.bench.figures import Goal, Rounds, Sample, cost, goals, middle, ratio, share
from tests.bench.workloads import Workload

__all__ = ["report"]

_COLUMNS = ("workload", "of", "nginx us", "gateway us", "ratio", "direct/s", "nginx/s", "gateway/s")
_KIB = 1024
_MIB = 1 << 20


def report(workloads: Sequence[Workload], rounds: Rounds, facts: Mapping[str, str]) -> str:
    """All tables.

    Args:
        workloads: What was asked for, in order.
        rounds: What was measured.
        facts: About the machine and the run, to be shown first.
    """
    parts = [
        "\n".join(f"{name}: {value}" for name, value in facts.items()),
        _costs(workloads, rounds),
        _delays(workloads, rounds),
        _memory(workloads, rounds),
        _goals(goals(rounds)),
        _bottleneck(workloads, rounds),
        _disturbed(rounds),
        _mistakes(rounds),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _costs(workloads: Sequence[Workload], rounds: Rounds) -> str:
    rows = [
        [w.about, w.unit, *_cost_cells(rounds.get(w.name, {}))]
        for w in workloads
        if w.unit and rounds.get(w.name)
    ]
    return _table("CPU of the proxy, median of the rounds", _COLUMNS, rows)


def _cost_cells(doors: Mapping[str, Sequence[Sample]]) -> list[str]:
    ours, theirs, bare = (doors.get(name, ()) for name in ("gateway", "nginx", "direct"))
    times = None
    if len(ours) == len(theirs):
        times = ratio([one.us for one in ours], [one.us for one in theirs])
    speeds = [middle([one.per_s for one in samples]) for samples in (bare, theirs, ours)]
    return [
        _number(cost(theirs), 1),
        _number(cost(ours), 1),
        _number(times, 2),
        *(_number(speed, 0) for speed in speeds),
    ]


def _delays(workloads: Sequence[Workload], rounds: Rounds) -> str:
    """Streams, their first events and their gaps; times of whole answers where none are paced."""
    rows: list[list[str]] = []
    for w in workloads:
        kind = "first_ms" if w.stream else "took_ms"
        if not w.unit or not rounds.get(w.name):
            continue
        rows.append([w.about, "first event" if w.stream else "answer", *_spread(rounds, w, kind)])
        if w.stream and w.pace_ms:
            rows.append(["", "gap", *_spread(rounds, w, "gap_ms")])
    columns = ("workload", "ms, p50 / p99", "direct", "nginx", "gateway")
    table = _table("Times that clients see", columns, rows)
    return "\n".join(part for part in (table, _noise(rounds)) if part)


def _noise(rounds: Rounds) -> str:
    """What the times hold that no proxy has added."""
    bare = rounds.get("streams256", {}).get("direct", ())
    if not bare:
        return ""
    first, gap = (
        [_number(middle([getattr(one, kind)[p] for one in bare]), 2) for p in ("p50", "p99")]
        for kind in ("first_ms", "gap_ms")
    )
    return (
        f"Noise: with no proxy at all the first event takes {first[0]} ms (p50) and {first[1]} ms\n"
        f"(p99) at 256 streams, and gaps of 10 ms become {gap[0]} ms and {gap[1]} ms: the mock's\n"
        "timers tick in milliseconds, and it shares its core with the generator. Times are taken\n"
        "with time.perf_counter (nanoseconds). A difference smaller than the noise says nothing."
    )


def _spread(rounds: Rounds, workload: Workload, kind: str) -> list[str]:
    cells = []
    for door in ("direct", "nginx", "gateway"):
        samples = rounds[workload.name].get(door, ())
        parts = [middle([getattr(one, kind)[p] for one in samples]) for p in ("p50", "p99")]
        cells.append(" / ".join(_number(part, 2) for part in parts))
    return cells


def _memory(workloads: Sequence[Workload], rounds: Rounds) -> str:
    rows = [
        [w.about, door, *_memory_cells(w, sample)]
        for w in workloads
        if w.fresh
        for door, samples in rounds.get(w.name, {}).items()
        for sample in samples
    ]
    columns = ("fresh service", "proxy", "before MiB", "during MiB", "each KiB", "CPU")
    return _table("Memory and CPU without load", columns, rows)


def _memory_cells(workload: Workload, sample: Sample) -> list[str]:
    each = sample.rss_each / _KIB if workload.connections else None
    cpu = f"{sample.share('proxy'):.2%}" if workload.kind == "idle" else "-"
    before, during = sample.rss_before / _MIB, sample.rss_during / _MIB
    return [_number(before, 1), _number(during, 1), _number(each, 1), cpu]


def _goals(found: Sequence[Goal]) -> str:
    rows = [
        [
            goal.name,
            f"{_number(goal.figure, 2)} {goal.unit if goal.figure is not None else ''}".strip(),
            f"{goal.goal:g}" + (f" ({goal.acceptable:g})" if goal.acceptable != goal.goal else ""),
            goal.verdict,
        ]
        for goal in found
    ]
    return _table("Goals", ("goal", "measured", "at most (acceptable)", "verdict"), rows)


def _bottleneck(workloads: Sequence[Workload], rounds: Rounds) -> str:
    rows = [
        [w.about, door, *(_percent(share(samples, name)) for name in _PROCESSES), _waited(samples)]
        for w in workloads
        if w.unit
        for door, samples in rounds.get(w.name, {}).items()
        if samples
    ]
    columns = ("workload", "door", *_PROCESSES, "proxy kept waiting")
    table = _table("Who was busy, of one core each", columns, rows)
    return f"{table}\n{_control(rounds)}" if table else ""


# A proxy that is alone on its core still waits for the kernel's own threads now and then.
_QUIET = 0.1
_PROCESSES = ("proxy", "generator", "engine")


def _waited(samples: Sequence[Sample]) -> str:
    return _percent(middle([sample.waited for sample in samples]))


def _disturbed(rounds: Rounds) -> str:
    """Says so when somebody else used the proxies' core: then the times are not the proxies'."""
    # The gateway's own threads wait for each other, too; nginx has but one.
    for door in ("nginx", "gateway"):
        usual = middle([one.waited for doors in rounds.values() for one in doors.get(door, ())])
        if usual is not None:
            break
    if usual is None or usual < _QUIET:
        return ""
    return (
        f"DISTURBED: other programs used the proxies' core. In half of the measurements {door}\n"
        f"had to wait for it for {usual:.0%} of the time that it wanted, or more. Times and\n"
        "speeds tell nothing then, and CPU time tells too much."
    )


def _control(rounds: Rounds) -> str:
    """How it was checked that neither the generator nor the mock is what was measured."""
    lines = [
        "No bottleneck: what is compared is CPU time, not speed, and the generator and the mock",
        "engine share a core that no proxy runs on, where there are two.",
    ]
    for door in ("nginx", "gateway"):
        full, half = (rounds.get(name, {}).get(door, ()) for name in ("embeddings", "control"))
        costs = cost(full), cost(half)
        if costs[0] and costs[1]:
            lines.append(
                f"With half the load (16 at a time for 32) a request costs {door} {costs[1]:.1f} us"
                f" for {costs[0]:.1f}: {costs[1] / costs[0] - 1:+.0%}."
            )
    bare = middle([one.per_s for one in rounds.get("embeddings", {}).get("direct", ())])
    if bare:
        lines.append(f"Without a proxy the same two made {bare:,.0f} embeddings a second.")
    return "\n".join(lines)


def _mistakes(rounds: Rounds) -> str:
    lines = [
        f"FAILED: {name} through {door}: {one.failed} answers, such as: {one.errors[0]}"
        for name, doors in rounds.items()
        for door, samples in doors.items()
        for one in samples
        if one.failed
    ]
    return "\n".join(lines)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Text to the left, and every column as wide as it needs; nothing for no rows."""
    if not rows:
        return ""
    lines = [list(columns), *map(list, rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    told = ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines]  # fmt: skip
    return "\n".join([title, told[0], "-" * len(told[0]), *told[1:]])
