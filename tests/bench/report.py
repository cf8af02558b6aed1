"""PURE. The table of the bench, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.bench.figures import (
    ENOUGH,
    Rounds,
    Sample,
    cost,
    disturbed,
    load_bound,
    middle,
    ratio,
    share,
)
from tests.bench.goals import Goal, goals
from tests.bench.workloads import Workload

__all__ = ["report"]

_COLUMNS = (
    "workload",
    "of",
    "nginx us",
    "gateway us",
    "ratio",
    "direct/s",
    "nginx/s",
    "gateway/s",
    "",
)
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
    bare_speed = _number(middle([one.per_s for one in bare]), 0)
    mark = "disturbed" if disturbed(doors) else ""
    return [
        _number(cost(theirs), 1),
        _number(cost(ours), 1),
        _number(times, 2),
        bare_speed,
        *(_speed(samples) for samples in (theirs, ours)),
        mark,
    ]


def _speed(samples: Sequence[Sample]) -> str:
    told = _number(middle([one.per_s for one in samples]), 0)
    return f">={told}" if load_bound(samples) else told


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
        [_percentile(bare, kind, part) for part in ("p50", "p99")]
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
        cells.append(" / ".join(_percentile(samples, kind, part) for part in ("p50", "p99")))
    return cells


def _percentile(samples: Sequence[Sample], kind: str, part: str) -> str:
    """The median of the rounds that have enough for it."""
    enough = ENOUGH if part == "p99" else 1
    found = [getattr(one, kind) for one in samples]
    return _number(middle([each[part] for each in found if each["n"] >= enough]), 2)


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
            goal.verdict + (" (disturbed)" if goal.disturbed else ""),
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


_PROCESSES = ("proxy", "generator", "engine")


def _waited(samples: Sequence[Sample]) -> str:
    return _percent(middle([sample.waited for sample in samples]))


def _disturbed(rounds: Rounds) -> str:
    """Says so when somebody else used the proxies' core: then the times are not the proxies'."""
    found = [name for name, doors in rounds.items() if disturbed(doors)]
    if not found:
        return ""
    return (
        "DISTURBED: other programs, or other machines on the same hardware, used the proxies'\n"
        "core. nginx or the gateway waited for it for more than a tenth of what it wanted in\n"
        f"{', '.join(found)}.\n"
        "Times and speeds tell nothing then, and CPU time tells too much."
    )


def _control(rounds: Rounds) -> str:
    """How it was checked that neither the generator nor the mock is what was measured."""
    lines = [_load_told(rounds)]
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


def _load_told(rounds: Rounds) -> str:
    bound = [
        f"{name} ({door})"
        for name, doors in rounds.items()
        for door in ("nginx", "gateway")
        if load_bound(doors.get(door, ()))
    ]
    if not bound:
        return (
            "No bottleneck: with a proxy, the generator and the mock engine had time left always."
        )
    return (
        "Load-bound: the generator and the mock engine used more than 90% of what they have in\n"
        f"{', '.join(bound)}.\n"
        "Speeds there (>=) are theirs, and the proxy could do as much or more. What is compared\n"
        "is CPU time of the proxy, and that stays what it is when it waits for its load."
    )


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
